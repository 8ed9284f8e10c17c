"""Examples as the join emits them: the labels of a slot, and the records made of them, encoded.

A request's examples differ in few fields; the others are copied from the impression's own bytes. Those of items on
which nobody acted, which are most, are made by compiled code (`negatives`).
"""

from typing import Final

import msgspec

from streams.join_state import Slot, Waiting
from streams.labels import LabelRules
from streams.negatives import HEAD, Negatives
from streams.opened import Opened
from streams.records import SCHEMA_VERSION, Action, Example, Label, LabelState
from streams.topics import EXAMPLES

_PENDING = Label(LabelState.PENDING)
_CENSORED = Label(LabelState.CENSORED)
_NEGATIVE = Label(LabelState.OBSERVED, 0.0)

_encode = msgspec.msgpack.Encoder().encode
_FALSE, _TRUE = _encode(False), _encode(True)
_NO_CAUSE: Final = _encode(None) + _encode("") + _encode(None)


class ExampleMaker:
    """Makes examples; `rate` is the share of negatives that is kept, which every example states."""

    def __init__(self, rules: LabelRules, rate: float) -> None:
        self._rules = rules
        self._rate = rate
        self._rate_bytes = _encode(rate)
        ends = ((False, False), (False, True), (True, False), (True, True))
        self._silences = {end: self.labels(Slot(), *end) for end in ends}

    def has_negative(self, slot: Slot) -> bool:
        """Whether the window's end makes a negative of this slot: some task counts silence, and nothing was said."""
        return any(slot.label(task) is None for task in self._rules.shown_is_negative)

    def is_positive(self, slot: Slot) -> bool:
        """Whether any binary task's label of this slot is 1."""
        values = self._rules.values
        return any(slot.label(task) == 1.0 for task in slot.marks if task not in values)

    def silence(self, closed: bool, kept: bool) -> dict[str, Label]:
        """As `labels`, of a slot on which nobody acted; not to be changed."""
        return self._silences[closed, kept]

    def labels(self, slot: Slot, closed: bool, kept: bool) -> dict[str, Label]:
        """What is known of every task. A negative that was not `kept` is censored: half of a sample would bias."""
        made = {}
        for task in self._rules.tasks:
            value = slot.label(task)
            if value is not None:
                made[task] = Label(LabelState.OBSERVED, value)
            elif not closed:
                made[task] = _PENDING
            else:
                made[task] = _NEGATIVE if kept and task in self._rules.shown_is_negative else _CENSORED
        return made

    def joined(
        self,
        impression: Opened,
        k: int,
        slot: Slot,
        labels: dict[str, Label],
        old: dict[str, Label],
        action: Action,
        late: bool,
    ) -> bytes:
        """The next revision of slot `k`, caused by `action`; a correction where it contradicts the one before."""
        contradicts = slot.revisions > 0 and any(
            old[task].state is LabelState.OBSERVED and labels[task] != old[task] for task in labels
        )
        end = (
            self._rate_bytes
            + (_TRUE if slot.negative else _FALSE)
            + _FALSE
            + (_TRUE if late else _FALSE)
            + (_TRUE if contradicts else _FALSE)
            + _encode(action.event_id)
            + _encode(action.kind)
            + _encode(action.value)
        )
        return self._of(impression, k, slot.revisions, _encode(labels), end)

    def negative(self, impression: Opened, k: int, slot: Slot) -> bytes:
        """The revision at the window's end of slot `k`, on which somebody acted without labelling every task."""
        end = self._rate_bytes + (_TRUE if slot.negative else _FALSE) + _FALSE * 3 + _NO_CAUSE
        return self._of(impression, k, slot.revisions, _encode(self.labels(slot, True, True)), end)

    def negatives(self) -> Negatives:
        """What makes the first revisions of items on which nobody acted, at the window's end."""
        return Negatives(_encode(self.silence(True, True)), self._rate_bytes + _FALSE * 4 + _NO_CAUSE)

    def organic(self, waiting: Waiting, labels: dict[str, float], late: bool) -> bytes:
        """The example of an action that joins nothing; what it does not say is censored."""
        action = waiting.action
        example = Example(
            v=SCHEMA_VERSION,
            example_id=action.event_id,
            revision=0,
            ts=action.ts,
            user=action.user,
            item=action.item,
            labels={
                task: Label(LabelState.OBSERVED, labels[task]) if task in labels else _CENSORED
                for task in self._rules.tasks
            },
            scene=action.scene,
            session=action.session,
            context=action.context,
            user_features=waiting.user_features,
            negative_rate=self._rate,
            organic=True,
            late=late,
            cause=action.event_id,
            kind=action.kind,
            value=action.value,
        )
        return EXAMPLES.codec.encode(example)

    def _of(self, impression: Opened, k: int, revision: int, labels: bytes, end: bytes) -> bytes:
        of, shown = impression, impression.items[k]
        return b"".join(
            (
                HEAD,
                _encode(of.example_id(k)),
                _encode(revision),
                _encode(of.ts),
                _encode(of.user),
                _encode(shown.item),
                labels,
                _encode(of.request_id),
                _encode(shown.position),
                shown.propensity,
                of.scene,
                of.session,
                of.context,
                of.arms,
                of.policy,
                of.model,
                of.user_features,
                shown.features,
                end,
            )
        )
