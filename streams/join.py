"""The join of impressions with later actions into labelled examples: the logic of one partition.

Time is event time. Each input has a clock, the newest event time that it has shown; the *watermark* is the smaller of
both less the allowed lateness. An idle input's clock moves on by the time elapsed since it fell idle, and an input that
never had a record follows the other.

What an example says depends on both logs, on the clocks that each log itself carries and on how far silence moved them,
never on how the reading of the two was interleaved. Silence tells only where an input was idle and then brings what is
older than that moved its clock to, by more than the lateness: such an action may be late or organic, such an impression
too late, where the same logs read at one go, without the silence, would join them.

- An impression is held. An action joins it where user and request agree and its item was shown, where the action is no
  earlier than the impressions' clock (less lateness) when the impression came, and where neither the action's time nor
  the actions' clock (less lateness) when it came is later than the window's end plus the horizon.
- An action whose impression is not there waits until the watermark has passed its time; then it is organic. So is one
  whose item the impression did not show. An organic example carries the user's features from before the action.
- A label is emitted at once; other tasks are pending. An action that makes no label makes no example.
- Of several actions that label one task of a slot, of each kind the newest by event time counts and any 1 among kinds
  wins; of a value task the newest of all counts, of equal times the one with the larger value.
- At the window's end, items without a label of a task that `shown_is_negative` are its negatives, kept at rate r by a
  hash of the example id; labels of other tasks are censored. Later actions revise.
- Duplicates by event id (of one user) are dropped within the horizon of the event's time or, where that is later, of
  the actions' clock (less lateness) when it came; those by request id while the impression is held.
- An impression that is later than its window and horizon is refused; an action later than the horizon is organic and
  flagged late.

No producer's clock is trusted further than that of who wrote the record to its log: an impression moves the
impressions' clock to its time or to that at which the broker appended it, an action the actions' to its time or to that
at which the intake took it, whichever is earlier; the same bounds what is counted of users and items. What is more than
`future_s` ahead of that is refused (actions by the intake). So the clock of a host that serves may be ahead of the
others by `future_s`: that moves the windows of its own answers, which end so much later, and nothing else. Behind the
newest of the others it may be by the window and horizon, and its windows end so much sooner. A clock that stamps
actions may be behind by the lateness: an action that is further behind may count as organic. A broker or an intake
whose own clock is behind holds the watermark back by as much.

Beyond `max_held` impressions those whose windows end first are forgotten early, 250 ms of them at a time. A window that
is not over ends with that: its negatives come at once, a later action is organic and corrects none of them, and a copy
of the impression is taken for a new one, whose negatives come again. The count `evicted` says how many they were.

The watermark works in buckets of 250 ms (`time_index`): what it decides comes so much later, and is the same.
"""

from msgspec import Struct

from streams.aggregates import RATING
from streams.dead_letters import Reason
from streams.intake import Rejected, in_future
from streams.join_examples import ExampleMaker
from streams.join_state import NEVER, Clock, Held, HeldRecord, JoinState, Slot, Waiting, identity, pair
from streams.labels import LabelRules, negative_kept
from streams.local_state import LocalState
from streams.negatives import Closed
from streams.opened import Opened, opened
from streams.records import Action, FeatureRow, Impression
from streams.settings import StreamsSettings
from streams.signals import ItemPlaces, SignalLog
from streams.time_index import bucket_of


class Joined(Struct):
    """What a batch of records came to: examples (user as key, encoded) and others to send, and the state's changes
    (None deletes a key). `closed` makes examples of items on which nobody acted, to be sent before `examples`, which
    may revise them."""

    closed: Closed
    examples: list[tuple[bytes, bytes]]
    signals: SignalLog
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
    future_impressions: int = 0
    evicted: int = 0


