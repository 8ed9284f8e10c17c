"""The transactional loop of one stage on one partition: exactly once from inputs to outputs and state.

A batch is five steps:
1. read records of all inputs, from the positions that the state names;
2. let the stage handle them (pure);
3. begin a transaction and send outputs, the state's changes, and the new positions to the changelog;
4. commit: outputs, state and positions become visible together or not at all;
5. write the committed changes to the local copy, and note the positions, so that lag is visible to others.

Whoever is assigned the partition first fences the owner before (same transactional id), then restores the state up to
the changelog's end (`changelog`), then seeks. So an owner that does not know yet that it lost the partition can do no
harm.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from streams.cancellation import answered, asked_to_end
from streams.changelog import META, Meta, Restored, StateUnreadable, reader, restore
from streams.closing import end_consumer, end_producer
from streams.failpoints import hit
from streams.inputs import Idleness, Inputs, Records, Upstream
from streams.kafka import MAX_REQUEST_BYTES, backoff
from streams.local_state import LocalState, LocalStateError, Position
from streams.outbox import Outbox
from streams.record_batch import MOST_BYTES, RecordBatch, record_batches
from streams.settings import StreamsSettings
from streams.stages import STAGES, Changes, Idle, Stage, StageName
from streams.topics import EXAMPLES, FEATURES, changelog

log = logging.getLogger(__name__)

# A fenced owner that is still assigned tries again after this: by then it knows of its own eviction.
_FENCED_S: Final = 5.0

# After so many, which take 2 ms, the others have a moment: a commit takes five turns of the loop.
_PIECE_RECORDS: Final = 50
# A thread for fewer would cost more than it gives.
_MANY_RECORDS: Final = 1_000
# What the worker itself does not read again: aiokafka has no lz4 of its own. Examples of one answer repeat each other,
# and a seventh of the bytes costs the less to send, the larger part of all that goes out.
_PACKED: Final = frozenset({EXAMPLES.name, FEATURES.name})

# The changelogs are declared with `MAX_REQUEST_BYTES`, and fewer requests take less time.
_CHANGES_BYTES: Final = MAX_REQUEST_BYTES // 4

# A broker that says nothing for so long is asked anew, from the start: the client would wait for ever. Longer than a
# broker takes to come back, or every outage would have everybody start over.
_ANSWER_S: Final = 15.0
# How long (s) after a batch a trickle gathers for the next: each is a transaction, which costs about 1.3 ms of CPU here
# and 2.2 ms in the broker. An example may take 0.1 s from its event through two stages, though what comes after a
# silence need not wait; counts of items may be a moment older.
_APART_S: Final = {StageName.INTAKE: 0.025, StageName.JOIN: 0.025, StageName.ITEM_COUNTS: 0.5}
# Where much comes, the counts of the same items come again and again: they gather for longer, up to 2 s, so that they
# take a fiftieth of the time.
_REST: Final = {StageName.INTAKE: 0.0, StageName.JOIN: 0.0, StageName.ITEM_COUNTS: 50.0}
_MOST_APART_S: Final = 2.0


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a task needs beside the streams' settings. `partitions`: the count of every topic; `folder`: where this
    worker keeps its copies of the state, one folder a task."""

    app: str
    partitions: dict[str, int]
    folder: Path


