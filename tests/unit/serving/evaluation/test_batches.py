"""Batches are cut where an earlier process cut them, and rows that are stored are not made again."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.evaluation.batches import BATCH_BYTES, Partition
from streams import topics
from streams.dead_letters import Reason
from streams.records import Action, Metric, Validation


class Record(msgspec.Struct):
    """What the sink looks at in a record of kafka-python."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    topic: str = "t"
    partition: int = 0


def action(offset: int, padding: int = 0) -> Record:
    record = Action(ts=offset, user="u", item="i", kind="click", event_id="e" + "x" * padding, received_at=0)
    return Record(offset, topics.ACTIONS.codec.encode(record))


def actions(start: int = 0, stored: int = 0, cuts: tuple[int, ...] = ()) -> Partition:
    return Partition(topics.ACTIONS, 0, {"actions": stored}, start, frozenset(cuts))


def bounds(partition: Partition) -> list[tuple[int, int]]:
    return [(batch.first, batch.last) for batch in partition.batches]


def offsets(partition: Partition, table: str = "actions") -> list[int]:
    return [row[2] for batch in partition.batches for row in batch.rows.get(table, [])]


@pytest.mark.parametrize("topic", [topics.ACTIONS, topics.EXPERIMENTS, topics.METRICS], ids=lambda topic: topic.name)
def test_a_record_nested_without_end_is_told_of_and_does_not_stop_the_log(topic: topics.Topic) -> None:
    partition = Partition(topic, 0, {"actions": 0, "experiments": 0, "metrics": 0, "validations": 0}, 0, frozenset())
    partition.add(Record(0, b'{"z": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
    ((_, reason, _),) = partition.batches[0].unreadable
    assert reason is Reason.UNREADABLE
    assert partition.next_offset == 1


# Offsets grow with gaps: transaction markers and compaction take some away.
logs = st.sets(st.integers(0, 60), max_size=40).map(sorted)


@given(logs, st.integers(0, 60), st.integers(0, 60))
def test_a_batch_that_may_be_under_way_is_cut_again_in_the_same_way(log: list[int], a: int, b: int) -> None:
    before = [n for n in log if min(a, b) <= n <= max(a, b)]
    if not before:
        return
    first, last = before[0], before[-1]
    after = actions(cuts=(first, last + 1))
    for n in log:
        after.add(action(n))
    assert (first, last) in bounds(after)
    assert offsets(after) == log


@given(logs, st.integers(0, 61), st.integers(0, 61))
def test_every_missing_row_is_made_once_and_none_that_is_stored(log: list[int], start: int, stored: int) -> None:
    start = min(start, stored)
    partition = actions(start=start, stored=stored)
    for n in log:
        partition.add(action(n))
        partition.add(action(n))  # a client that seeks may hand a record over again
    assert offsets(partition) == [n for n in log if n >= stored]
    while partition.batches:
        assert partition.finish().last < partition.done
    assert partition.done == max([start, *(n + 1 for n in log if n >= start)])


def test_two_tables_of_one_topic_go_on_where_each_is() -> None:
    metric = Metric(process="p", name="n", ts=0, value=1.0)
    validation = Validation(
        process="p",
        learner="l",
        task="t",
        scene="",
        window=0,
        ts=0,
        first_ts=0,
        last_ts=0,
        n=0,
        positives=0,
        log_loss_sum=0,
        bins_positive=[],
        bins_negative=[],
    )
    partition = Partition(topics.METRICS, 0, {"metrics": 4, "validations": 2}, 2, frozenset())
    for n in range(2, 6):
        partition.add(Record(n, topics.METRICS.codec.encode(metric if n % 2 else validation)))
    assert offsets(partition, "metrics") == [5]
    assert offsets(partition, "validations") == [2, 4]


def test_a_batch_ends_when_it_is_large() -> None:
    partition = actions()
    for n in range(5):
        partition.add(action(n, padding=BATCH_BYTES // 2))
    assert bounds(partition) == [(0, 1), (2, 3), (4, 4)]


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"{}", b'{"ts": 1e99}'])
def test_what_makes_no_row_still_moves_the_batch(value: Any) -> None:
    partition = actions()
    partition.add(Record(7, value))
    assert bounds(partition) == [(7, 7)]
    assert len(partition.batches[0].unreadable) == 1
    assert offsets(partition) == []


def test_a_deleted_definition_is_no_mistake() -> None:
    partition = Partition(topics.EXPERIMENTS, 0, {"experiments": 0}, 0, frozenset())
    partition.add(Record(0, None, b"name"))
    assert partition.batches[0].unreadable == []
