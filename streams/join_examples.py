"""Examples as the join emits them: labels of a slot, and the records made of them."""

from streams.join_state import Slot, Waiting
from streams.labels import LabelRules
from streams.records import SCHEMA_VERSION, Action, Example, Impression, Label, LabelState

_PENDING = Label(LabelState.PENDING)
_CENSORED = Label(LabelState.CENSORED)
_NEGATIVE = Label(LabelState.OBSERVED, 0.0)


def arm_of(impression: Impression) -> str:
    """The arm whose traffic an impression is: that of its first experiment, "" where it is in none."""
    return impression.arms[0].arm if impression.arms else ""


class ExampleMaker:
    """Makes examples; `rate` is the share of negatives that is kept, which every example states."""

    def __init__(self, rules: LabelRules, rate: float) -> None:
        self._rules = rules
        self._rate = rate

    def has_negative(self, slot: Slot) -> bool:
        """Whether the window's end makes a negative of this slot: some task counts silence, and nothing was said."""
        return any(slot.label(task) is None for task in self._rules.shown_is_negative)

    def is_positive(self, slot: Slot) -> bool:
        """Whether any task's label of this slot is 1."""
        return any(slot.label(task) == 1.0 for task in slot.marks)

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
        impression: Impression,
        k: int,
        slot: Slot,
        labels: dict[str, Label],
        old: dict[str, Label],
        action: Action,
        late: bool,
    ) -> Example:
        """The next revision of slot `k`, caused by `action`; a correction where it contradicts the one before."""
        contradicts = slot.revisions > 0 and any(
            old[task].state is LabelState.OBSERVED and labels[task] != old[task] for task in labels
        )
        return self._of(impression, k, slot, labels, action, late, contradicts)

    def negative(self, impression: Impression, k: int, slot: Slot, labels: dict[str, Label]) -> Example:
        """The revision of slot `k` at the window's end."""
        return self._of(impression, k, slot, labels, None, False, False)

    def organic(self, waiting: Waiting, labels: dict[str, float], late: bool) -> Example:
        """The example of an action that joins nothing; what it does not say is censored."""
        action = waiting.action
        return Example(
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

    def _of(
        self,
        impression: Impression,
        k: int,
        slot: Slot,
        labels: dict[str, Label],
        action: Action | None,
        late: bool,
        correction: bool,
    ) -> Example:
        shown = impression.items[k]
        return Example(
            v=SCHEMA_VERSION,
            example_id=f"{impression.request_id}/{shown.position}",
            revision=slot.revisions,
            ts=impression.ts,
            user=impression.user,
            item=shown.item,
            labels=labels,
            request_id=impression.request_id,
            position=shown.position,
            propensity=shown.propensity,
            scene=impression.scene,
            session=impression.session,
            context=impression.context,
            arms=impression.arms,
            policy=impression.policy,
            model=impression.model,
            user_features=impression.user_features,
            item_features=shown.features,
            negative_rate=self._rate,
            negative_emitted=slot.negative,
            late=late,
            correction=correction,
            cause=action.event_id if action is not None else None,
            kind=action.kind if action is not None else "",
            value=action.value if action is not None else None,
        )
