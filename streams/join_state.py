"""What the join remembers, how each piece is written, and the bounded memory that it is remembered in."""

from collections.abc import Container
from typing import Final

import msgspec
import xxhash
from msgspec import Struct, field

from streams.kept import Kept, Written
from streams.local_state import LocalState
from streams.records import Action, UsedFeatures
from streams.time_index import TimeIndex
from streams.user_table import UserTable

NEVER: Final = -(2**62)

# The state's keys: the kind, then what it is about.
_PROGRESS: Final = b"progress"
_HELD, _SLOTS, _WAITING, _SEEN = b"i/", b"s/", b"w/", b"d/"
_DUE_HELD, _DUE_WAITING, _DUE_SEEN = b"ti", b"tw", b"td"
# What they take in memory on average, with one action (measured).
_WAITING_BYTES, _SEEN_BYTES = 1_200, 40


class Clock(Struct, array_like=True):
    """The event time (ms) that one input has reached.

    `value` never runs backwards. `base` is where the last record left it: silence is added to that. An input that
    never had a record has `base` None.
    """

    value: int = NEVER
    base: int | None = None

    def record(self, ts: int) -> int:
        """Moves on to a record's time and returns where the clock stood before it."""
        before = self.value
        self.value = max(before, ts)
        self.base = self.value
        return before


class Progress(Struct, array_like=True):
    """How far the join is, as one record.

    Both inputs' clocks are kept: the smaller alone would stall the watermark after a restart. `actions` and `batches`
    count what was taken and written. The buckets before `closed`, `dropped`, `decided`, `forgotten` have been through
    their windows' ends, their horizons, their waiting, their deduplication. `held`, `waiting`, `seen`: how many there
    are.
    """

    impression_clock: Clock = field(default_factory=Clock)
    action_clock: Clock = field(default_factory=Clock)
    actions: int = 0
    batches: int = 0
    closed: int = 0
    dropped: int = 0
    decided: int = 0
    forgotten: int = 0
    held: int = 0
    waiting: int = 0
    seen: int = 0


class Slot(Struct, array_like=True):
    """What is known of one shown item on which somebody acted.

    `marks`: by task and kind of action the newest action's time and the label that it made; of a value task under ""
    that of the newest action of any kind. `revisions`: how many were emitted. `negative`: whether one of them was a
    negative.
    """

    marks: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    revisions: int = 0
    negative: bool = False

    def mark(self, labels: dict[str, float], kind: str, ts: int, values: Container[str] = ()) -> None:
        """Notes an action's labels; of several actions of one kind the newest by event time counts.

        Of the tasks in `values` the newest action of all counts, of equal times the one with the larger value: which
        does not depend on the order in which they came.
        """
        for task, label in labels.items():
            kinds = self.marks.setdefault(task, {})
            if task in values:
                kinds[""] = max((ts, label), kinds.get("", (NEVER, 0.0)))
            elif kind not in kinds or kinds[kind][0] <= ts:
                kinds[kind] = (ts, label)

    def label(self, task: str) -> float | None:
        """The label of `task`: 1 where any kind of action says so, or its value; None where none said anything."""
        kinds = self.marks.get(task)
        if not kinds:
            return None
        best = 0.0
        for _, label in kinds.values():
            if label > best:
                best = label
        return best


class HeldRecord(Struct, array_like=True):
    """The part of a held impression that does not change; `bucket` is the one of the time index that it is in."""

    ts: int
    behind: int
    bucket: int
    raw: bytes


class HeldState(Struct, array_like=True):
    """The part of a held impression that changes."""

    closed: bool
    slots: dict[int, Slot]


class Held(Struct, gc=False):
    """An impression that waits for actions: its record's bytes and what happened since.

    `behind`: where the impressions' clock, less the lateness, stood when it came: an action of an earlier time may have
    been decided without it. Closed once its window is over. `slots` by index into the items shown. `fresh` and
    `touched` say what is not written yet.
    """

    record: HeldRecord
    closed: bool = False
    slots: dict[int, Slot] | None = None
    fresh: bool = False
    touched: bool = False

    def touch(self) -> dict[int, Slot]:
        """The slots, to be changed."""
        self.touched = True
        if self.slots is None:
            self.slots = {}
        return self.slots


class Waiting(Struct, array_like=True):
    """An action whose impression is not there yet. `before`: where the actions' clock stood when it came; `order`
    counts the actions of this partition, so that waiting ones are decided in the order of the log."""

    action: Action
    before: int
    order: int
    user_features: UsedFeatures | None


def pair(user: str, request: str) -> bytes:
    """One key of both."""
    return _encode((user, request))


