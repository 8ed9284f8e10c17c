"""The worker's stages: what each does with a batch of one partition. Pure: records in, an outbox out."""

import enum
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec

from streams import topics
from streams.aggregates import feature_key
from streams.codec import Unreadable
from streams.columns import Columns
from streams.dead_letters import Origin, Reason, dead_letter
from streams.intake import Intake, Rejected
from streams.item_counts import ItemCounts
from streams.join import Join
from streams.local_state import LocalState
from streams.negatives import Closed
from streams.outbox import Outbox
from streams.settings import StreamsSettings
from streams.signals import SignalColumns, decoded, merged
from streams.topics import Topic

log = logging.getLogger(__name__)

# Where so many are in hand, a backlog is read.
_BACKLOG_RECORDS: Final = 500
_WARN_EVERY_MS: Final = 60_000
Changes = dict[bytes, bytes | None]
Idle = Mapping[str, int | None]


class StageName(enum.StrEnum):
    """The stages that own partitions; each names its changelog and its transactional ids."""

    INTAKE = "intake"
    JOIN = "join"
    ITEM_COUNTS = "item-counts"


class Stamped(Origin, Protocol):
    """A record as the loop hands it over; of `impressions` its timestamp (ms) is when the broker appended it."""

    @property
    def timestamp(self) -> int: ...


Batch = Mapping[str, Sequence[Stamped]]


class Stage(Protocol):
    """What the transactional loop of one partition runs, on the state that it left on disk."""

    inputs: tuple[Topic, ...]

    def early(self, batch: Batch) -> dict[str, int]:
        """How many of the last records of each topic would better be handled with a later batch."""

    def take(self, topic: str, records: Sequence[Stamped], now_ms: int, out: Outbox) -> None:
        """Takes records of an input, in the order of its log; puts what follows at once into `out`.

        Of a batch the inputs come in the order of `inputs`.
        """

    def conclude(self, idle: Idle, now_ms: int, out: Outbox, *, moved: bool) -> Changes:
        """Puts into `out` what the batch that was taken came to, and returns the state's changes, to be written to disk
        once they are committed; nothing, where nothing but time went by.

        `idle` says per input for how long it has been idle beyond its grace (ms; None: it is not); `moved`, whether
        anything was taken.
        """

    def settle(self) -> None:
        """Says that the changes of the last batch are on disk: memory may be given back."""

    def counts(self) -> dict[str, int]:
        """Figures to report, by name."""


class _ImpressionTime(msgspec.Struct, array_like=True):
    v: int
    request_id: str
    ts: int


class _ActionTime(msgspec.Struct):
    ts: int


_impression_time = msgspec.msgpack.Decoder(_ImpressionTime).decode
_action_time = msgspec.json.Decoder(_ActionTime).decode


class IntakeStage:
    """`events` -> `actions`, `dead-letters`."""

    inputs: tuple[Topic, ...] = (topics.EVENTS,)

    def __init__(self, settings: StreamsSettings, partition: int, disk: LocalState) -> None:
        self._intake = Intake(settings)
        self._events = 0
        self._rejected = 0

    def settle(self) -> None:
        """There is nothing but the positions, which the loop keeps."""

    def early(self, batch: Batch) -> dict[str, int]:
        return {}

    def take(self, topic: str, records: Sequence[Stamped], now_ms: int, out: Outbox) -> None:
        for record in records:
            self._events += 1
            try:
                origin = f"{record.topic}-{record.partition}-{record.offset}"
                accepted = self._intake.read(record.value, origin, now_ms)
            except Rejected as rejected:
                self._rejected += 1
                _bury(out, record, rejected.reason, rejected.detail, now_ms)
            else:
                out.bytes(topics.ACTIONS.name, accepted.data, accepted.action.user.encode())

    def conclude(self, idle: Idle, now_ms: int, out: Outbox, *, moved: bool) -> Changes:
        return {}

    def counts(self) -> dict[str, int]:
        return {"events": self._events, "rejected": self._rejected}


