"""How many events a second one worker joins, from a log that is there before it starts; and the same with others.

    python -m tests.benchmarks.join [--quick] [--json FILE] [--quix-python PATH] [--peers no]

A log of impressions (10 items each) and clicks on half of them is written to Kafka first; then one worker is started
and timed from its first report of work to the moment all of it is joined: validated, joined, examples of every item,
counts of users and items, state on disk and in the changelog, all in transactions. Rates count what comes in: each
impression and each click once, with every contender. The memory of a partition's state is bounded far below what is
held, so that the join spills.

The same log goes through the same join as one writes it on Faust's Tables (`peers.faust_join`: once with all its
examples, once with those of clicks alone) and on Quix Streams' state (`peers.quix_join`; needs `quixstreams`, which
may have an environment of its own: `--quix-python`). Peers deliver at least once, count no features and deduplicate
nothing. Peers too slow to see the end are timed for 30 s from their first record, which is where they are fastest:
Faust reads clicks ahead of impressions, and sends next to nothing before windows end.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import psutil

from infra.settings import Settings
from streams import topics
from streams.admin import admin
from streams.health import read_health
from streams.kafka import producer
from streams.records import SCHEMA_VERSION, Event, Impression, Shown
from tests.benchmarks.report import Report, parse
from tests.stacks import running_stack, wait_until

SEED, USERS, ITEMS, SLATE = 3, 20_000, 5_000, 10
MEMORY_MB = 64.0
PEER_S, PEER_STARTS = 30.0, 5
# Events a second: some starts of Faust go on at 20 to 40, others at thousands.
STALLED = 200.0
PEER_IMPRESSIONS = "peer-impressions"
CONFIG = f"""
[streams.join]
window_s = 10.0
lateness_s = 1.0

[streams.state]
memory_mb = {MEMORY_MB}
"""
ROOT = Path(__file__).resolve().parents[2]


def write_log(settings: Settings, requests: int, plain: bool) -> int:
    """Writes the log, one request each ms of event time ending now; returns how many clicks are in it.

    `plain`: also the impressions as the JSON that Quix Streams reads.
    """
    if plain:
        with admin(settings.kafka) as client:
            wanted = {"num_partitions": settings.kafka.partitions, "replication_factor": 1}
            client.create_topics({PEER_IMPRESSIONS: wanted})
    chance = random.Random(SEED)
    start_ms = time.time_ns() // 1_000_000 - requests
    clicks = 0
    with producer(settings.kafka, linger_ms=50) as out:
        for n in range(requests):
            user, ts = f"u{chance.randrange(USERS)}", start_ms + n
            picked = chance.sample(range(ITEMS), SLATE)
            shown = [Shown(f"i{item}", k, 0.5, 0.1, "retrieval", False, [0.0] * 7, ts) for k, item in enumerate(picked)]
            request = f"request-{n}"
            out.send(topics.IMPRESSIONS, Impression(SCHEMA_VERSION, request, ts, user, shown), user)
            if plain:
                value = {"request_id": request, "ts": ts, "user": user, "items": [one.item for one in shown]}
                out.send_bytes(PEER_IMPRESSIONS, msgspec.json.encode(value), user.encode())
            if n % 2:
                item = shown[chance.randrange(SLATE)].item
                click = Event(ts=ts + 1, user=user, item=item, kind="click", event_id=f"e{n}", request_id=request)
                out.send(topics.EVENTS, click, user)
                clicks += 1
        out.flush(120)
    return clicks


class Timed(msgspec.Struct):
    """What one contender did: events/s and CPU us an event from its first report on, the most memory that it held, and
    the last of its own figures."""

    rate: float
    cpu_us: float
    memory_bytes: int
    values: Mapping[str, float | int | str]


def timed(
    argv: list[str],
    log: Path,
    health: Path,
    handled: Callable[[Mapping[str, float | int | str]], int],
    total: int,
    most_s: float,
    env: dict[str, str] | None = None,
) -> Timed:
    """Runs a process until it has handled `total`, or for `most_s` from its first report on, which is not counted."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=os.environ | (env or {}), cwd=ROOT)
    peak = 0

    def now() -> int:
        nonlocal peak
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2_000:])
        peak = max(peak, cpu.memory_info().rss)
        word = read_health(health)
        return handled(word.values) if word is not None and word.pid == process.pid else 0

    try:
        cpu = psutil.Process(process.pid)
        wait_until(lambda: now() > 0, 120, "the first record is handled")
        first, began_s, began_cpu_s = now(), time.monotonic(), sum(cpu.cpu_times()[:2])

        def over() -> bool:
            past_s, done = time.monotonic() - began_s, now()
            return done >= total or past_s > most_s or (past_s > 5 and done - first < STALLED * past_s)

        wait_until(over, most_s + 10, f"{total} are handled")
        done = now() - first
        took_s, cpu_s = time.monotonic() - began_s, sum(cpu.cpu_times()[:2]) - began_cpu_s
        word = read_health(health)
        return Timed(done / took_s, 1e6 * cpu_s / max(done, 1), peak, word.values if word is not None else {})
    finally:
        process.kill()
        process.wait()


