"""The update log on a real Kafka: acknowledged before forgotten, one writer, repaired after a restart.

Tests share a Kafka and keep apart by shard: every shard is a stream of its own.
"""

import os
import signal
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from online_learning.table.settings import TableSettings
from online_learning.table.table import Table
from online_learning.updates.frames import rows_of
from online_learning.updates.log_writer import Fenced
from online_learning.updates.position import TABLE, LogPosition, StreamPosition, stream_of
from online_learning.updates.publisher import Publisher
from online_learning.updates.repair import LogCut, LogTail
from online_learning.updates.sequence import FrameOrder, Verdict
from streams.admin import cut
from streams.records import Frame, FrameKind
from streams.settings import KafkaSettings
from streams.topics import UPDATES
from tests.emptied import emptied
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import wait_committed

pytestmark = pytest.mark.servers

DIM = 5
Rows = dict[int, list[float]]


@pytest.fixture(scope="module")
def settings(kafka_stack: RunningStack) -> KafkaSettings:
    """A log that no trainer has cut, for all tests that have a shard of their own."""
    return emptied(kafka_stack).settings.kafka


@pytest.fixture
def shard() -> Iterator[int]:
    _SHARDS.append(len(_SHARDS) + 1000)
    yield _SHARDS[-1]


_SHARDS: list[int] = []


def change(table: Table, publisher: Publisher, first: int, n: int, seed: int) -> None:
    keys = np.arange(first, first + n, dtype=np.uint64)
    slots = table.find_or_insert(keys, np.full(n, 3, np.uint16), 0, publisher.version)
    grads = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    table.apply_gradients(slots, grads, publisher.version)


def publish_all(table: Table, publisher: Publisher, learned: dict[int, int]) -> None:
    while table.touched:
        publisher.publish_sparse(table, learned)
        assert publisher.flush(30.0)


def frames(settings: KafkaSettings, shard: int, start: LogPosition | None = None) -> list[Frame]:
    wait_committed(settings)
    tail = LogTail(settings, start or LogPosition(), 30.0)
    return [frame for frame in tail.frames() if frame.shard == shard]


def replayed(log: list[Frame], order: FrameOrder | None = None, rows: Rows | None = None) -> Rows:
    order, rows = order or FrameOrder(), {} if rows is None else rows
    for frame in log:
        if order.judge(frame) is Verdict.APPLY and frame.kind is FrameKind.SPARSE:
            part = rows_of(frame)
            for key in part.tombstones.tolist():
                rows.pop(key, None)
            rows.update(zip(part.keys.tolist(), part.values.tolist(), strict=True))
    return rows


def rows_in(table: Table, *, half: bool = False) -> Rows:
    export = table.changed_since(0)
    values = export.rows.astype(np.float16).astype(np.float32) if half else export.rows
    return dict(zip(export.keys.tolist(), values.tolist(), strict=True))


@pytest.mark.parametrize("encoding", ["f32", "f16"])
def test_readers_of_the_log_have_the_tables_rows(settings: KafkaSettings, shard: int, encoding: str) -> None:
    table = Table(TableSettings(dim=DIM))
    half = encoding == "f16"
    publisher = Publisher(settings, shard=shard, encoding="f16" if half else "f32")
    publisher.begin_epoch(LogPosition(), table, {0: 0})
    for n in range(20):
        change(table, publisher, 1 + 7 * n, 50, n)
        table.remove(np.array([5 * n + 3], np.uint64), 0, publisher.version)
        publisher.publish_sparse(table, {0: n + 1})
        publisher.publish_dense({"w": np.full(3, n, np.float32)})
        publisher.flush(30.0)
    publish_all(table, publisher, {0: 20})
    publisher.close()
    log = frames(settings, shard)
    assert replayed(log) == rows_in(table, half=half)
    sparse = [frame for frame in log if frame.table == TABLE]
    assert [frame.sequence for frame in sparse] == list(range(len(sparse)))
    assert sparse[-1].learned == {0: 20}
    dense = [frame for frame in log if frame.kind is FrameKind.DENSE]
    assert [frame.sequence for frame in dense] == list(range(1, 21))
    assert publisher.position.of(stream_of(TABLE, shard)) == StreamPosition(publisher.epoch, sparse[-1].sequence)
    assert publisher.position.begun_at == dict.fromkeys(publisher.position.streams, sparse[0].created_at)
    assert not frames(settings, shard, LogPosition({}, publisher.position.offsets))