class JoinStage:
    """`impressions`, `actions` -> `examples`, `signals`, `features` (users), `dead-letters`."""

    # Impressions first: what is there need not be waited for.
    inputs: tuple[Topic, ...] = (topics.IMPRESSIONS, topics.ACTIONS)

    def __init__(self, settings: StreamsSettings, partition: int, disk: LocalState) -> None:
        self._join = Join(settings, disk)
        self._partition = partition
        self._unreadable = 0
        self._evicted = 0
        self._warned_ms = -_WARN_EVERY_MS

    def settle(self) -> None:
        self._join.settle()

    def early(self, batch: Batch) -> dict[str, int]:
        # Where a backlog is read, actions that are ahead of the impressions in hand would all have to wait for theirs.
        shown, acted = batch.get(topics.IMPRESSIONS.name, ()), batch.get(topics.ACTIONS.name, ())
        if not shown or not acted or len(shown) + len(acted) < _BACKLOG_RECORDS:
            return {}
        try:
            reached = _impression_time(shown[-1].value or b"").ts
            ahead = 0
            while ahead < len(acted) and _action_time(acted[-1 - ahead].value or b"").ts > reached:
                ahead += 1
        except msgspec.DecodeError:
            return {}
        return {topics.ACTIONS.name: ahead}

    def take(self, topic: str, records: Sequence[Stamped], now_ms: int, out: Outbox) -> None:
        if topic == topics.IMPRESSIONS.name:
            self._take_impressions(records, now_ms, out)
        else:
            self._take_actions(records, now_ms, out)

    def _take_impressions(self, records: Sequence[Stamped], now_ms: int, out: Outbox) -> None:
        join, impression_of = self._join, topics.IMPRESSIONS.codec.decode
        for record in records:
            try:
                raw = record.value or b""
                join.impression(impression_of(raw), raw, record.timestamp)
            except Unreadable as error:
                self._refuse(out, record, Reason.UNREADABLE, str(error), now_ms)
            except Rejected as rejected:
                self._refuse(out, record, rejected.reason, rejected.detail, now_ms)

    def _take_actions(self, records: Sequence[Stamped], now_ms: int, out: Outbox) -> None:
        join, action_of = self._join, topics.ACTIONS.codec.decode
        for record in records:
            try:
                join.action(action_of(record.value or b""))
            except Unreadable as error:
                self._refuse(out, record, Reason.UNREADABLE, str(error), now_ms)

    def conclude(self, idle: Idle, now_ms: int, out: Outbox, *, moved: bool) -> Changes:
        join = self._join
        join.advance(idle.get(topics.IMPRESSIONS.name), idle.get(topics.ACTIONS.name))
        self._warn(now_ms)
        joined = join.drain(now_ms, moved=moved)
        # Same key, partitioner and count as the inputs: the partition is known.
        if joined.closed:
            out.put_first(topics.EXAMPLES.name, self._partition, partial(self._negatives, joined.closed))
        out.extend(topics.EXAMPLES.name, self._partition, joined.examples)
        for partition, signals in joined.signals.records():
            out.record(topics.SIGNALS, signals, "", partition)
        for row in joined.features:
            out.record(topics.FEATURES, row, feature_key(row.view, row.entities))
        return joined.changes

    def _negatives(self, closed: Closed) -> Columns:
        """Makes the negatives, beside the other tasks; nothing else of this stage runs meanwhile."""
        columns = closed.columns()
        self._join.counts.negatives += len(columns)
        return columns

    def _warn(self, now_ms: int) -> None:
        """Says, now and then, that impressions were forgotten early."""
        evicted = self._join.counts.evicted
        if evicted == self._evicted or now_ms - self._warned_ms < _WARN_EVERY_MS:
            return
        log.warning(
            "join-%d: %d impressions forgotten early, for want of `join.max_held`: later actions on them are organic",
            self._partition,
            evicted - self._evicted,
        )
        self._evicted, self._warned_ms = evicted, now_ms

    def _refuse(self, out: Outbox, record: Origin, reason: Reason, detail: str, now_ms: int) -> None:
        self._unreadable += 1
        _bury(out, record, reason, detail, now_ms)

    def counts(self) -> dict[str, int]:
        return msgspec.structs.asdict(self._join.counts) | self._join.sizes() | {"refused": self._unreadable}


class ItemCountsStage:
    """`signals` -> `features` (items, per arm)."""

    inputs: tuple[Topic, ...] = (topics.SIGNALS,)

    def __init__(self, settings: StreamsSettings, partition: int, disk: LocalState) -> None:
        self._items = ItemCounts(disk, settings.state.memory_bytes // 2)
        self._signals = 0
        self._taken: list[SignalColumns] = []

    def settle(self) -> None:
        self._items.settle()

    def early(self, batch: Batch) -> dict[str, int]:
        return {}

    def take(self, topic: str, records: Sequence[Stamped], now_ms: int, out: Outbox) -> None:
        for record in records:
            try:
                self._taken.append(decoded(topics.SIGNALS.codec.decode(record.value or b"")))
            except (Unreadable, ValueError) as error:
                _bury(out, record, Reason.UNREADABLE, str(error), now_ms)

    def conclude(self, idle: Idle, now_ms: int, out: Outbox, *, moved: bool) -> Changes:
        signals, self._taken = merged(self._taken), []
        self._signals += len(signals.item)
        for (item, arm), stats in self._items.add(signals).items():
            row = stats.row(item, arm, now_ms)
            out.record(topics.FEATURES, row, feature_key(row.view, row.entities))
        return self._items.drain()

    def counts(self) -> dict[str, int]:
        return {"signals": self._signals} | self._items.figures()


def _bury(out: Outbox, record: Origin, reason: Reason, detail: str, now_ms: int) -> None:
    key, value = dead_letter(record, reason, detail, now_ms)
    out.bytes(topics.DEAD_LETTERS.name, value, key, 0)


STAGES: dict[StageName, type[IntakeStage] | type[JoinStage] | type[ItemCountsStage]] = {
    StageName.INTAKE: IntakeStage,
    StageName.JOIN: JoinStage,
    StageName.ITEM_COUNTS: ItemCountsStage,
}
