"""The worker is killed with -9, again and again: every example is given once, and is the one that it should be."""

import logging
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import pytest

from infra.settings import Settings, load
from streams import topics
from streams.changelog import META, Meta
from streams.health import Health, read_health
from streams.kafka import Producer, producer
from streams.local_state import LocalState, Position
from streams.records import Event, Impression, Shown
from streams.reference import Expected
from streams.settings import KafkaSettings, StreamsSettings
from streams.topics import TOMBSTONES_MS
from streams.worker import run
from tests.emptied import on_kafka, stack_on
from tests.forked import Forked
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import joined_and_expected, read_all, wait_quiet

pytestmark = [pytest.mark.servers, pytest.mark.faults]

CONFIG = """
[streams.join]
window_s = 3.0
lateness_s = 1.0
idle_s = 0.5
negative_rate = 0.5
"""
# Far less than the state of this load, so that most of it is on disk alone.
SMALL_MEMORY = """
[streams.state]
memory_mb = 0.02
"""
ITEMS = 4


def send(out: Producer, chance: random.Random, first: int, last: int) -> None:
    """Requests and what users do with them: clicks and ratings, some twice, some overtaking, some without a request."""
    for n in range(first, last):
        user, request = f"u{chance.randrange(40)}", f"r{n}"
        now_ms = time.time_ns() // 1_000_000
        shown = [Shown(f"i{k}", k, 0.5, 0.25, "popular", False) for k in range(ITEMS)]
        impression = Impression(v=1, request_id=request, ts=now_ms, user=user, items=shown)
        acts = []
        if chance.random() < 0.5:
            item = f"i{chance.randrange(ITEMS + 1)}"
            acts.append(Event(ts=now_ms + 1, user=user, item=item, kind="click", event_id=f"c{n}", request_id=request))
        if chance.random() < 0.3:
            value = float(chance.randrange(1, 6))
            acts.append(Event(ts=now_ms + 2, user=user, item="i0", kind="rating", value=value, request_id=request))
        if chance.random() < 0.2:
            acts.append(Event(ts=now_ms, user=user, item="i9", kind="like", event_id=f"o{n}"))
        if acts and chance.random() < 0.2:
            acts.append(acts[0])
        if chance.random() < 0.5:
            acts.insert(0, impression)  # type: ignore[arg-type]
        else:
            acts.append(impression)  # type: ignore[arg-type]
        for one in acts:
            topic = topics.IMPRESSIONS if isinstance(one, Impression) else topics.EVENTS
            # Half of the producers know nothing of our keys.
            key = user if topic is topics.IMPRESSIONS or chance.random() < 0.5 else None
            out.send(topic, one, key)


def check(settings: StreamsSettings) -> None:
    events = sum(map(len, read_all(settings.kafka, topics.EVENTS).values()))

    def taken() -> bool:
        return sum(map(len, read_all(settings.kafka, topics.ACTIONS).values())) >= events

    wait_until(taken, 120, "the intake has taken every event")
    assert sum(map(len, read_all(settings.kafka, topics.ACTIONS).values())) == events

    got, expected = list[Expected](), list[Expected]()

    def joined() -> bool:
        nonlocal got, expected
        # Longer than a window: only a worker that stood still for a while is waited for once more.
        wait_quiet(settings.kafka, topics.EXAMPLES, 6.0, 120.0)
        got, expected = joined_and_expected(settings)
        return len(got) >= len(expected)

    wait_until(joined, 60, "every window has ended")
    assert (sorted(set(got) - set(expected)), sorted(set(expected) - set(got))) == ([], [])
    assert got == expected
    assert len(expected) > 1_000