def test_learned_goes_out_only_with_the_frame_that_completes_it(settings: KafkaSettings, shard: int) -> None:
    table = Table(TableSettings(dim=DIM))
    publisher = Publisher(settings, shard=shard, max_batch_bytes=30 * 1000)
    publisher.begin_epoch(LogPosition(), table, {0: 0})
    change(table, publisher, 1, 2500, 0)
    publish_all(table, publisher, {0: 7})
    publisher.publish_sparse(table, {0: 9})
    assert publisher.flush(30.0)
    assert not publisher.publish_sparse(table, {0: 9})
    publisher.close()
    log = [frame for frame in frames(settings, shard) if frame.kind is FrameKind.SPARSE]
    assert [frame.learned for frame in log] == [{0: 0}, {0: 0}, {0: 7}, {0: 9}]
    assert [len(frame.keys) for frame in log] == [8 * 1000, 8 * 1000, 8 * 500, 0]


@pytest.mark.parametrize("rows", [0, 100])
def test_an_epoch_claims_nothing_before_the_rows_of_its_checkpoint_are_in(
    settings: KafkaSettings, shard: int, rows: int
) -> None:
    """Of what the checkpoint learned, some may never have been on the log."""
    table = Table(TableSettings(dim=DIM))
    table.find_or_insert(np.arange(1, rows + 1, dtype=np.uint64), np.zeros(rows, np.uint16), 0, 1)
    publisher = Publisher(settings, shard=shard, max_batch_bytes=500)
    publisher.begin_epoch(LogPosition(), table, {0: 7})
    publisher.close()
    told = [frame.learned for frame in frames(settings, shard) if frame.table == TABLE]
    assert told == [{}] * (len(told) - 1) + [{0: 7}]
    assert (len(told) > 2) == bool(rows)


@pytest.mark.parametrize("part_rows", [1_000, 10])
def test_a_restart_repairs_what_its_checkpoint_does_not_know(
    settings: KafkaSettings, shard: int, part_rows: int
) -> None:
    table = Table(TableSettings(dim=DIM))
    publisher = Publisher(settings, shard=shard)
    publisher.begin_epoch(LogPosition(), table, {0: 0})
    change(table, publisher, 1, 100, 0)
    publish_all(table, publisher, {0: 1})
    change(table, publisher, 40, 10, 1)
    snapshot, position = table.snapshot(), publisher.position
    # Of this history the checkpoint knows nothing: changed rows, new rows, a removed row.
    change(table, publisher, 90, 30, 2)
    table.remove(np.arange(1, 11, dtype=np.uint64), 0, publisher.version)
    publish_all(table, publisher, {0: 2})
    publisher.close()
    order = FrameOrder()
    rows = replayed(frames(settings, shard), order)
    assert set(rows) == set(range(11, 120))

    restored = Table.restore(TableSettings(dim=DIM), snapshot)
    successor = Publisher(settings, shard=shard, max_batch_bytes=part_rows * (10 + 4 * DIM))
    assert successor.begin_epoch(position, restored, {0: 1}) == publisher.epoch + 1
    assert restored.touched == 0
    parts = [frame for frame in frames(settings, shard, position) if frame.epoch == successor.epoch]
    assert len(parts) > 5 if part_rows == 10 else len(parts) == 3
    assert parts[-1].sequence == successor.sequences[TABLE] == len(parts) - 2
    successor.close()
    log = frames(settings, shard)
    # A reader that was there all the time, one that reads the whole log, and one from the checkpoint on.
    assert replayed(log, order, rows) == rows_in(restored)
    assert replayed(log) == rows_in(restored)
    behind = frames(settings, shard, position)
    assert replayed(behind, FrameOrder(position), rows_in(restored)) == rows_in(restored)
    taken = next(frame for frame in log if frame.epoch == successor.epoch and frame.table == TABLE)
    assert (taken.kind, taken.learned, taken.resumes_epoch) == (FrameKind.EPOCH, {}, publisher.epoch)
    assert parts[-1].learned == {0: 1}


def test_a_restart_without_any_checkpoint_takes_everything_back(settings: KafkaSettings, shard: int) -> None:
    table = Table(TableSettings(dim=DIM))
    publisher = Publisher(settings, shard=shard)
    publisher.begin_epoch(LogPosition(), table, {})
    change(table, publisher, 1, 100, 0)
    publish_all(table, publisher, {})
    publisher.close()
    assert len(replayed(frames(settings, shard))) == 100
    successor = Publisher(settings, shard=shard)
    successor.begin_epoch(LogPosition(), Table(TableSettings(dim=DIM)), {})
    successor.close()
    assert replayed(frames(settings, shard)) == {}


