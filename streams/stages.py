"""The worker's stages: what each does with a batch of one partition. Pure: records in, an outbox out."""

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from streams import topics
from streams.aggregates import ItemStats, feature_key
from streams.codec import Unreadable
from streams.dead_letters import Origin, Reason, dead_letter
from streams.intake import Intake, Rejected
from streams.join import Join
from streams.outbox import Outbox
from streams.settings import StreamsSettings
from streams.topics import Topic

Batch = Mapping[str, Sequence[Origin]]
Changes = dict[bytes, bytes | None]
Idle = Mapping[str, int | None]


class StageName(enum.StrEnum):
    """The stages that own partitions; each names its changelog and its transactional ids."""

    INTAKE = "intake"
    JOIN = "join"
    ITEM_COUNTS = "item-counts"


class Stage(Protocol):
    """What the transactional loop of one partition runs."""

    def restore(self, entries: dict[bytes, bytes]) -> None:
        """Takes back the state from the newest value of every key of the changelog."""

    def process(self, batch: Batch, idle: Idle, now_ms: int, out: Outbox) -> Changes:
        """Handles the records by topic, each in the order of its log; puts what follows into `out`.

        `idle` says per input for how long it has been idle beyond its grace (ms; None: it is not). Returns the state's
        changes.
        """

    def counts(self) -> dict[str, int]:
        """Figures to report, by name."""


class IntakeStage:
    """`events` -> `actions`, `dead-letters`."""

    inputs: tuple[Topic, ...] = (topics.EVENTS,)

    def __init__(self, settings: StreamsSettings, partition: int) -> None:
        self._intake = Intake(settings)
        self._events = 0
        self._rejected = 0

    def restore(self, entries: dict[bytes, bytes]) -> None:
        """There is nothing but the positions, which the loop keeps."""

    def process(self, batch: Batch, idle: Idle, now_ms: int, out: Outbox) -> Changes:
        for record in batch.get(topics.EVENTS.name, ()):
            self._events += 1
            try:
                origin = f"{record.topic}-{record.partition}-{record.offset}"
                accepted = self._intake.read(record.value, origin, now_ms)
            except Rejected as rejected:
                self._rejected += 1
                _bury(out, record, rejected.reason, rejected.detail, now_ms)
            else:
                out.bytes(topics.ACTIONS.name, accepted.data, accepted.action.user.encode())
        return {}

    def counts(self) -> dict[str, int]:
        return {"events": self._events, "rejected": self._rejected}


class JoinStage:
    """`impressions`, `actions` -> `examples`, `signals`, `features` (users), `dead-letters`."""

    inputs: tuple[Topic, ...] = (topics.IMPRESSIONS, topics.ACTIONS)

    def __init__(self, settings: StreamsSettings, partition: int) -> None:
        self._join = Join(settings)
        self._partition = partition
        self._unreadable = 0

    def restore(self, entries: dict[bytes, bytes]) -> None:
        self._join.restore(entries)

    def process(self, batch: Batch, idle: Idle, now_ms: int, out: Outbox) -> Changes:
        # Impressions first: what is there need not be waited for.
        for record in batch.get(topics.IMPRESSIONS.name, ()):
            try:
                raw = record.value or b""
                impression = topics.IMPRESSIONS.codec.decode(raw)
            except Unreadable as error:
                self._refuse(out, record, Reason.UNREADABLE, str(error), now_ms)
                continue
            if not self._join.impression(impression, raw):
                self._refuse(out, record, Reason.TOO_LATE, "its window and horizon are over", now_ms)
        for record in batch.get(topics.ACTIONS.name, ()):
            try:
                self._join.action(topics.ACTIONS.codec.decode(record.value or b""))
            except Unreadable as error:
                self._refuse(out, record, Reason.UNREADABLE, str(error), now_ms)
        self._join.advance(idle.get(topics.IMPRESSIONS.name), idle.get(topics.ACTIONS.name))
        joined = self._join.drain(now_ms)
        for example in joined.examples:
            # Same key, partitioner and count as the inputs: the partition is known.
            out.record(topics.EXAMPLES, example, example.user, self._partition)
        for signal in joined.signals:
            out.record(topics.SIGNALS, signal, signal.item)
        for row in joined.features:
            out.record(topics.FEATURES, row, feature_key(row.view, row.entities))
        return joined.changes

    def _refuse(self, out: Outbox, record: Origin, reason: Reason, detail: str, now_ms: int) -> None:
        self._unreadable += 1
        _bury(out, record, reason, detail, now_ms)

    def counts(self) -> dict[str, int]:
        return msgspec.structs.asdict(self._join.counts) | self._join.sizes() | {"refused": self._unreadable}


class ItemCountsStage:
    """`signals` -> `features` (items, per arm)."""

    inputs: tuple[Topic, ...] = (topics.SIGNALS,)

    def __init__(self, settings: StreamsSettings, partition: int) -> None:
        self._stats: dict[tuple[str, str], ItemStats] = {}
        self._signals = 0

    def restore(self, entries: dict[bytes, bytes]) -> None:
        for key, value in entries.items():
            item, arm = msgspec.json.decode(key, type=tuple[str, str])
            self._stats[item, arm] = msgspec.msgpack.decode(value, type=ItemStats)

    def process(self, batch: Batch, idle: Idle, now_ms: int, out: Outbox) -> Changes:
        changed: dict[tuple[str, str], ItemStats] = {}
        for record in batch.get(topics.SIGNALS.name, ()):
            try:
                signal = topics.SIGNALS.codec.decode(record.value or b"")
            except Unreadable as error:
                _bury(out, record, Reason.UNREADABLE, str(error), now_ms)
                continue
            self._signals += 1
            key = (signal.item, signal.arm)
            stats = self._stats.setdefault(key, ItemStats())
            stats.add(signal)
            changed[key] = stats
        changes: Changes = {}
        for (item, arm), stats in changed.items():
            row = stats.row(item, arm, now_ms)
            out.record(topics.FEATURES, row, feature_key(row.view, row.entities))
            changes[msgspec.json.encode((item, arm))] = msgspec.msgpack.encode(stats)
        return changes

    def counts(self) -> dict[str, int]:
        return {"signals": self._signals, "item_rows": len(self._stats)}


def _bury(out: Outbox, record: Origin, reason: Reason, detail: str, now_ms: int) -> None:
    key, value = dead_letter(record, reason, detail, now_ms)
    out.bytes(topics.DEAD_LETTERS.name, value, key, 0)


STAGES: dict[StageName, type[IntakeStage] | type[JoinStage] | type[ItemCountsStage]] = {
    StageName.INTAKE: IntakeStage,
    StageName.JOIN: JoinStage,
    StageName.ITEM_COUNTS: ItemCountsStage,
}
