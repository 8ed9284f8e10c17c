"""Reads partitions of Kafka's log with as few requests as they need: one for all, and none before it is wanted.

aiokafka's consumer asks again for each record that comes while a trickle gathers, and while it has records of one
partition in hand the long poll of another holds up both: two partitions took two consumers, each with tasks of its own.
Every request costs the broker about as much as it costs here.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED, OffsetResetStrategy, PartitionRecords
from aiokafka.errors import KafkaError, NoError, OffsetOutOfRangeError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords
from msgspec import Struct

from streams.closing import bounded
from streams.settings import KafkaSettings

log = logging.getLogger(__name__)

# What one answer may bring of a partition: more would only lie in memory while a backlog is read.
_FETCH_BYTES: Final = 2 * 2**20
_REQUEST_TIMEOUT_MS: Final = 10_000
_RETRY_S: Final = 0.1


class LogRecord(Struct, frozen=True, gc=False):
    """A record of a log, where it stands there, and its timestamp (ms): when it was appended, or what its writer said,
    as the topic has it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class _Records(PartitionRecords):  # type: ignore[misc]
    """The records of one answer, without what nobody asks of them: it halves the time a record takes."""

    def _consumer_record(self, tp: TopicPartition, record: Any) -> LogRecord:
        return LogRecord(tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value)


class _Reading(Struct):
    """Where one partition is read: `position` is the next offset to be handed out, `records` what is in hand, `end`
    the first offset that was not committed when that was asked for."""

    position: int
    records: _Records | None = None
    end: int = 0


class LogReader:
    """Reads committed records of partitions, each from a position of its own."""

    def __init__(self, settings: KafkaSettings, client_id: str) -> None:
        self._client = AIOKafkaClient(
            bootstrap_servers=settings.bootstrap, client_id=client_id, request_timeout_ms=_REQUEST_TIMEOUT_MS
        )
        self._readings: dict[TopicPartition, _Reading] = {}
        self._pending: dict[int, asyncio.Task[None]] = {}

    async def start(self, positions: Mapping[TopicPartition, int | None]) -> None:
        """Begins to read at these offsets; None: at the log's beginning. Raises KafkaError."""
        await self._client.bootstrap()
        await self._client.set_topics([tp.topic for tp in positions])
        for tp, position in positions.items():
            self._readings[tp] = _Reading(await self._begin(tp) if position is None else position)

    async def stop(self) -> None:
        """Closes the connections; what was asked for is not waited for."""
        for pending in self._pending.values():
            pending.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        await bounded(self._client.close())

    def position(self, tp: TopicPartition) -> int:
        """The next offset to be handed out; past what only the broker writes (the ends of transactions)."""
        return self._readings[tp].position

    def in_hand(self, tp: TopicPartition) -> bool:
        """Whether `take` has something to give."""
        return self._readings[tp].records is not None

    def behind(self, tp: TopicPartition) -> bool:
        """Whether there is more to be had at once, by what the broker said last."""
        reading = self._readings[tp]
        return reading.records is not None or reading.position < reading.end

    def ask(self, partitions: Iterable[TopicPartition], wait_s: float) -> None:
        """Asks for what comes next in `partitions`, as far as it is neither in hand nor asked for already.

        The broker answers when there is something, or after `wait_s`.
        """
        asked: dict[int, list[TopicPartition]] = {}
        for tp in partitions:
            if self._readings[tp].records is None:
                asked.setdefault(self._leader(tp), []).append(tp)
        for node, wanted in asked.items():
            if node not in self._pending:
                self._pending[node] = asyncio.create_task(self._fetch(node, wanted, int(1_000 * wait_s)))

    async def wait(self, timeout_s: float) -> None:
        """Waits until something that was asked for is answered."""
        if self._pending:
            await asyncio.wait(self._pending.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for node in [node for node, pending in self._pending.items() if pending.done()]:
            self._pending.pop(node).result()

    def take(self, tp: TopicPartition, most: int) -> list[LogRecord]:
        """The records in hand, at most so many, in the order of the log."""
        reading = self._readings[tp]
        taken: list[LogRecord] = []
        if reading.records is None:
            return taken
        for record in reading.records:
            taken.append(record)
            if len(taken) >= most:
                break
        else:
            # Decoded to its end: its position is past what is not a record too.
            reading.position, reading.records = reading.records.next_fetch_offset, None
            return taken
        reading.position = reading.records.next_fetch_offset
        return taken

    async def end(self, tp: TopicPartition) -> int:
        """The first offset that is not committed, as the broker says now. Raises KafkaError."""
        return await self._offset(tp, OffsetResetStrategy.LATEST)

    async def _begin(self, tp: TopicPartition) -> int:
        return await self._offset(tp, OffsetResetStrategy.EARLIEST)

    async def _offset(self, tp: TopicPartition, which: int) -> int:
        request = OffsetRequest(-1, READ_COMMITTED, [(tp.topic, [(tp.partition, which)])])
        response = await self._client.send(self._leader(tp), request)
        _, ((_, code, _, offset),) = response.topics[0]
        if (error := for_code(code)) is not NoError:
            self._client.force_metadata_update()
            raise error(tp)
        return int(offset)

    def _leader(self, tp: TopicPartition) -> int:
        leader = self._client.cluster.leader_for_partition(tp)
        # -1 is nobody: what is sent to it fails as if to somebody who is away.
        return -1 if leader is None else int(leader)

    async def _fetch(self, node: int, partitions: list[TopicPartition], wait_ms: int) -> None:
        """Asks `node` once; waits a little after a failure, and has the caller ask again."""
        asked = {tp: self._readings[tp].position for tp in partitions}
        topics: dict[str, list[tuple[int, int, int]]] = {}
        for tp, position in asked.items():
            topics.setdefault(tp.topic, []).append((tp.partition, position, _FETCH_BYTES))
        request = FetchRequest(wait_ms, 1, len(asked) * _FETCH_BYTES, READ_COMMITTED, list(topics.items()))
        try:
            response = await self._client.send(node, request)
            for topic, found in response.topics:
                for partition, code, _, end, *rest, data in found:
                    # The oldest version that knows transactions lacks the log's start before them.
                    aborted = rest[min(1, len(rest) - 1)]
                    await self._found(TopicPartition(topic, partition), asked, code, end, aborted, data)
        except KafkaError as error:
            log.debug("fetch from node %d: %s: %s", node, type(error).__name__, error)
            self._client.force_metadata_update()
            await asyncio.sleep(_RETRY_S)

    async def _found(
        self, tp: TopicPartition, asked: dict[TopicPartition, int], code: int, end: int, aborted: Any, data: bytes
    ) -> None:
        reading, error = self._readings[tp], for_code(code)
        if reading.records is not None or reading.position != asked[tp]:
            # The partition has another leader meanwhile, who was quicker.
            return
        if error is OffsetOutOfRangeError:
            log.warning("%s-%d: offset %d is not in the log any more", tp.topic, tp.partition, reading.position)
            reading.position = await self._begin(tp)
            return
        if error is not NoError:
            raise error(tp)
        reading.end = end
        records = MemoryRecords(data)
        if records.has_next():
            reading.records = _Records(tp, records, aborted, reading.position, None, None, True, READ_COMMITTED)