def test_an_older_trainer_is_fenced_and_nothing_of_it_is_read(settings: KafkaSettings, shard: int) -> None:
    table = Table(TableSettings(dim=DIM))
    older = Publisher(settings, shard=shard)
    older.begin_epoch(LogPosition(), table, {})
    newer = Publisher(settings, shard=shard)
    newer.begin_epoch(older.position, Table(TableSettings(dim=DIM)), {})
    change(table, older, 1, 10, 0)
    with pytest.raises(Fenced, match="another trainer has taken over"):
        older.publish_sparse(table, {})
        older.flush(30.0)
    with pytest.raises(Fenced):
        older.poll()
    older.close()
    newer.close()
    assert replayed(frames(settings, shard)) == {}


@pytest.mark.timeout(300)
def test_while_the_broker_stands_still_changes_merge_and_none_is_lost(fresh_kafka: RunningStack) -> None:
    settings = fresh_kafka.settings.kafka
    table = Table(TableSettings(dim=DIM))
    publisher = Publisher(settings)
    publisher.begin_epoch(LogPosition(), table, {0: 0})
    broker = fresh_kafka.pid("kafka")
    os.kill(broker, signal.SIGSTOP)
    try:
        for n in range(1, 201):
            change(table, publisher, n, 10, n)
            publisher.publish_sparse(table, {0: n})
        # One batch is under way; all that came after it waits in the table, once per key, and is still touched.
        assert publisher.busy
        assert table.touched == 209
    finally:
        os.kill(broker, signal.SIGCONT)
    publish_all(table, publisher, {0: 200})
    assert table.touched == 0
    log = frames(settings, 0)
    assert replayed(log) == rows_in(table)
    assert len([frame for frame in log if frame.kind is FrameKind.SPARSE]) <= 3
    publisher.close()


@pytest.mark.timeout(300)
def test_memory_stays_bounded_while_the_broker_is_long_away(fresh_kafka: RunningStack) -> None:
    """What waits is a mark per row, whatever changes meanwhile, and one batch under way."""
    settings = fresh_kafka.settings.kafka
    table = Table(TableSettings(dim=DIM))
    publisher = Publisher(settings)
    publisher.begin_epoch(LogPosition(), table, {0: 0})
    rows, at_once, process = 100_000, 20_000, psutil.Process()
    for first in range(1, rows, at_once):
        change(table, publisher, first, at_once, first)
    publish_all(table, publisher, {0: 0})
    broker = fresh_kafka.pid("kafka")
    os.kill(broker, signal.SIGSTOP)
    try:
        held: list[int] = []
        for n in range(150):
            change(table, publisher, 1 + n * at_once % rows, at_once, n)
            publisher.publish_sparse(table, {0: n})
            held.append(process.memory_info().rss)
        # Three million changes of rows of 20 bytes: kept one by one they would be 90 MB.
        assert publisher.busy
        assert table.touched == rows
        assert max(held) - held[20] < 32 * 2**20
    finally:
        os.kill(broker, signal.SIGCONT)
    publish_all(table, publisher, {0: 150})
    publisher.close()
    assert replayed(frames(settings, 0)) == rows_in(table)


@pytest.mark.timeout(300)
def test_a_log_that_was_cut_behind_the_checkpoint_is_a_clear_error(fresh_kafka: RunningStack) -> None:
    settings = fresh_kafka.settings.kafka
    table = Table(TableSettings(dim=DIM))
    publisher = Publisher(settings)
    publisher.begin_epoch(LogPosition(), table, {})
    old = publisher.position
    change(table, publisher, 1, 10, 0)
    publish_all(table, publisher, {})
    publisher.close()
    cut(settings, {(UPDATES.name, 0): publisher.position.offsets[0]})
    successor = Publisher(settings)
    with pytest.raises(LogCut, match="the checkpoint needs it from"):
        successor.begin_epoch(old, Table(TableSettings(dim=DIM)), {})
    successor.close()
    # A checkpoint that the log still reaches back to is taken.
    successor = Publisher(settings)
    assert successor.begin_epoch(publisher.position, table, {}) == 2
    successor.close()


@pytest.mark.timeout(300)
def test_a_broker_that_is_killed_and_comes_back_loses_no_batch(fresh_kafka: RunningStack) -> None:
    settings = fresh_kafka.settings.kafka
    table = Table(TableSettings(dim=DIM))
    publisher = Publisher(settings)
    publisher.begin_epoch(LogPosition(), table, {0: 0})
    n = 0
    for _ in range(2):
        restarts = fresh_kafka.kill("kafka")
        while not fresh_kafka.is_back("kafka", restarts):
            n += 1
            change(table, publisher, n % 300 + 1, 10, n)
            publisher.publish_sparse(table, {0: n})
            publisher.flush(0.02)
    wait_until(lambda: publisher.flush(0.1), 60, "what was under way is acknowledged")
    publish_all(table, publisher, {0: n})
    publisher.close()
    assert replayed(frames(settings, 0)) == rows_in(table)
