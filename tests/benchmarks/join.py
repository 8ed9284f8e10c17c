"""How many events a second one worker joins, from a log that is there before it starts.

    python -m tests.benchmarks.join [--quick] [--json FILE]

A log of impressions (10 items each) and clicks on half of them is written to Kafka first; then one worker is started
and timed from its first report of work to the moment all of it is joined: validated, joined, examples, counts of users
and items, state in the changelog, all in transactions. Rates count impressions and clicks.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from infra.settings import Settings
from streams import topics
from streams.health import read_health
from streams.kafka import producer
from streams.records import SCHEMA_VERSION, Event, Impression, Shown
from tests.benchmarks.report import Report, parse
from tests.stacks import running_stack, wait_until

SEED, USERS, ITEMS, SLATE = 3, 2_000, 5_000, 10
CONFIG = """
[streams.join]
window_s = 10.0
lateness_s = 1.0
"""


def write_log(settings: Settings, requests: int) -> int:
    """Writes the log, one request each ms of event time ending now; returns how many clicks are in it."""
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
            if n % 2:
                item = shown[chance.randrange(SLATE)].item
                click = Event(ts=ts + 1, user=user, item=item, kind="click", event_id=f"e{n}", request_id=request)
                out.send(topics.EVENTS, click, user)
                clicks += 1
        out.flush(120)
    return clicks


def timed(argv: list[str], log: Path, handled: Callable[[int], int], total: int) -> tuple[float, float]:
    """Runs a process until it has handled `total`: records/s from its first report on, CPU us a record, start apart."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        cpu = psutil.Process(process.pid)
        wait_until(lambda: process.poll() is not None or handled(process.pid) > 0, 120, "the first record is handled")
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2_000:])
        first, began_s, began_cpu_s = handled(process.pid), time.monotonic(), sum(cpu.cpu_times()[:2])
        wait_until(lambda: process.poll() is not None or handled(process.pid) >= total, 600, f"{total} are handled")
        took_s, cpu_s = time.monotonic() - began_s, sum(cpu.cpu_times()[:2]) - began_cpu_s
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2_000:])
        return (total - first) / took_s, 1e6 * cpu_s / (total - first)
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """Runs it and prints the figures."""
    options = parse(__doc__ or "")
    requests = 20_000 if options.quick else 150_000
    report = Report(
        "join",
        options,
        packages=("aiokafka", "msgspec"),
        sizes={"impressions": requests, "clicks": requests // 2, "items per impression": SLATE, "users": USERS},
        seeds=(SEED,),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "freshet.toml"
        config.write_text(CONFIG)
        with running_stack(folder / "stack", "kafka", config=config) as stack:
            total = requests + write_log(stack.settings, requests)
            health = folder / "worker.json"

            def joined(pid: int) -> int:
                word = read_health(health)
                if word is None or word.pid != pid:
                    return 0
                return int(word.values.get("join_impressions", 0)) + int(word.values.get("join_actions", 0))

            driver = [sys.executable, "-m", "tests.faults.worker_driver", str(stack.state.folder), "one", str(health)]
            rate, cpu_us = timed(driver, folder / "worker.log", joined, total)
    report.add("one worker", rate, "events/s", at_least=15_000, note="exactly once, all outputs")
    report.add("one worker, CPU", cpu_us, "us/event", note="the broker apart")
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
