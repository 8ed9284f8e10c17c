"""The join of impressions with later actions into labelled examples: pure logic of one partition.

Time is event time. Each input has a clock, the newest event time that it has shown; the *watermark* is the smaller of
both less the allowed lateness. An idle input's clock moves on by the time elapsed since it fell idle, and an input that
never had a record follows the other.

What an example says depends on both logs and on the clocks that each log itself carries, never on how the reading of
the two was interleaved:

- An impression is held. An action joins it where user and request agree and its item was shown, where the action is no
  earlier than the impressions' clock (less lateness) when the impression came, and where neither the action's time nor
  the actions' clock (less lateness) when it came is later than the window's end plus the horizon.
- An action whose impression is not there waits until the watermark has passed its time; then it is organic. So is one
  whose item the impression did not show. An organic example carries the user's features from before the action.
- A label is emitted at once; other tasks are pending. An action that makes no label makes no example.
- At the window's end, items without a label of a task that `shown_is_negative` are its negatives, kept at rate r by a
  hash of the example id; labels of other tasks are censored. Later actions revise.
- Duplicates by event id (of one user) or request id are dropped within the horizon. An impression that is later than
  its window and horizon is refused; an action later than the horizon is organic and flagged late.
"""

import heapq
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from streams.aggregates import RATING, UserStats
from streams.join_examples import ExampleMaker, arm_of
from streams.join_state import (
    NEVER,
    Clock,
    Clocks,
    Held,
    HeldRecord,
    HeldState,
    Seen,
    Slot,
    Waiting,
    identity,
)
from streams.labels import LabelRules, negative_kept
from streams.records import SCHEMA_VERSION, Action, Example, FeatureRow, Impression, Signal
from streams.settings import StreamsSettings

# The changelog's keys: the kind, then what it is about.
_CLOCKS: Final = b"clocks"
_HELD, _SLOTS, _WAITING, _USER, _SEEN = b"i/", b"s/", b"w/", b"u/", b"d/"
Key = tuple[str, str]


class Joined(Struct):
    """What a batch of records came to: records to send, and the state's changes (None deletes a key)."""

    examples: list[Example]
    signals: list[Signal]
    features: list[FeatureRow]
    changes: dict[bytes, bytes | None]


class JoinCounts(Struct):
    """What happened since the start, for metrics."""

    impressions: int = 0
    actions: int = 0
    joined: int = 0
    organic: int = 0
    negatives: int = 0
    unlabelled: int = 0
    repeated: int = 0
    duplicate_actions: int = 0
    duplicate_impressions: int = 0
    late_actions: int = 0
    late_impressions: int = 0
    evicted: int = 0