def identity(*parts: str) -> int:
    """64 bits that stand for an event id of a user, or the like (xxh3).

    Among n remembered ids a new one is mistaken for a known one with probability n / 2**64: 5e-14 at a million.
    """
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode())


class JoinState:
    """All that a join remembers, on disk as far as it does not fit in `memory_bytes`."""

    def __init__(self, disk: LocalState, memory_bytes: int) -> None:
        self._disk = disk
        found = disk.get(_PROGRESS)
        self.progress = msgspec.msgpack.decode(found, type=Progress) if found is not None else Progress()
        # Most bytes are impressions'; of users and event ids many small values are asked for again.
        self.held = Kept(memory_bytes // 2, self._load_held, self._dump_held, _held_bytes, by_age=True)
        self.users = UserTable(disk, memory_bytes // 4)
        self.seen = Kept(memory_bytes // 8, self._load_seen, _dump_seen, lambda _: _SEEN_BYTES)
        self.waiting = Kept(memory_bytes // 8, self._load_waiting, _dump_waiting, lambda _: _WAITING_BYTES)
        self._tables = (self.held, self.users.kept, self.seen, self.waiting)
        self.due_held = TimeIndex(disk, _DUE_HELD)
        self.due_waiting = TimeIndex(disk, _DUE_WAITING)
        self.due_seen = TimeIndex(disk, _DUE_SEEN)
        self._indexes = (self.due_held, self.due_waiting, self.due_seen)

    def drop_held(self, key: bytes) -> None:
        """Forgets a held impression, which need not be loaded for that."""
        self.held.delete(key)
        self.progress.held -= 1

    def drain(self, moved: bool) -> Written:
        """What changed since the last drain; `moved` says that clocks count as a change."""
        changes: Written = {}
        self.users.drain(changes)
        for table in (self.held, self.seen, self.waiting):
            table.drain(changes)
        self.progress.batches += 1
        for index in self._indexes:
            index.drain(changes, self.progress.batches)
        if changes or moved:
            changes[_PROGRESS] = _encode(self.progress)
        return changes

    def settle(self) -> None:
        """Says that what was drained is on disk."""
        for table in self._tables:
            table.settle()

    def figures(self) -> dict[str, int]:
        """How much is remembered and where, by name, for metrics."""
        return {
            "held": self.progress.held,
            "waiting": self.progress.waiting,
            "event_ids": self.progress.seen,
            "cached_bytes": sum(table.memory_bytes for table in self._tables),
            "disk_bytes": self._disk.disk_bytes(),
            "loads": sum(table.loads for table in self._tables),
            "spilled": sum(table.spilled for table in self._tables),
        }

    # --- how each kind is written -------------------------------------------------------------------------------

    def _load_held(self, key: bytes) -> Held | None:
        found = self._disk.get(_HELD + key)
        if found is None:
            return None
        held = Held(_decode_held(found))
        # Closing leaves no trace of its own: a window's end is behind, or it is not.
        held.closed = held.record.bucket < self.progress.closed
        if (changed := self._disk.get(_SLOTS + key)) is not None:
            state = _decode_slots(changed)
            held.closed, held.slots = held.closed or state.closed, state.slots
        return held

    def _dump_held(self, key: bytes, held: Held | None, changes: Written) -> None:
        if held is None:
            changes[_HELD + key] = None
            if self._disk.get(_SLOTS + key) is not None:
                changes[_SLOTS + key] = None
            return
        if held.fresh:
            changes[_HELD + key] = _encode(held.record)
            held.fresh = False
        if held.touched:
            changes[_SLOTS + key] = _encode(HeldState(held.closed, held.slots or {}))
            held.touched = False

    def _load_seen(self, one: int) -> int | None:
        found = self._disk.get(_SEEN + one.to_bytes(8, "big"))
        return int.from_bytes(found, "big", signed=True) if found is not None else None

    def _load_waiting(self, key: bytes) -> list[Waiting] | None:
        found = self._disk.get(_WAITING + key)
        return _decode_waiting(found) if found is not None else None


_encode = msgspec.msgpack.Encoder().encode
_decode_held = msgspec.msgpack.Decoder(HeldRecord).decode
_decode_slots = msgspec.msgpack.Decoder(HeldState).decode
_decode_waiting = msgspec.msgpack.Decoder(list[Waiting]).decode


def _held_bytes(held: Held) -> int:
    return len(held.record.raw) + 200


def _dump_seen(one: int, ts: int | None, changes: Written) -> None:
    changes[_SEEN + one.to_bytes(8, "big")] = None if ts is None else ts.to_bytes(8, "big", signed=True)


def _dump_waiting(key: bytes, waiting: list[Waiting] | None, changes: Written) -> None:
    changes[_WAITING + key] = None if waiting is None else _encode(waiting)
