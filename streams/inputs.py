"""The inputs of one task: one consumer for each, and since when each has been idle."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.closing import end_consumer
from streams.settings import KafkaSettings

_POLL_MS: Final = 200
_MAX_RECORDS: Final = 2_000
# What one fetch may bring: more would only lie in memory while a backlog is read.
_FETCH_BYTES: Final = 2 * 2**20
# With less than this in hand a batch waits `linger`, which halves the transactions (and the CPU) at a trickle.
ENOUGH_RECORDS: Final = 500

# A broker that takes longer than this to say that an input is at its end was away, and producers could not reach it.
_ANSWER_S: Final = 1.0

Records = dict[str, list[Any]]
Upstream = Callable[[str], Awaitable[bool]]


def reader(settings: KafkaSettings, client_id: str) -> AIOKafkaConsumer:
    """A consumer of committed records that is assigned by hand."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        client_id=client_id,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
        request_timeout_ms=10_000,
    )


class Inputs:
    """Reads one partition of several topics, whichever has records first.

    Each has a consumer of its own: one consumer for both would leave an input unread while it waits for the other (the
    long poll of a fetch covers only partitions that had nothing in hand).
    """

    def __init__(self, settings: KafkaSettings, client_id: str, inputs: list[TopicPartition]) -> None:
        self.inputs = inputs
        self._readers = {tp: reader(settings, f"{client_id}-{tp.topic}") for tp in inputs}
        self._pending: dict[TopicPartition, asyncio.Task[Mapping[TopicPartition, list[Any]]]] = {}
        self._back: dict[TopicPartition, list[Any]] = {}

    async def start(self, positions: Mapping[str, int]) -> None:
        """Starts to read at `positions` (by topic), or at the log's beginning."""
        for tp, consumer in self._readers.items():
            await consumer.start()
            consumer.assign([tp])
            if tp.topic in positions:
                consumer.seek(tp, positions[tp.topic])
            else:
                await consumer.seek_to_beginning(tp)

    async def stop(self) -> None:
        """Closes the consumers."""
        for pending in self._pending.values():
            pending.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        await asyncio.gather(*(end_consumer(consumer) for consumer in self._readers.values()))

    async def read(self, linger_s: float) -> Records:
        """The next records by topic, in log order; nothing after 0.2 s of silence.

        A few records wait `linger_s` for company.
        """
        found: Records = {tp.topic: records for tp, records in self._back.items()}
        deadline_s: float | None = time.monotonic() + linger_s if found else None
        while True:
            self._poll()
            wait_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            pending = [self._pending[tp] for tp in self.inputs if tp not in self._back]
            await asyncio.wait(pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for topic, records in self._ready().items():
                found.setdefault(topic, []).extend(records)
            if not found or sum(map(len, found.values())) >= ENOUGH_RECORDS:
                break
            if deadline_s is None:
                deadline_s = time.monotonic() + linger_s
            elif time.monotonic() >= deadline_s:
                break
        self._back = {}
        return found

    def give_back(self, topic: str, records: list[Any]) -> None:
        """Takes back the last records of a topic that `read` gave: the next read begins with them.

        Not of every topic: something must be left to wait for.
        """
        if records:
            tp = next(tp for tp in self.inputs if tp.topic == topic)
            self._back[tp] = records

    def _poll(self) -> None:
        for tp, consumer in self._readers.items():
            if tp not in self._pending and tp not in self._back:
                polling = consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
                self._pending[tp] = asyncio.create_task(polling)

    def _ready(self) -> Records:
        found: Records = {}
        for tp, pending in list(self._pending.items()):
            if pending.done() and tp not in self._back:
                del self._pending[tp]
                records = pending.result().get(tp)
                if records:
                    found[tp.topic] = list(records)
        return found

    async def position(self, tp: TopicPartition) -> int:
        """The next offset to be handed out; past what only the broker writes (the ends of transactions)."""
        found: int = await self._readers[tp].position(tp)
        if back := self._back.get(tp):
            return int(back[0].offset)
        in_hand = self._pending.get(tp)
        if in_hand is not None and in_hand.done() and (records := in_hand.result().get(tp)):
            found = records[0].offset
        return found

    async def at_end(self, tp: TopicPartition) -> bool:
        """Whether the broker says, now, that there is nothing more to read; raises KafkaError where it is away."""
        ends = await self._readers[tp].end_offsets([tp])
        at_end: bool = await self.position(tp) >= ends[tp]
        return at_end


class Idleness:
    """Since when each input has been idle: at its end by the broker's own word, again and again, and silent for
    `grace_s`. Time in which the broker could not be heard is not silence: nobody could write.

    `upstream_done` says whether whoever writes a topic from others of ours has nothing left to read: what the intake
    still holds back is not silence.
    """

    def __init__(self, inputs: Inputs, grace_s: float, upstream_done: Upstream) -> None:
        self._inputs = inputs
        self._upstream_done = upstream_done
        self._grace_s = grace_s
        self._last_s = dict.fromkeys(inputs.inputs, time.monotonic())
        self._heard_s = dict(self._last_s)
        self._asked_s = 0.0

    async def look(self, batch: Records) -> dict[str, int | None]:
        """By topic: ms of idleness beyond the grace, or None. A broker that is away makes nothing idle (it raises)."""
        now = time.monotonic()
        idle: dict[str, int | None] = {tp.topic: None for tp in self._last_s}
        for tp in self._last_s:
            if batch.get(tp.topic):
                self._last_s[tp] = now
        if len(idle) == 1:
            # Nobody waits for the only input.
            return idle
        silent = [tp for tp, last_s in self._last_s.items() if now - last_s >= self._grace_s]
        # Asking twice in each grace is often enough to act on, and rare enough to cost nothing.
        if not silent or now - self._asked_s < self._grace_s / 2:
            return idle
        self._asked_s = now
        for tp in silent:
            quiet = await self._upstream_done(tp.topic) and await self._inputs.at_end(tp)
            answered_s = time.monotonic()
            unheard_s = answered_s - max(self._last_s[tp] + self._grace_s, self._heard_s[tp])
            if quiet and unheard_s <= self._grace_s + _ANSWER_S:
                idle[tp.topic] = int((now - self._last_s[tp] - self._grace_s) * 1_000)
            else:
                # Records are on their way, or the broker was: time that they took is not silence.
                self._last_s[tp] = answered_s
            self._heard_s[tp] = answered_s
        return idle