class Join:
    """Joins the records of one partition; see the module for the rules. Not safe from several threads."""

    def __init__(self, settings: StreamsSettings) -> None:
        join = settings.join
        self._window_ms = int(join.window_s * 1_000)
        self._lateness_ms = int(join.lateness_s * 1_000)
        self._horizon_ms = int(join.horizon_s * 1_000)
        self._rate = join.negative_rate
        self._max_held = join.max_held
        self._rules = LabelRules(settings.tasks, settings.labels)
        self._make = ExampleMaker(self._rules, self._rate)
        self.counts = JoinCounts()
        self._clocks = Clocks()
        self._order = 0
        self._seen = Seen(self._horizon_ms)
        self._held: dict[Key, Held] = {}
        self._ends: list[tuple[int, Key]] = []
        self._expiries: list[tuple[int, Key]] = []
        self._waiting: dict[Key, dict[int, Waiting]] = {}
        self._deadlines: list[tuple[int, int, Key]] = []
        self._users: dict[str, UserStats] = {}
        self._examples: list[Example] = []
        self._signals: list[Signal] = []
        self._changed_users: dict[str, None] = {}
        self._changed_held: dict[Key, None] = {}
        self._changes: dict[bytes, bytes | None] = {}

    # --- records ------------------------------------------------------------------------------------------------

    def impression(self, impression: Impression, raw: bytes) -> bool:
        """Takes an impression and its bytes; False where it is too late to be joined (nothing remembers it)."""
        self.counts.impressions += 1
        before = self._clocks.impressions.record(impression.ts) - self._lateness_ms
        if before > impression.ts + self._window_ms + self._horizon_ms:
            self.counts.late_impressions += 1
            return False
        key = (impression.user, impression.request_id)
        if key in self._held:
            self.counts.duplicate_impressions += 1
            return True
        held = Held(impression.ts, before, raw, impression)
        self._hold(key, held)
        self._changes[_key(_HELD, key)] = _record(held)
        arm = arm_of(impression)
        self._signals += [
            Signal(v=SCHEMA_VERSION, item=shown.item, arm=arm, ts=impression.ts, impressions=1)
            for shown in impression.items
        ]
        self._user(impression.user).add_impressions(len(impression.items), impression.ts)
        for waiting in sorted(self._waiting.get(key, {}).values(), key=lambda one: one.order):
            if self._joins(held, waiting.action, waiting.before):
                self._forget_waiting(key, waiting.order)
                self._decide(key, held, waiting)
        return True

    def action(self, action: Action) -> None:
        """Takes an action."""
        self.counts.actions += 1
        # The intake's wall clock bounds what one producer's fast clock can do to everybody's watermark.
        before = self._clocks.actions.record(min(action.ts, action.received_at)) - self._lateness_ms
        if not self._seen.first_time(identity(action.user, action.event_id), action.ts, before):
            self.counts.duplicate_actions += 1
            return
        self._order += 1
        key = (action.user, action.request_id) if action.request_id is not None else None
        held = self._held.get(key) if key is not None else None
        waiting = Waiting(action=action, before=before, order=self._order, user_features=None)
        if key is not None and held is not None and self._joins(held, action, before):
            self._user(action.user).add_action(action)
            self._decide(key, held, waiting)
            return
        user = self._user(action.user)
        waiting.user_features = user.used(action.ts) if user.version else None
        user.add_action(action)
        if key is None or held is not None:
            self._organic(waiting)
        else:
            self._wait(key, waiting)
            self._changes[_key(_WAITING, key, waiting.order)] = msgspec.msgpack.encode(waiting)

    def advance(self, impressions_idle_ms: int | None = None, actions_idle_ms: int | None = None) -> None:
        """Moves the watermark and decides what it passed: windows' ends, waiting actions, the horizon.

        An input's `idle_ms` says that it is at its end and has been idle for so long beyond its grace; None: it is not
        idle.
        """
        impressions, actions = self._clocks.impressions, self._clocks.actions
        _idle(impressions, impressions_idle_ms)
        _idle(actions, actions_idle_ms)
        _follow(impressions, impressions_idle_ms, actions)
        _follow(actions, actions_idle_ms, impressions)
        watermark = self.watermark
        while self._deadlines and self._deadlines[0][0] < watermark:
            _, order, key = heapq.heappop(self._deadlines)
            waiting = self._forget_waiting(key, order)
            if waiting is not None:
                self._organic(waiting)
        while self._ends and self._ends[0][0] < watermark:
            key = heapq.heappop(self._ends)[1]
            held = self._held.get(key)
            if held is not None:
                self._close(key, held)
        while self._expiries and (self._expiries[0][0] < watermark or len(self._held) > self._max_held):
            expiry, key = heapq.heappop(self._expiries)
            if expiry >= watermark and key in self._held:
                self.counts.evicted += 1
                self._close(key, self._held[key])
            self._drop(key)

    # --- decisions ----------------------------------------------------------------------------------------------

    def _joins(self, held: Held, action: Action, before: int) -> bool:
        last = held.ts + self._window_ms + self._horizon_ms
        if action.ts < held.behind or max(action.ts, before) > last:
            return False
        return any(shown.item == action.item for shown in held.opened().items)

    def _decide(self, key: Key, held: Held, waiting: Waiting) -> None:
        action, impression = waiting.action, held.opened()
        end = held.ts + self._window_ms
        after_end = waiting.before > end
        if after_end:
            self._close(key, held)
        k = next(k for k, shown in enumerate(impression.items) if shown.item == action.item)
        slot = held.slots.get(k)
        if slot is None:
            slot = Slot()
            if held.closed and self._make.has_negative(slot) and self._kept(impression, k):
                slot.revisions, slot.negative = 1, True
        late = after_end or action.ts > end
        self.counts.joined += 1
        self.counts.late_actions += late
        labels = self._rules.labels(action.kind, action.value)
        was_positive = self._make.is_positive(slot)
        old = self._make.labels(slot, held.closed, self._kept(impression, k))
        slot.mark(labels, action.kind, action.ts)
        self._signal(action, arm_of(impression), not was_positive and self._make.is_positive(slot))
        if not labels:
            self.counts.unlabelled += 1
            return
        held.slots[k] = slot
        self._changed_held[key] = None
        new = self._make.labels(slot, held.closed, self._kept(impression, k))
        if slot.revisions and new == old:
            self.counts.repeated += 1
            return
        self._examples.append(self._make.joined(impression, k, slot, new, old, action, late))
        slot.revisions += 1

    def _organic(self, waiting: Waiting) -> None:
        action = waiting.action
        labels = self._rules.labels(action.kind, action.value)
        late = action.ts + self._horizon_ms < waiting.before
        self.counts.organic += 1
        self.counts.late_actions += late
        self._signal(action, "", any(labels.values()))
        if labels:
            self._examples.append(self._make.organic(waiting, labels, late))
        else:
            self.counts.unlabelled += 1

    def _close(self, key: Key, held: Held) -> None:
        """The window's end: emits the kept negatives of a held impression, once."""
        if held.closed:
            return
        impression = held.opened()
        held.closed, held.impression = True, None
        self._changed_held[key] = None
        for k in range(len(impression.items)):
            slot = held.slots.get(k)
            known = slot if slot is not None else Slot()
            if not self._make.has_negative(known) or not self._kept(impression, k):
                continue
            labels = self._make.labels(known, True, True)
            self._examples.append(self._make.negative(impression, k, known, labels))
            self.counts.negatives += 1
            if slot is not None:
                slot.negative = True
                slot.revisions += 1

    def _kept(self, impression: Impression, k: int) -> bool:
        return negative_kept(f"{impression.request_id}/{impression.items[k].position}", self._rate)

    def _signal(self, action: Action, arm: str, positive: bool) -> None:
        rating = action.value if action.kind == RATING else None
        if positive or rating is not None:
            self._signals.append(
                Signal(
                    v=SCHEMA_VERSION, item=action.item, arm=arm, ts=action.ts, positives=int(positive), rating=rating
                )
            )

    # --- what is remembered -------------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        """The event time (ms) before which no record is expected any more."""
        return min(self._clocks.impressions.value, self._clocks.actions.value) - self._lateness_ms

    def sizes(self) -> dict[str, int]:
        """How much is remembered, by name, for metrics."""
        return {
            "held": len(self._held),
            "waiting": len(self._deadlines),
            "event_ids": len(self._seen),
            "users": len(self._users),
        }

    def _user(self, user: str) -> UserStats:
        self._changed_users[user] = None
        stats = self._users.get(user)
        if stats is None:
            stats = self._users[user] = UserStats()
        return stats

    def _hold(self, key: Key, held: Held) -> None:
        end = held.ts + self._window_ms
        self._held[key] = held
        if not held.closed:
            heapq.heappush(self._ends, (end, key))
        heapq.heappush(self._expiries, (end + self._horizon_ms, key))

    def _drop(self, key: Key) -> None:
        if self._held.pop(key, None) is not None:
            self._changed_held.pop(key, None)
            self._changes[_key(_HELD, key)] = None
            self._changes[_key(_SLOTS, key)] = None

    def _wait(self, key: Key, waiting: Waiting) -> None:
        # By order and not by event id: one that came again after its horizon must not displace the first.
        self._waiting.setdefault(key, {})[waiting.order] = waiting
        heapq.heappush(self._deadlines, (waiting.action.ts, waiting.order, key))

    def _forget_waiting(self, key: Key, order: int) -> Waiting | None:
        of_key = self._waiting.get(key, {})
        waiting = of_key.pop(order, None)
        if waiting is not None:
            self._changes[_key(_WAITING, key, order)] = None
        if not of_key:
            self._waiting.pop(key, None)
        return waiting

    # --- results and state --------------------------------------------------------------------------------------

    def drain(self, now_ms: int) -> Joined:
        """What the records since the last drain came to; `now_ms` is when the feature rows become available."""
        changes, self._changes = self._changes, {}
        for key in self._changed_held:
            held = self._held[key]
            changes[_key(_SLOTS, key)] = msgspec.msgpack.encode(HeldState(closed=held.closed, slots=held.slots))
        features = []
        for user in self._changed_users:
            stats = self._users[user]
            stats.available_at = now_ms
            features.append(stats.row(user, now_ms))
            changes[_USER + user.encode()] = msgspec.msgpack.encode(stats)
        changes |= self._seen.drain(self._clocks.actions.value - self._lateness_ms)
        changes[_CLOCKS] = msgspec.msgpack.encode((self._clocks, self._order))
        joined = Joined(self._examples, self._signals, features, changes)
        self._examples, self._signals, self._changed_users, self._changed_held = [], [], {}, {}
        return joined

    def snapshot(self) -> Iterator[tuple[bytes, bytes]]:
        """The whole state as the changelog would hold it; call it after a drain."""
        for key, held in self._held.items():
            yield _key(_HELD, key), _record(held)
            if held.closed or held.slots:
                yield _key(_SLOTS, key), msgspec.msgpack.encode(HeldState(closed=held.closed, slots=held.slots))
        for key, of_key in self._waiting.items():
            for order, waiting in of_key.items():
                yield _key(_WAITING, key, order), msgspec.msgpack.encode(waiting)
        for user, stats in self._users.items():
            yield _USER + user.encode(), msgspec.msgpack.encode(stats)
        yield from self._seen.snapshot().items()
        yield _CLOCKS, msgspec.msgpack.encode((self._clocks, self._order))

    def restore(self, entries: dict[bytes, bytes]) -> None:
        """Takes the state back into a new join, from the newest value of every key of the changelog."""
        for key, value in entries.items():
            kind, rest = key[:2], key[2:]
            if kind == _HELD:
                record = msgspec.msgpack.decode(value, type=HeldRecord)
                held = Held(record.ts, record.behind, record.raw)
                if (changed := entries.get(_SLOTS + rest)) is not None:
                    state = msgspec.msgpack.decode(changed, type=HeldState)
                    held.closed, held.slots = state.closed, state.slots
                self._hold(msgspec.msgpack.decode(rest, type=Key), held)
            elif kind == _WAITING:
                waiting = msgspec.msgpack.decode(value, type=Waiting)
                self._wait((waiting.action.user, waiting.action.request_id or ""), waiting)
            elif kind == _USER:
                self._users[rest.decode()] = msgspec.msgpack.decode(value, type=UserStats)
            elif kind == _SEEN:
                self._seen.restore(int(rest), value)
            elif key == _CLOCKS:
                self._clocks, self._order = msgspec.msgpack.decode(value, type=tuple[Clocks, int])


def _idle(clock: Clock, idle_ms: int | None) -> None:
    if idle_ms is not None and clock.base is not None:
        clock.value = max(clock.value, clock.base + idle_ms)


def _follow(clock: Clock, idle_ms: int | None, other: Clock) -> None:
    if idle_ms is not None and clock.base is None and other.value != NEVER:
        clock.value = max(clock.value, other.value)


def _record(held: Held) -> bytes:
    return msgspec.msgpack.encode(HeldRecord(held.ts, held.behind, held.raw))


def _key(kind: bytes, *parts: object) -> bytes:
    return kind + msgspec.msgpack.encode(parts[0] if len(parts) == 1 else parts)