class Join:
    """Joins the records of one partition; see the module for the rules. Not safe from several threads.

    `disk` holds the state that it goes on from. The changes that `drain` gives must be applied to it before `settle`
    is called, and before anything else is.
    """

    def __init__(self, settings: StreamsSettings, disk: LocalState) -> None:
        join = settings.join
        self._window_ms = join.window_ms
        self._lateness_ms = join.lateness_ms
        self._horizon_ms = join.horizon_ms
        self._joinable_ms = join.window_ms + join.horizon_ms
        self._future_ms = join.future_ms
        self._rate = join.negative_rate
        self._max_held = join.max_held
        self._rules = LabelRules(settings.tasks, settings.labels)
        self._make = ExampleMaker(self._rules, self._rate)
        self.counts = JoinCounts()
        self._state = JoinState(disk, settings.state.memory_bytes // 2)
        self._progress = self._state.progress
        self._negatives = self._make.negatives()
        self._examples: list[tuple[bytes, bytes]] = []
        self._places = ItemPlaces(settings.kafka.item_partitions)
        self._signals = SignalLog(self._places)
        self._overdue: dict[bytes, None] = {}

    # --- records ------------------------------------------------------------------------------------------------

    def impression(self, impression: Impression, raw: bytes, appended_at: int) -> None:
        """Takes an impression, its bytes, and when the broker appended them (ms).

        Raises Rejected where its time is in the future or too late to be joined; then nothing remembers it.
        """
        self.counts.impressions += 1
        ts, user, progress, state = impression.ts, impression.user, self._progress, self._state
        # The broker's clock bounds what one host's fast clock can do to everybody's watermark.
        at = ts
        if ts > appended_at:
            at = appended_at
            if ts > appended_at + self._future_ms:
                self.counts.future_impressions += 1
                raise in_future(ts, appended_at, self._future_ms)
        before = progress.impression_clock.record(at) - self._lateness_ms
        if before > ts + self._joinable_ms:
            self.counts.late_impressions += 1
            raise Rejected(Reason.TOO_LATE, "its window and horizon are over")
        key = pair(user, impression.request_id)
        if state.held.get(key) is not None:
            self.counts.duplicate_impressions += 1
            return
        # Where older ones were evicted early, this one must still be met by who drops the next.
        bucket = max(bucket_of(ts + self._window_ms), progress.dropped)
        held = Held(HeldRecord(ts, before, bucket, raw), fresh=True)
        state.held.put(key, held)
        state.due_held.add(bucket, key)
        progress.held += 1
        if bucket < progress.closed:
            self._overdue[key] = None
        arm = impression.arms[0].arm if impression.arms else ""
        self._signals.shown([shown.item for shown in impression.items], arm, at)
        state.users.of(user).add_impressions(len(impression.items), at)
        if progress.waiting:
            self._end_waits(key, held)

    def action(self, action: Action) -> None:
        """Takes an action."""
        self.counts.actions += 1
        progress, state = self._progress, self._state
        # The intake's wall clock bounds what one producer's fast clock can do to everybody's watermark.
        at = action.counted_at
        before = progress.action_clock.record(at) - self._lateness_ms
        if not self._first_time(identity(action.user, action.event_id), action.ts, before):
            self.counts.duplicate_actions += 1
            return
        progress.actions += 1
        key = pair(action.user, action.request_id) if action.request_id is not None else None
        held = state.held.get(key) if key is not None else None
        waiting = Waiting(action, before, progress.actions, None)
        user = state.users.of(action.user)
        if key is not None and held is not None:
            impression = opened(held.record.raw)
            k = self._slot(held, impression, action, before)
            if k is not None:
                user.add_action(action)
                self._decide(key, held, impression, k, waiting)
                return
        waiting.user_features = user.used(at) if user.version else None
        user.add_action(action)
        if key is None or held is not None:
            self._organic(waiting)
        else:
            waits = state.waiting.get(key) or []
            waits.append(waiting)
            state.waiting.put(key, waits)
            state.due_waiting.add(max(bucket_of(action.ts), progress.decided), key)
            progress.waiting += 1

    def advance(self, impressions_idle_ms: int | None = None, actions_idle_ms: int | None = None) -> None:
        """Moves the watermark and decides what it passed: windows' ends, waiting actions, the horizon.

        An input's `idle_ms` says that it is at its end and has been idle for so long beyond its grace; None: it is not
        idle.
        """
        progress = self._progress
        impressions, actions = progress.impression_clock, progress.action_clock
        _idle(impressions, impressions_idle_ms)
        _idle(actions, actions_idle_ms)
        _follow(impressions, impressions_idle_ms, actions)
        _follow(actions, actions_idle_ms, impressions)
        now = bucket_of(self.watermark)
        self._end_all_waits(now)
        self._end_windows(now)
        self._forget_held(bucket_of(self.watermark - self._horizon_ms))
        self._forget_ids(bucket_of(actions.value - self._lateness_ms - self._horizon_ms))

    # --- what the watermark decides -----------------------------------------------------------------------------

    def _end_all_waits(self, now: int) -> None:
        progress, table = self._progress, self._state.waiting
        if now <= progress.decided:
            return
        for key in self._state.due_waiting.pop(progress.decided, now):
            waits = table.get(key)
            if waits is None:
                continue
            over = [one for one in waits if bucket_of(one.action.ts) < now]
            self._unwait(key, waits, over)
            for one in over:
                self._organic(one)
        progress.decided = now

    def _end_waits(self, key: bytes, held: Held) -> None:
        """Joins the actions that waited for an impression which is there now."""
        waits = self._state.waiting.get(key)
        if waits is None:
            return
        impression = opened(held.record.raw)
        found = [(one, self._slot(held, impression, one.action, one.before)) for one in waits]
        self._unwait(key, waits, [one for one, k in found if k is not None])
        for one, k in found:
            if k is not None:
                self._decide(key, held, impression, k, one)

    def _unwait(self, key: bytes, waits: list[Waiting], gone: list[Waiting]) -> None:
        if not gone:
            return
        orders = {one.order for one in gone}
        rest = [one for one in waits if one.order not in orders]
        if rest:
            self._state.waiting.put(key, rest)
        else:
            self._state.waiting.delete(key)
        self._progress.waiting -= len(gone)

    def _end_windows(self, now: int) -> None:
        progress, state = self._progress, self._state
        for key in self._overdue:
            self._close_at(key)
        self._overdue = {}
        first = max(progress.closed, progress.dropped)
        if now > first:
            for key in state.due_held.keys(first, now):
                self._close_at(key)
        progress.closed = max(progress.closed, now)

    def _close_at(self, key: bytes) -> None:
        held = self._state.held.peek(key)
        if held is not None and not held.closed:
            self._close(held)
            if held.touched:
                self._state.held.put(key, held)

    def _forget_held(self, now: int) -> None:
        progress, state = self._progress, self._state
        if now > progress.dropped:
            for key in state.due_held.pop(progress.dropped, now):
                state.drop_held(key)
            progress.dropped = now
        while progress.held > self._max_held and (oldest := state.due_held.oldest(progress.dropped)) is not None:
            for key in state.due_held.pop(progress.dropped, oldest + 1):
                self._close_at(key)
                state.drop_held(key)
                self.counts.evicted += 1
            progress.dropped = oldest + 1

    def _forget_ids(self, now: int) -> None:
        progress, table = self._progress, self._state.seen
        if now <= progress.forgotten:
            return
        for one in self._state.due_seen.pop(progress.forgotten, now):
            name = int.from_bytes(one, "big")
            ts = table.get(name)
            # An id that came again after its horizon is in a later bucket too.
            if ts is not None and bucket_of(ts) < now:
                table.delete(name)
                progress.seen -= 1
        progress.forgotten = now

    # --- decisions ----------------------------------------------------------------------------------------------

    def _slot(self, held: Held, impression: Opened, action: Action, before: int) -> int | None:
        """The index of the shown item that an action joins, if any."""
        record, item = held.record, action.item
        last = record.ts + self._joinable_ms
        if action.ts < record.behind or action.ts > last or before > last:
            return None
        for k, shown in enumerate(impression.items):
            if shown.item == item:
                return k
        return None

    def _decide(self, key: bytes, held: Held, impression: Opened, k: int, waiting: Waiting) -> None:
        action = waiting.action
        end = held.record.ts + self._window_ms
        after_end = waiting.before > end
        if after_end and not held.closed:
            self._close(held)
            held.touch()
            self._state.held.put(key, held)
        kept = self._kept(impression, k)
        slot = held.slots.get(k) if held.slots is not None else None
        if slot is None:
            slot = Slot()
            if held.closed and self._make.has_negative(slot) and kept:
                slot.revisions, slot.negative = 1, True
        late = after_end or action.ts > end
        self.counts.joined += 1
        self.counts.late_actions += late
        labels = self._rules.labels(action.kind, action.value)
        was_positive = self._make.is_positive(slot)
        old = self._make.labels(slot, held.closed, kept) if slot.marks else self._make.silence(held.closed, kept)
        slot.mark(labels, action.kind, action.ts, self._rules.values)
        self._signal(action, impression.arm(), not was_positive and self._make.is_positive(slot))
        if not labels:
            self.counts.unlabelled += 1
            return
        held.touch()[k] = slot
        self._state.held.put(key, held)
        new = self._make.labels(slot, held.closed, kept)
        if slot.revisions and new == old:
            self.counts.repeated += 1
            return
        example = self._make.joined(impression, k, slot, new, old, action, late)
        self._examples.append((impression.user.encode(), example))
        slot.revisions += 1

    def _organic(self, waiting: Waiting) -> None:
        action = waiting.action
        labels = self._rules.labels(action.kind, action.value)
        late = action.ts + self._horizon_ms < waiting.before
        self.counts.organic += 1
        self.counts.late_actions += late
        self._signal(action, "", self._rules.has_positive(labels))
        if labels:
            self._examples.append((action.user.encode(), self._make.organic(waiting, labels, late)))
        else:
            self.counts.unlabelled += 1

    def _close(self, held: Held) -> None:
        """The window's end: emits the kept negatives of a held impression, once."""
        held.closed = True
        if not self._rules.shown_is_negative:
            return
        slots, left_out = held.slots or {}, self._left_out(held)
        for k in sorted(slots):
            if k not in left_out and self._make.has_negative(slots[k]):
                self._end_slot(held, k, slots[k])
        self._negatives.add(held.record.raw, left_out.union(slots))

    def _end_slot(self, held: Held, k: int, slot: Slot) -> None:
        """Emits the negative of an item on which somebody acted, without labelling every task."""
        impression = opened(held.record.raw)
        self._examples.append((impression.user.encode(), self._make.negative(impression, k, slot)))
        self.counts.negatives += 1
        slot.negative = True
        slot.revisions += 1
        held.touched = True

    def _left_out(self, held: Held) -> set[int]:
        """The places of the items whose negatives are not kept."""
        if self._rate >= 1.0:
            return set()
        impression = opened(held.record.raw)
        return {k for k in range(len(impression.items)) if not self._kept(impression, k)}

    def _kept(self, impression: Opened, k: int) -> bool:
        return self._rate >= 1.0 or negative_kept(impression.example_id(k), self._rate)

    def _signal(self, action: Action, arm: str, positive: bool) -> None:
        rating = action.value if action.kind == RATING else None
        if positive or rating is not None:
            self._signals.acted(action.item, arm, action.counted_at, positive, rating)

    # --- what is remembered -------------------------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        """The event time (ms) before which no record is expected any more."""
        return min(self._progress.impression_clock.value, self._progress.action_clock.value) - self._lateness_ms

    def _first_time(self, one: int, ts: int, behind: int) -> bool:
        """Whether an event id is new within the horizon; `behind` is the actions' clock less the lateness."""
        progress, table = self._progress, self._state.seen
        known = table.get(one)
        if known is not None and known + self._horizon_ms >= behind:
            return False
        progress.seen += known is None
        # An event that is older than the horizon is remembered too: whoever sends one tries again like others.
        since = max(ts, behind)
        table.put(one, since)
        self._state.due_seen.add(max(bucket_of(since), progress.forgotten), one.to_bytes(8, "big"))
        return True

    # --- results ------------------------------------------------------------------------------------------------

    def drain(self, now_ms: int, moved: bool = True) -> Joined:
        """What the records since the last drain came to; `now_ms` is when the feature rows become available.

        `moved`: whether clocks that moved without anything else are a change worth writing.
        """
        features = []
        for user, stats in self._state.users.touched().items():
            stats.available_at = now_ms
            features.append(stats.row(user, now_ms))
        joined = Joined(self._negatives.drain(), self._examples, self._signals, features, self._state.drain(moved))
        self._examples, self._signals = [], SignalLog(self._places)
        return joined

    def settle(self) -> None:
        """Says that the changes of the last drain are on disk: memory may be given back."""
        self._state.settle()

    def sizes(self) -> dict[str, int]:
        """How much is remembered, by name, for metrics."""
        return self._state.figures()


def _idle(clock: Clock, idle_ms: int | None) -> None:
    if idle_ms is not None and clock.base is not None:
        clock.value = max(clock.value, clock.base + idle_ms)


def _follow(clock: Clock, idle_ms: int | None, other: Clock) -> None:
    if idle_ms is not None and clock.base is None and other.value != NEVER:
        clock.value = max(clock.value, other.value)