class Task:
    """Owns one partition of one stage while `run` runs.

    `turn` is held by one of a worker's tasks at a time while it handles many records: those whose batch goes to the
    broker meanwhile get on with it. Without it they would go in step, and all wait for the broker at once.
    """

    def __init__(
        self,
        name: StageName,
        partition: int,
        settings: StreamsSettings,
        task: TaskSettings,
        noted: Callable[[dict[TopicPartition, int]], None],
        upstream_done: Upstream,
        turn: asyncio.Lock,
    ) -> None:
        self._settings = settings
        self._task = task
        self._partition = partition
        self._stage_name = name
        self._inputs = [TopicPartition(t.name, partition) for t in STAGES[name].inputs]
        self._changelog = TopicPartition(changelog(name), partition)
        self._noted = noted
        self._upstream_done = upstream_done
        self._turn = turn
        self.name = f"{name}-{partition}"
        self.stage: Stage | None = None
        self.restored = asyncio.Event()
        self._anew = False
        self._restored_records = 0

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
            except asyncio.CancelledError:
                if asked_to_end():
                    raise
                log.warning("%s: starts over from its changelog: the client gave up what was asked", self.name)
                await asyncio.sleep(next(waits))
            except (KafkaError, OSError, TimeoutError, LocalStateError) as error:
                # A copy that failed once is not asked again; the changelog has all of it.
                self._anew = isinstance(error, LocalStateError)
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
            max_request_size=MAX_REQUEST_BYTES,
            request_timeout_ms=10_000,
        )
        inputs = Inputs(self._settings.kafka, f"{self._task.app}-{self.name}", self._inputs)
        try:
            # Fencing first: what the owner before had open is aborted now, so the changelog's end is its end.
            await answered("fencing", producer.start(), _ANSWER_S)
            hit("worker.fenced")
            restored = await self._restore()
            meta = restored.meta or Meta({}, secrets.randbits(63))
            try:
                self.stage = STAGES[self._stage_name](self._settings, self._partition, restored.state)
                hit("worker.restored")
                await answered("the inputs", inputs.start(meta.positions), _ANSWER_S)
                log.info("%s: reads on", self.name)
                self.restored.set()
                await self._loop(self.stage, restored.state, inputs, producer, meta)
            except msgspec.DecodeError as error:
                raise StateUnreadable(f"{self._changelog.topic}-{self._partition}: {error}") from error
            finally:
                restored.state.close()
        finally:
            self.stage = None
            await asyncio.gather(inputs.stop(), end_producer(producer))

    async def _restore(self) -> Restored:
        consumer = reader(self._settings.kafka, f"{self._task.app}-{self.name}-restore")
        folder, memory_bytes = self._task.folder / self.name, self._settings.state.memory_bytes // 2
        try:
            await answered("the changelog", consumer.start(), _ANSWER_S)
            now_ms = time.time_ns() // 1_000_000
            restored = await restore(consumer, self._changelog, folder, memory_bytes, now_ms, anew=self._anew)
        finally:
            await end_consumer(consumer)
        self._anew = False
        self._restored_records = restored.records
        how = "its copy and the changelog's tail" if restored.from_copy else "its changelog"
        log.info("%s: restored from %s: %d records read", self.name, how, restored.records)
        return restored

    def counts(self) -> dict[str, int]:
        """Figures to report, by name; nothing while it does not run."""
        return self.stage.counts() | {"restored_records": self._restored_records} if self.stage is not None else {}

    async def _loop(
        self, stage: Stage, state: LocalState, inputs: Inputs, producer: AIOKafkaProducer, meta: Meta
    ) -> None:
        idleness = Idleness(inputs.inputs, inputs.at_end, self._settings.join.idle_s, self._upstream_done)
        apart_s = _APART_S[self._stage_name]
        while True:
            batch = await inputs.read(apart_s)
            idle = await idleness.look(batch)
            for topic, count in stage.early(batch).items():
                inputs.give_back(topic, batch[topic][len(batch[topic]) - count :])
                batch[topic] = batch[topic][: len(batch[topic]) - count]
            out = Outbox(self._task.partitions)
            now_ms = time.time_ns() // 1_000_000
            if sum(map(len, batch.values())) > _PIECE_RECORDS:
                async with self._turn:
                    changes, took_s = await _handled(stage, batch, idle, now_ms, out)
            else:
                changes, took_s = await _handled(stage, batch, idle, now_ms, out)
            apart_s = _apart_s(self._stage_name, took_s)
            for topic, records in batch.items():
                if records:
                    meta.positions[topic] = records[-1].offset + 1
            # Where nothing came in, changed or goes out only a clock moved, and it can be moved again.
            if batch or out or changes:
                hit("worker.processed")
                changes[META] = msgspec.msgpack.encode(meta)
                at = await answered("a batch", self._commit(producer, out, changes), _ANSWER_S)
                # Where the broker did not say where the batch is, the copy holds more than it says, which does no harm.
                state.apply(changes, Position(at, now_ms) if at is not None else None)
                hit("worker.copy-written")
                stage.settle()
                hit("worker.settled")
            self._noted({tp: inputs.position(tp) for tp in self._inputs})
            if batch or out:
                hit("worker.offsets-noted")

    async def _commit(self, producer: AIOKafkaProducer, out: Outbox, changes: Changes) -> int | None:
        """One transaction; the offset of its last record on the changelog, where the broker told it."""
        out.extend(self._changelog.topic, self._partition, list(changes.items()))
        laid_out = await _laid_out(out, self._changelog.topic)
        await producer.begin_transaction()
        hit("worker.transaction-begun")
        # All of them, also after a failure: one that nobody awaited would be reported as lost.
        results = await asyncio.gather(*(_sent(producer, *place) for place in laid_out), return_exceptions=True)
        firsts = _sound(results)
        hit("worker.batch-sent")
        await producer.commit_transaction()
        hit("worker.batch-committed")
        first = firsts[-1]
        return first + laid_out[-1][2][-1].record_count() - 1 if first >= 0 else None


