"""The reader of the worker's inputs on a real Kafka: what it hands out, and where it goes on."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from kafka import KafkaProducer

from streams.admin import admin
from streams.kafka import connection
from streams.log_reader import LogReader
from streams.settings import KafkaSettings
from streams.topics import ACTIONS, EVENTS
from streams.transactions import transactional_producer
from tests.stacks import RunningStack

pytestmark = pytest.mark.servers

ONE, OTHER = TopicPartition(ACTIONS.name, 0), TopicPartition(EVENTS.name, 1)


@pytest.fixture
def kafka(fresh_kafka: RunningStack) -> KafkaSettings:
    """A Kafka with the topics of the catalogue, all empty."""
    return fresh_kafka.settings.kafka


def written(kafka: KafkaSettings, tp: TopicPartition, values: list[bytes], *, abort: bool = False) -> int:
    """Writes records in one transaction; the offset of the first."""
    producer: KafkaProducer = transactional_producer(connection(kafka, "writer") | {"transactional_id": "writer"})
    try:
        producer.init_transactions()
        producer.begin_transaction()
        futures = [producer.send(tp.topic, value, partition=tp.partition) for value in values]
        producer.flush()
        if abort:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
        return int(futures[0].get(10).offset)
    finally:
        producer.close()


@asynccontextmanager
async def reading(kafka: KafkaSettings, positions: dict[TopicPartition, int | None]) -> AsyncIterator[LogReader]:
    """A reader that was started."""
    reader = LogReader(kafka, "test")
    try:
        async with asyncio.timeout(30):
            await reader.start(positions)
            yield reader
    finally:
        await reader.stop()


async def taken(
    reader: LogReader, tp: TopicPartition, asked: Iterable[TopicPartition], wait_s: float, most: int = 1_000
) -> list[bytes]:
    """The values of the next records of `tp`, at most so many; what it is given first may be no record."""
    while True:
        reader.ask(asked, wait_s)
        await reader.wait(1.0)
        if records := reader.take(tp, most):
            return [record.value for record in records]


def test_all_partitions_are_read_from_where_each_begins(kafka: KafkaSettings) -> None:
    first = written(kafka, ONE, [b"a", b"b", b"c"])
    second = written(kafka, OTHER, [b"x", b"y"])

    async def act() -> tuple[list[bytes], list[bytes]]:
        async with reading(kafka, {ONE: first + 1, OTHER: second}) as reader:
            return await taken(reader, ONE, [ONE, OTHER], 0.2), await taken(reader, OTHER, [ONE, OTHER], 0.0)

    assert asyncio.run(act()) == ([b"b", b"c"], [b"x", b"y"])


def test_what_is_in_hand_of_one_holds_up_no_other(kafka: KafkaSettings) -> None:
    first = written(kafka, ONE, [b"%d" % n for n in range(10)])
    old = written(kafka, OTHER, [b"old"])

    async def act() -> list[bytes]:
        async with reading(kafka, {ONE: first, OTHER: old + 1}) as reader:
            found = await taken(reader, ONE, [ONE], 0.2, most=3)
            await asyncio.to_thread(written, kafka, OTHER, [b"new"])
            found += await taken(reader, OTHER, [ONE, OTHER], 0.0)
            assert reader.in_hand(ONE)
            assert reader.behind(ONE)
            assert reader.position(ONE) == first + 3
            return found + await taken(reader, ONE, [ONE, OTHER], 0.0)

    assert asyncio.run(act()) == [b"0", b"1", b"2", b"new", *(b"%d" % n for n in range(3, 10))]


def test_what_was_aborted_is_passed_over_and_the_end_is_reached(kafka: KafkaSettings) -> None:
    first = written(kafka, ONE, [b"before"])
    written(kafka, ONE, [b"aborted"], abort=True)
    written(kafka, ONE, [b"after"])

    # Three records, and behind each the mark that ends its transaction: of the last it may come after the commit.
    end = first + 6

    async def act() -> tuple[list[bytes], int, bool]:
        async with reading(kafka, {ONE: first}) as reader:
            found: list[bytes] = []
            while reader.position(ONE) < end:
                reader.ask([ONE], 0.2)
                await reader.wait(1.0)
                found += [record.value for record in reader.take(ONE, 1_000)]
            return found, await reader.end(ONE), reader.behind(ONE)

    assert asyncio.run(act()) == ([b"before", b"after"], end, False)


def test_a_position_that_the_log_has_no_more_is_taken_up_at_its_beginning(kafka: KafkaSettings) -> None:
    written(kafka, ONE, [b"deleted"])
    kept = written(kafka, ONE, [b"kept"])
    with admin(kafka) as client:
        client.delete_records({ONE: kept})

    async def act() -> list[bytes]:
        async with reading(kafka, {ONE: 0}) as reader:
            return await taken(reader, ONE, [ONE], 0.2)

    assert asyncio.run(act()) == [b"kept"]