def peer_handled(values: Mapping[str, float | int | str]) -> int:
    """What a peer has taken in."""
    return int(values.get("impressions", 0)) + int(values.get("actions", 0))


def joined(values: Mapping[str, float | int | str]) -> int:
    """What the worker's join has taken in."""
    return int(values.get("join_impressions", 0)) + int(values.get("join_actions", 0))


def faust(folder: Path, broker: str, negatives: str, total: int) -> tuple[Timed | None, int]:
    """The join on Faust's Tables, None where no start of it went on, and how many stalled."""
    argv = [sys.executable, "-m", "faust", "-A", "tests.benchmarks.peers.faust_join", "-L", "uvloop"]
    argv += ["worker", "-l", "info", "--without-web"]
    for attempt in range(PEER_STARTS):
        mark = folder / f"faust-{negatives}-{attempt}"
        env = {
            "PEER_BROKER": broker,
            "PEER_HEALTH": f"{mark}.json",
            "PEER_FOLDER": str(mark),
            "PEER_NEGATIVES": negatives,
            "PEER_APP": mark.name,
        }
        peer = timed(argv, Path(f"{mark}.log"), Path(f"{mark}.json"), peer_handled, total, PEER_S, env)
        if peer.rate > STALLED:
            return peer, attempt
    return None, PEER_STARTS


def has_quix(python: str) -> bool:
    """Whether an interpreter has Quix Streams."""
    return subprocess.run([python, "-c", "import quixstreams"], capture_output=True, check=False).returncode == 0


def peers(report: Report, folder: Path, broker: str, total: int, ours: float, quix: str) -> None:
    """Measures the others on the same log; `ours` is the rate to compare with, `quix` the interpreter that has it."""
    for title, negatives in (("all examples", "1"), ("examples of clicks alone", "0")):
        peer, stalled = faust(folder, broker, negatives, total)
        if stalled:
            report.note(f"Faust Tables, {title}: {stalled} starts crawled and do not count")
        if peer is None:
            continue
        sent = f"at least once; {peer.values.get('examples', 0)} examples sent when timed"
        report.add(f"Faust Tables, {title}", peer.rate, "events/s", note=sent)
        report.add(f"Faust Tables, {title}: CPU", peer.cpu_us, "us/event")
        report.add(f"one worker : Faust Tables, {title}", ours / peer.rate, "x", at_least=4)
    if has_quix(quix):
        health = folder / "quix.json"
        program = str(ROOT / "tests/benchmarks/peers/quix_join.py")
        argv = [quix, program, broker, str(health), str(folder / "quix")]
        peer = timed(argv, folder / "quix.log", health, peer_handled, total, PEER_S)
        report.add("Quix Streams, state, examples of clicks alone", peer.rate, "events/s", note="at least once")
        report.add("Quix Streams: CPU", peer.cpu_us, "us/event")
        report.add("one worker : Quix Streams", ours / peer.rate, "x")
    else:
        report.note("Quix Streams was not measured: `quixstreams` is not installed (see --quix-python)")


def main() -> int:
    """Runs it and prints the figures."""
    extra = {
        "quix-python": "the interpreter that has quixstreams; this one by default",
        "peers": "no: measure freshet alone",
    }
    options = parse(__doc__ or "", extra=extra)
    requests = 20_000 if options.quick else 200_000
    quix = options.extra.get("quix-python", sys.executable)
    report = Report(
        "join",
        options,
        packages=("aiokafka", "msgspec", "rocksdict", "faust-streaming"),
        sizes={
            "impressions": requests,
            "clicks": requests // 2,
            "items per impression": SLATE,
            "users": USERS,
            "memory of a partition's state, MiB": MEMORY_MB,
        },
        seeds=(SEED,),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "freshet.toml"
        config.write_text(CONFIG)
        with running_stack(folder / "stack", "kafka", config=config) as stack:
            broker = stack.settings.kafka.bootstrap
            total = requests + write_log(stack.settings, requests, options.extra.get("peers") != "no")
            worker = [sys.executable, "-m", "infra.process", "worker", "--settings", str(stack.state.resolved)]
            ours = timed(worker, folder / "worker.log", stack.state.health("worker"), joined, total, 300.0)
            report.add("one worker", ours.rate, "events/s", at_least=15_000, note="exactly once, all outputs")
            report.add("one worker, CPU", ours.cpu_us, "us/event", note="the broker apart")
            held = int(ours.values.get("join_held", 0))
            cached_mb = float(ours.values.get("join_cached_bytes", 0)) / 2**20
            disk_mb = float(ours.values.get("join_disk_bytes", 0)) / 2**20
            bound_mb = MEMORY_MB / 2 * stack.settings.kafka.partitions
            report.add("one worker, memory", ours.memory_bytes / 2**20, "MiB", note="the most, all of the process")
            report.add("join state in memory", cached_mb, "MiB", at_most=bound_mb, note="both partitions'")
            report.add("join state on disk", disk_mb, "MiB", note=f"compressed; {held} impressions held")
            if options.extra.get("peers") != "no":
                peers(report, folder, broker, total, ours.rate, quix)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