async def _handled(stage: Stage, batch: Records, idle: Idle, now_ms: int, out: Outbox) -> tuple[Changes, float]:
    """What a stage makes of a batch, and the seconds that it took; others have a moment now and then."""
    took_s = 0.0
    for topic in stage.inputs:
        records = batch.get(topic.name, [])
        for first in range(0, len(records), _PIECE_RECORDS):
            began_s = time.monotonic()
            stage.take(topic.name, records[first : first + _PIECE_RECORDS], now_ms, out)
            took_s += time.monotonic() - began_s
            if first + _PIECE_RECORDS < len(records):
                await asyncio.sleep(0)
    began_s = time.monotonic()
    changes = stage.conclude(idle, now_ms, out, moved=bool(batch))
    return changes, took_s + time.monotonic() - began_s


async def _sent(producer: AIOKafkaProducer, topic: str, partition: int, batches: list[RecordBatch]) -> int:
    """Sends what goes to one partition; the offset of the last batch, -1 where the broker did not tell it.

    Partitions that are sent to at once share the requests.
    """
    sent = [await producer.send_batch(batch, topic, partition=partition) for batch in batches]
    hit("worker.topic-sent")
    return int(_sound(await asyncio.gather(*sent, return_exceptions=True))[-1].offset)


def _sound(results: list[Any]) -> list[Any]:
    """The results; raises the first of them that is an error."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


LaidOut = list[tuple[str, int, list[RecordBatch]]]


async def _laid_out(out: Outbox, changes: str) -> LaidOut:
    """The batches of each topic and partition, in order and once; much at once beside the other tasks. `changes` is the
    changelog."""
    now_ms = time.time_ns() // 1_000_000

    def lay_out() -> LaidOut:
        laid_out: dict[tuple[str, int], list[RecordBatch]] = {}
        for topic, partition, columns in out.columns():
            most_bytes = _CHANGES_BYTES if topic == changes else MOST_BYTES
            batches = list(record_batches(columns, now_ms, pack=topic in _PACKED, most_bytes=most_bytes))
            # Of a window's end no negative may be kept.
            if batches:
                laid_out.setdefault((topic, partition), []).extend(batches)
        return [(topic, partition, batches) for (topic, partition), batches in laid_out.items()]

    if out.count() < _MANY_RECORDS:
        return lay_out()
    return await asyncio.get_running_loop().run_in_executor(None, lay_out)


def _apart_s(name: StageName, took_s: float) -> float:
    """How long after a batch that took so long to process the next one may gather."""
    return max(_APART_S[name], min(_REST[name] * took_s, _MOST_APART_S))
