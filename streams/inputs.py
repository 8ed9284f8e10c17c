"""The inputs of one task, and since when each has been idle."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from aiokafka import TopicPartition

from streams.log_reader import LogReader, LogRecord
from streams.settings import KafkaSettings

_SILENCE_S: Final = 0.2
# How long the broker holds back an answer without records.
_POLL_S: Final = 0.5
_MAX_RECORDS: Final = 2_000

# A broker that takes longer than this to say that an input is at its end was away, and producers could not reach it.
_ANSWER_S: Final = 1.0

Records = dict[str, list[LogRecord]]
Upstream = Callable[[str], Awaitable[bool]]
AtEnd = Callable[[TopicPartition], Awaitable[bool]]


class Inputs:
    """Reads one partition of several topics, whichever has records first."""

    def __init__(self, settings: KafkaSettings, client_id: str, inputs: list[TopicPartition]) -> None:
        self.inputs = inputs
        self._reader = LogReader(settings, client_id)
        self._back: dict[TopicPartition, list[LogRecord]] = {}
        self._read_s = -math.inf

    async def start(self, positions: Mapping[str, int]) -> None:
        """Starts to read at `positions` (by topic), or at the log's beginning."""
        await self._reader.start({tp: positions.get(tp.topic) for tp in self.inputs})

    async def stop(self) -> None:
        """Closes the connections."""
        await self._reader.stop()

    async def read(self, apart_s: float) -> Records:
        """The next records by topic, in log order; nothing after 0.2 s of silence.

        A trickle gathers until `apart_s` after the read before; what comes after a silence is there at once, and a
        backlog is read on.
        """
        if not self._back and not self._behind():
            await asyncio.sleep(self._read_s + apart_s - time.monotonic())
        until_s = time.monotonic() + _SILENCE_S
        found = {tp.topic: records for tp, records in self._back.items()}
        wanted = [tp for tp in self.inputs if tp not in self._back]
        while True:
            in_hand = any(self._reader.in_hand(tp) for tp in wanted)
            self._reader.ask(wanted, 0.0 if in_hand or found else _POLL_S)
            await self._reader.wait(0.0 if in_hand else max(0.0, until_s - time.monotonic()))
            for tp in wanted:
                if records := self._reader.take(tp, _MAX_RECORDS):
                    found[tp.topic] = records
            if found or time.monotonic() >= until_s:
                break
        self._back = {}
        if found:
            self._read_s = time.monotonic()
        if self._behind():
            # The next are on their way while these are handled.
            self._reader.ask(self.inputs, 0.0)
        return found

    def _behind(self) -> bool:
        return any(self._reader.behind(tp) for tp in self.inputs)

    def give_back(self, topic: str, records: list[LogRecord]) -> None:
        """Takes back the last records of a topic that `read` gave: the next read begins with them.

        Not of every topic: something must be left to wait for.
        """
        if records:
            tp = next(tp for tp in self.inputs if tp.topic == topic)
            self._back[tp] = records

    def position(self, tp: TopicPartition) -> int:
        """The next offset to be handed out; past what only the broker writes (the ends of transactions)."""
        back = self._back.get(tp)
        return back[0].offset if back else self._reader.position(tp)

    async def at_end(self, tp: TopicPartition) -> bool:
        """Whether the broker says, now, that there is nothing more to read; raises KafkaError where it is away."""
        end = await self._reader.end(tp)
        return self.position(tp) >= end


class Idleness:
    """Since when each input has been idle: at its end by the broker's own word, again and again, and silent for
    `grace_s`. Time in which the broker could not be heard is not silence: nobody could write.

    `upstream_done` says whether whoever writes a topic from others of ours has nothing left to read: what the intake
    still holds back is not silence. `clock_s` is a clock that does not run backwards.
    """

    def __init__(
        self,
        inputs: Sequence[TopicPartition],
        at_end: AtEnd,
        grace_s: float,
        upstream_done: Upstream,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_end = at_end
        self._upstream_done = upstream_done
        self._grace_s = grace_s
        self._clock_s = clock_s
        self._last_s = dict.fromkeys(inputs, clock_s())
        self._heard_s = dict(self._last_s)
        self._asked_s = 0.0

    async def look(self, batch: Records) -> dict[str, int | None]:
        """By topic: ms of idleness beyond the grace, or None. A broker that is away makes nothing idle (it raises)."""
        now = self._clock_s()
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
            quiet = await self._upstream_done(tp.topic) and await self._at_end(tp)
            answered_s = self._clock_s()
            unheard_s = answered_s - max(self._last_s[tp] + self._grace_s, self._heard_s[tp])
            if quiet and unheard_s <= self._grace_s + _ANSWER_S:
                idle[tp.topic] = int((now - self._last_s[tp] - self._grace_s) * 1_000)
            else:
                # Records are on their way, or the broker was: time that they took is not silence.
                self._last_s[tp] = answered_s
            self._heard_s[tp] = answered_s
        return idle