@pytest.mark.timeout(400)
def test_no_example_is_lost_or_doubled_by_kills(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    chance = random.Random(5)
    with stack_on(fresh_kafka, tmp_path / "stack", "worker", config=CONFIG) as stack:
        with producer(stack.settings.kafka) as out:
            n = 0
            for _ in range(3):
                send(out, chance, n, n + 400)
                n += 400
                restarts = stack.kill("worker")
                send(out, chance, n, n + 400)
                n += 400
                stack.wait_back("worker", restarts)
            out.flush(30)
        check(stack.settings.streams)


def worker_settings(kafka: RunningStack, folder: Path, text: str) -> Settings:
    """The settings (TOML) of workers on that Kafka."""
    config = folder / "freshet.toml"
    config.write_text(on_kafka(kafka, text))
    return load(config, folder / "stack")


def work(settings: bytes, name: str, health: Path) -> None:
    """A worker until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    logging.basicConfig(level=logging.WARNING)
    run(msgspec.json.decode(settings, type=StreamsSettings), stop, Health(health), name)


class Worker:
    """One of several workers, in a process of its own."""

    def __init__(self, settings: StreamsSettings, folder: Path, name: str) -> None:
        self.health = folder / f"{name}.json"
        self.log = folder / f"{name}.log"
        self.process = Forked(work, msgspec.json.encode(settings), name, self.health, log=self.log)

    def partitions(self) -> int:
        """How many tasks it owns, by its own newest word; 0 before its first."""
        report = read_health(self.health)
        return int(report.values["partitions"]) if report is not None and report.pid == self.process.pid else 0

    def handled(self) -> int:
        """How many records its tasks have taken in, by its own newest word."""
        report = read_health(self.health)
        if report is None or report.pid != self.process.pid:
            return 0
        return sum(int(report.values.get(name, 0)) for name in ("intake_events", "join_impressions", "join_actions"))

    def restored_records(self) -> int:
        """How many records its tasks read to restore their state."""
        report = read_health(self.health)
        assert report is not None and report.pid == self.process.pid
        return sum(int(value) for name, value in report.values.items() if name.endswith("_restored_records"))

    def end(self, number: int) -> None:
        """Sends a signal and waits for the end."""
        self.process.send_signal(number)
        self.process.wait(30)


@contextmanager
def ended(workers: list[Worker]) -> Iterator[None]:
    """Ends whatever workers the block has started; shows their logs where it failed."""
    try:
        yield
    except BaseException:
        print(*(worker.log.read_text()[-3_000:] for worker in workers), sep="\n---\n")
        raise
    finally:
        for worker in workers:
            worker.end(signal.SIGKILL)


class Load:
    """Requests and actions, all the time while the block runs; `sent` counts the requests that Kafka acknowledged."""

    def __init__(self, kafka: KafkaSettings, seed: int) -> None:
        self.sent = 0
        self._kafka, self._chance = kafka, random.Random(seed)
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._work)

    def wait_more(self, requests: int) -> None:
        """Waits until so many more were acknowledged."""
        wanted = self.sent + requests
        wait_until(lambda: self.sent >= wanted or self._failed, 90, f"{requests} more requests")

    def _work(self) -> None:
        try:
            with producer(self._kafka) as out:
                while not self._stop.wait(0.1):
                    send(out, self._chance, self.sent, self.sent + 20)
                    out.flush(90)
                    self.sent += 20
        except BaseException as error:
            self._failed.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(120)
        assert self._failed == []


@pytest.mark.timeout(400)
def test_workers_that_come_and_go_under_load_lose_and_double_nothing(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    settings, workers = worker_settings(fresh_kafka, tmp_path, CONFIG), list[Worker]()

    def start(name: str) -> Worker:
        workers.append(Worker(settings.streams, tmp_path, name))
        return workers[-1]

    def share(load: Load, *sharing: Worker) -> None:
        """Both own three tasks each, and go on to take records in, each of its own partitions."""
        wait_until(lambda: [one.partitions() for one in sharing] == [3, 3], 90, "both share the partitions")
        before = [one.handled() for one in sharing]
        load.wait_more(100)
        wait_until(
            lambda: all(one.handled() > 20 + was for one, was in zip(sharing, before, strict=True)),
            60,
            "both take records in",
        )
        assert [one.partitions() for one in sharing] == [3, 3]

    with ended(workers):
        with Load(settings.kafka, 9) as load:
            one = start("one")
            wait_until(lambda: one.partitions() == 6, 90, "the first worker owns everything")
            two = start("two")
            share(load, one, two)
            two.end(signal.SIGKILL)
            wait_until(lambda: one.partitions() == 6, 90, "the first has taken over")
            three = start("three")
            share(load, one, three)
            one.end(signal.SIGTERM)
            wait_until(lambda: three.partitions() == 6, 90, "the last owns everything")
            load.wait_more(100)
        check(settings.streams)


def damage(folder: Path, how: str, old: Path) -> None:
    """Does something to the copies of the state that a killed worker left."""
    copies = sorted(folder.iterdir())
    assert len(copies) == 6
    if how == "behind":
        shutil.rmtree(folder)
        shutil.copytree(old, folder)
        return
    for copy in copies:
        if how == "deleted":
            shutil.rmtree(copy)
        elif how == "corrupt":
            for path in copy.iterdir():
                if path.suffix in (".sst", ".log"):
                    data = path.read_bytes()
                    path.write_bytes(bytes(len(data) // 2) + data[len(data) // 2 :])
        else:
            state = LocalState(copy, 2**20)
            if state.position is None:
                # Killed before its first batch.
                pass
            elif how == "ahead":
                state.apply({b"u/nobody": b"\x01"}, Position(10**9, state.position.at_ms))
            elif how == "old":
                state.apply({}, Position(state.position.offset, state.position.at_ms - TOMBSTONES_MS))
            else:
                meta = msgspec.msgpack.decode(state.get(META) or b"", type=Meta)
                other = msgspec.msgpack.encode(Meta(meta.positions, meta.incarnation + 1))
                state.apply({META: other, b"i/nonsense": b"\xc1"}, state.position)
            state.close()


@pytest.mark.timeout(400)
def test_the_state_is_right_whatever_became_of_its_copy_on_disk(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    settings, workers = worker_settings(fresh_kafka, tmp_path, CONFIG + SMALL_MEMORY), list[Worker]()
    folder, old = Path(settings.streams.state_dir) / "state-one", tmp_path / "old"
    with ended(workers):
        read = {}
        with Load(settings.kafka, 21) as load:
            for how in ("first", "ahead", "behind", "corrupt", "deleted", "old", "other history", "intact"):
                if how not in ("first", "intact"):
                    damage(folder, how, old)
                worker = Worker(settings.streams, tmp_path, "one")
                workers.append(worker)
                wait_until(lambda worker=worker: worker.partitions() == 6, 90, "the worker owns everything")  # type: ignore[misc]
                read[how] = worker.restored_records()
                before = worker.handled()
                load.wait_more(100)
                wait_until(lambda worker=worker, before=before: worker.handled() > before + 100, 60, "it joins")  # type: ignore[misc]
                worker.end(signal.SIGKILL)
                if how == "first":
                    shutil.copytree(folder, old)
            worker = Worker(settings.streams, tmp_path, "one")
            workers.append(worker)
            wait_until(lambda: worker.partitions() == 6, 90, "the worker owns everything")
        check(settings.streams)
    # A copy that can be trusted is brought up to date by the tail; all else is read from the changelog's beginning.
    whole = [read[how] for how in ("ahead", "corrupt", "deleted", "old", "other history")]
    assert min(whole) > 500
    assert read["intact"] < read["behind"] < max(whole)
    assert read["intact"] < max(whole) / 3


@pytest.mark.timeout(400)
def test_a_broker_that_is_away_is_waited_for(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    with stack_on(fresh_kafka, tmp_path / "stack", "worker", config=CONFIG) as stack:
        pid, size = stack.pid("worker"), stack.state.log("worker").stat().st_size
        with Load(stack.settings.kafka, 13) as load:
            for _ in range(2):
                load.wait_more(200)
                fresh_kafka.wait_back("kafka", fresh_kafka.kill("kafka"))
            load.wait_more(200)
        check(stack.settings.streams)
        assert stack.pid("worker") == pid
        log = stack.state.log("worker").read_bytes()[size:]
        assert log.count(b"Traceback") == 0 or len(log) < 100_000
