"""What the join remembers, and how each piece is written to its changelog."""

from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
import xxhash
from msgspec import Struct, field

from streams.records import Action, Impression, UsedFeatures
from streams.topics import IMPRESSIONS

NEVER: Final = -(2**62)


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


class Clocks(Struct, array_like=True):
    """Both inputs' clocks. Both are kept: the smaller alone would stall the watermark after a restart."""

    impressions: Clock = field(default_factory=Clock)
    actions: Clock = field(default_factory=Clock)


class Slot(Struct, array_like=True):
    """What is known of one shown item on which somebody acted.

    `marks`: by task and kind of action the newest action's time and the label that it made. `revisions`: how many were
    emitted. `negative`: whether one of them was a negative.
    """

    marks: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    revisions: int = 0
    negative: bool = False

    def mark(self, labels: dict[str, float], kind: str, ts: int) -> None:
        """Notes an action's labels; of several actions of one kind the newest by event time counts."""
        for task, label in labels.items():
            kinds = self.marks.setdefault(task, {})
            if kind not in kinds or kinds[kind][0] <= ts:
                kinds[kind] = (ts, label)

    def label(self, task: str) -> float | None:
        """The label of `task`: 1 where any kind of action says so; None where none said anything."""
        kinds = self.marks.get(task)
        return max(label for _, label in kinds.values()) if kinds else None


class Held(Struct):
    """An impression that waits for actions, with its record's bytes.

    `behind`: where the impressions' clock, less the lateness, stood when it came: an action of an earlier time may have
    been decided without it. Closed once its window is over; from then on only the bytes are kept, a fifth of what the
    decoded record takes. `slots` by index into the items shown.
    """

    ts: int
    behind: int
    raw: bytes
    impression: Impression | None = None
    closed: bool = False
    slots: dict[int, Slot] = field(default_factory=dict)

    def opened(self) -> Impression:
        """The impression, decoded."""
        if self.impression is not None:
            return self.impression
        found: Impression = IMPRESSIONS.codec.decode(self.raw)
        if not self.closed:
            self.impression = found
        return found


class HeldState(Struct, array_like=True):
    """The part of a held impression that changes."""

    closed: bool
    slots: dict[int, Slot]


class HeldRecord(Struct, array_like=True):
    """The part of a held impression that does not change."""

    ts: int
    behind: int
    raw: bytes


class Waiting(Struct, array_like=True):
    """An action whose impression is not there yet. `before`: where the actions' clock stood when it came; `order`
    counts the actions of this partition, so that waiting ones are decided in the order of the log."""

    action: Action
    before: int
    order: int
    user_features: UsedFeatures | None


def identity(*parts: str) -> int:
    """64 bits that stand for an event id of a user, or the like (xxh3).

    Among n remembered ids a new one is mistaken for a known one with probability n / 2**64: 5e-14 at a million.
    """
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode())


class Segment(Struct, array_like=True):
    """Ids that were first seen in one batch, as little-endian bytes: `ids` u64, `times` i64 (ms)."""

    newest: int
    ids: bytes
    times: bytes

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Each id with its time."""
        ids: list[int] = np.frombuffer(self.ids, dtype="<u8").tolist()
        times: list[int] = np.frombuffer(self.times, dtype="<i8").tolist()
        return zip(ids, times, strict=True)


class Seen:
    """Event ids within the horizon, each with its event time; written to the changelog one segment a batch."""

    def __init__(self, horizon_ms: int) -> None:
        self._horizon_ms = horizon_ms
        self._times: dict[int, int] = {}
        self._segments: deque[tuple[int, Segment]] = deque()
        self._new: dict[int, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._times)

    def first_time(self, identity: int, ts: int, behind: int) -> bool:
        """Whether this id is new, as far as is remembered; `behind` is the actions' clock less the lateness."""
        known = self._times.get(identity)
        if known is not None and known + self._horizon_ms >= behind:
            return False
        self._times[identity] = ts
        self._new[identity] = ts
        return True

    def drain(self, behind: int) -> dict[bytes, bytes | None]:
        """The changes since the last drain: one new segment, and None for those that are past the horizon."""
        changes: dict[bytes, bytes | None] = {}
        if self._new:
            ids = np.fromiter(self._new.keys(), dtype="<u8", count=len(self._new))
            times = np.fromiter(self._new.values(), dtype="<i8", count=len(self._new))
            segment = Segment(int(times.max()), ids.tobytes(), times.tobytes())
            self._segments.append((self._next, segment))
            changes[self._key(self._next)] = msgspec.msgpack.encode(segment)
            self._next += 1
            self._new = {}
        while self._segments and self._segments[0][1].newest + self._horizon_ms < behind:
            number, segment = self._segments.popleft()
            for one, ts in segment.pairs():
                # An id that came again after its horizon belongs to a later segment.
                if self._times.get(one) == ts:
                    del self._times[one]
            changes[self._key(number)] = None
        return changes

    def restore(self, number: int, data: bytes) -> None:
        """Takes one segment back; they must come in the order of their numbers."""
        segment = msgspec.msgpack.decode(data, type=Segment)
        self._times.update(segment.pairs())
        self._segments.append((number, segment))
        self._next = number + 1

    def snapshot(self) -> dict[bytes, bytes]:
        """All segments as the changelog would hold them; call it after a drain."""
        return {self._key(number): msgspec.msgpack.encode(segment) for number, segment in self._segments}

    @staticmethod
    def _key(number: int) -> bytes:
        return b"d/%020d" % number
