"""The transactional loop of one stage on one partition: exactly once from inputs to outputs and state.

A batch is five steps:
1. read records of all inputs, from the positions that the state names;
2. let the stage handle them (pure);
3. begin a transaction and send outputs, the state's changes, and the new positions to the changelog;
4. commit: outputs, state and positions become visible together or not at all;
5. note the positions, so that lag is visible to others.

Whoever is assigned the partition first fences the owner before (same transactional id), then restores the state up to
the changelog's end, then seeks. So an owner that does not know yet that it lost the partition can do no harm.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from streams.failpoints import hit
from streams.inputs import Idleness, Inputs, Upstream, reader
from streams.kafka import MAX_REQUEST_BYTES, backoff
from streams.outbox import Entry, Outbox
from streams.settings import StreamsSettings
from streams.stages import STAGES, Changes, Stage, StageName
from streams.topics import changelog

log = logging.getLogger(__name__)

_META: Final = b"meta"
# A fenced owner that is still assigned tries again after this: by then it knows of its own eviction.
_FENCED_S: Final = 5.0

# A broker that says nothing for so long is asked anew, from the start: the client would wait for ever.
_ANSWER_S: Final = 30.0
# How long (s) a trickle gathers into one transaction, which costs about 1.3 ms of CPU here and 2.2 ms in the broker.
# An example may take 0.1 s from its event through two stages; counts of items may be a moment older.
_LINGER_S: Final = {StageName.INTAKE: 0.015, StageName.JOIN: 0.015, StageName.ITEM_COUNTS: 0.25}

Positions = dict[str, int]


class StateUnreadable(RuntimeError):
    """A changelog holds state that this version of freshet cannot read; a worker must not go on without it."""


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a task needs beside the streams' settings. `partitions`: the count of every topic."""

    app: str
    partitions: dict[str, int]


class Task:
    """Owns one partition of one stage while `run` runs."""

    def __init__(
        self,
        name: StageName,
        partition: int,
        settings: StreamsSettings,
        task: TaskSettings,
        noted: Callable[[dict[TopicPartition, int]], None],
        upstream_done: Upstream,
    ) -> None:
        self._settings = settings
        self._task = task
        self._partition = partition
        self._stage_name = name
        self._inputs = [TopicPartition(t.name, partition) for t in STAGES[name].inputs]
        self._changelog = TopicPartition(changelog(name), partition)
        self._noted = noted
        self._upstream_done = upstream_done
        self.name = f"{name}-{partition}"
        self.stage: Stage | None = None
        self.restored = asyncio.Event()

    async def run(self) -> None:
        """Owns the partition until cancelled; waits and starts over from the changelog after whatever fails."""
        waits = backoff()
        while True:
            began = time.monotonic()
            try:
                await self._own()
            except ProducerFenced:
                log.info("%s: fenced by another worker", self.name)
                await asyncio.sleep(_FENCED_S)
            except (KafkaError, OSError, TimeoutError) as error:
                if time.monotonic() - began > 10:
                    waits = backoff()
                log.warning("%s: starts over from its changelog: %s: %s", self.name, type(error).__name__, error)
                await asyncio.sleep(next(waits))
            finally:
                self.restored.clear()

    async def _own(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.kafka.bootstrap,
            client_id=f"{self._task.app}-{self.name}",
            transactional_id=f"{self._task.app}-{self.name}",
            max_batch_size=512 * 2**10,
            max_request_size=MAX_REQUEST_BYTES,
            request_timeout_ms=10_000,
        )
        inputs = Inputs(self._settings.kafka, f"{self._task.app}-{self.name}", self._inputs)
        try:
            # Fencing first: what the owner before had open is aborted now, so the changelog's end is its end.
            await asyncio.wait_for(producer.start(), _ANSWER_S)
            hit("worker.fenced")
            entries = await self._restore()
            positions = msgspec.msgpack.decode(entries.pop(_META, b"\x80"), type=Positions)
            self.stage = STAGES[self._stage_name](self._settings, self._partition)
            try:
                self.stage.restore(entries)
            except (msgspec.DecodeError, ValueError) as error:
                raise StateUnreadable(f"{self._changelog.topic}-{self._partition}: {error}") from error
            hit("worker.restored")
            await inputs.start(positions)
            self.restored.set()
            await self._loop(self.stage, inputs, producer, positions)
        finally:
            self.stage = None
            await _closed(inputs.stop())
            await _closed(producer.stop())

    async def _restore(self) -> dict[bytes, bytes]:
        tp = self._changelog
        consumer = reader(self._settings.kafka, f"{self._task.app}-{self.name}-restore")
        entries: dict[bytes, bytes] = {}
        try:
            await consumer.start()
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            end = (await consumer.end_offsets([tp]))[tp]
            while await consumer.position(tp) < end:
                batches = await consumer.getmany(tp, timeout_ms=200)
                for record in batches.get(tp, ()):
                    # Put anew at the end: the order of segments is the order in which they were written.
                    entries.pop(record.key, None)
                    if record.value is not None:
                        entries[record.key] = record.value
        finally:
            await _closed(consumer.stop())
        return entries

    async def _loop(self, stage: Stage, inputs: Inputs, producer: AIOKafkaProducer, positions: Positions) -> None:
        idleness = Idleness(inputs, self._settings.join.idle_s, self._upstream_done)
        while True:
            batch = await inputs.read(_LINGER_S[self._stage_name])
            idle = await idleness.look(batch)
            out = Outbox(self._task.partitions)
            changes = stage.process(batch, idle, time.time_ns() // 1_000_000, out)
            for topic, records in batch.items():
                positions[topic] = records[-1].offset + 1
            # Where nothing came in or goes out only a clock moved, and it can be moved again.
            if batch or out:
                hit("worker.processed")
                await asyncio.wait_for(self._commit(producer, out, changes, positions), _ANSWER_S)
            self._noted({tp: await inputs.position(tp) for tp in self._inputs})
            if batch or out:
                hit("worker.offsets-noted")

    async def _commit(self, producer: AIOKafkaProducer, out: Outbox, changes: Changes, positions: Positions) -> None:
        for key, value in changes.items():
            out.bytes(self._changelog.topic, value, key, self._partition)
        out.bytes(self._changelog.topic, msgspec.msgpack.encode(positions), _META, self._partition)
        await producer.begin_transaction()
        hit("worker.transaction-begun")
        acknowledged = []
        for topic, partition, entries in out:
            acknowledged += await _send(producer, topic, partition, entries)
            hit("worker.topic-sent")
        # All of them, also after a failure: one that nobody awaited would be reported as lost.
        for result in await asyncio.gather(*acknowledged, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        hit("worker.batch-sent")
        await producer.commit_transaction()
        hit("worker.batch-committed")


async def _send(producer: AIOKafkaProducer, topic: str, partition: int, entries: list[Entry]) -> list[Any]:
    futures = []
    batch = producer.create_batch()
    for key, value in entries:
        if batch.append(key=key, value=value, timestamp=None) is None:
            futures.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    futures.append(await producer.send_batch(batch, topic, partition=partition))
    return futures


async def _closed(stopping: Any) -> None:
    """Closes a client of a broker that may be away: what it could not say, fencing says for it."""
    try:
        await asyncio.wait_for(stopping, 5.0)
    except (KafkaError, OSError, TimeoutError) as error:
        log.debug("close: %s", error)
