"""Replay on a real Kafka: every row once, at moved times, whoever stops it."""

import threading
import time
from pathlib import Path

import pytest
from kafka.errors import KafkaError

from streams.datasets import Dataset, open_dataset
from streams.logs import ends_of, raw_records
from streams.records import Event
from streams.replay import Replay
from streams.settings import KafkaSettings
from streams.topics import EVENTS, ITEMS, USERS, Topic
from tests.logs import write_log
from tests.stacks import RunningStack
from tests.stream_logs import wait_committed

pytestmark = pytest.mark.servers

NOW_MS = 1_700_000_000_000


@pytest.fixture
def settings(fresh_kafka: RunningStack) -> KafkaSettings:
    return fresh_kafka.settings.kafka


@pytest.fixture
def log(tmp_path: Path) -> Dataset:
    return open_dataset("ml-100k", write_log(tmp_path / "data", 10_000))


def read(settings: KafkaSettings, topic: Topic) -> list[tuple[Event, int]]:
    """All committed records of a topic with their Kafka timestamps (ms)."""
    wait_committed(settings)
    found = raw_records(settings, ends_of(settings, [topic.name]))
    return [(topic.codec.decode(record.value), record.timestamp) for record in found]


def rows(events: list[tuple[Event, int]]) -> list[int]:
    return sorted(int((event.event_id or "").removeprefix("ml-100k-")) for event, _ in events)


def test_a_log_is_sent_once_and_ends_now_with_its_gaps_kept(settings: KafkaSettings, log: Dataset) -> None:
    began_ms = time.time_ns() // 1_000_000
    told: list[int] = []
    report = Replay(log, settings).run(now_ms=NOW_MS, stop=threading.Event(), tell=told.append)
    assert (report.first, report.last, report.sent) == (0, 10_000, 10_000)
    assert told[0] == 0
    assert told[-1] == 10_000
    sent = read(settings, EVENTS)
    assert rows(sent) == list(range(10_000))
    assert max(event.ts for event, _ in sent) == NOW_MS
    assert sorted(NOW_MS - event.ts for event, _ in sent) == [1000 * k for k in range(10_000)]
    assert all(stamp >= began_ms for _, stamp in sent)
    assert (len(read(settings, ITEMS)), len(read(settings, USERS))) == (30, 20) == (report.items, report.users)


def test_a_stopped_replay_goes_on_where_it_ended_with_the_same_shift(settings: KafkaSettings, log: Dataset) -> None:
    stop = threading.Event()
    first = Replay(log, settings).run(now_ms=NOW_MS, stop=stop, tell=lambda row: stop.set() if row else None)
    assert 0 < first.last < 10_000
    limited = Replay(log, settings).run(now_ms=NOW_MS + 5_000, stop=threading.Event(), limit=9_000)
    assert (limited.first, limited.last, limited.items) == (first.last, 9_000, 0)
    rest = Replay(log, settings).run(now_ms=NOW_MS + 9_000, stop=threading.Event())
    assert (rest.first, rest.last) == (9_000, 10_000)
    assert Replay(log, settings).run(now_ms=NOW_MS, stop=threading.Event()).sent == 0
    sent = read(settings, EVENTS)
    assert rows(sent) == list(range(10_000))
    assert max(event.ts for event, _ in sent) == NOW_MS


def test_restart_forgets_the_progress(settings: KafkaSettings, log: Dataset) -> None:
    Replay(log, settings).run(now_ms=NOW_MS, stop=threading.Event(), limit=100)
    report = Replay(log, settings).run(now_ms=NOW_MS + 1, stop=threading.Event(), limit=50, restart=True)
    assert (report.first, report.last) == (0, 50)
    assert rows(read(settings, EVENTS)) == sorted([*range(100), *range(50)])


def test_a_pace_is_kept(settings: KafkaSettings, log: Dataset) -> None:
    report = Replay(log, settings).run(now_ms=NOW_MS, stop=threading.Event(), limit=300, speed=200.0)
    assert report.sent == 300
    assert report.seconds >= 1.5


def test_a_second_replay_of_the_same_log_fences_the_first(settings: KafkaSettings, log: Dataset) -> None:
    begun, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def slow() -> None:
        try:
            Replay(log, settings).run(
                now_ms=NOW_MS, stop=stop, speed=100.0, tell=lambda row: begun.set() if row else None
            )
        except KafkaError as error:
            failures.append(error)

    first = threading.Thread(target=slow)
    first.start()
    assert begun.wait(60)
    Replay(log, settings).run(now_ms=NOW_MS, stop=threading.Event())
    first.join(60)
    stop.set()
    assert not first.is_alive()
    assert len(failures) == 1
    assert rows(read(settings, EVENTS)) == list(range(10_000))
