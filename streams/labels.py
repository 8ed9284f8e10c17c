"""Which actions make which labels, as `freshet.toml` declares it, and which negatives are kept."""

from collections.abc import Mapping, Sequence
from typing import Final

import xxhash

from streams.settings import MOST_VALUE, LabelRule, TaskSettings

# Part of the contract: another seed would keep other negatives, and a replayed log would not give the same examples.
_NEGATIVE_SEED: Final = 0x6672_6573_6865_7421


class LabelRules:
    """The label rules of all tasks, looked up by kind of action."""

    def __init__(self, tasks: Sequence[TaskSettings], rules: Sequence[LabelRule]) -> None:
        self.tasks: tuple[str, ...] = tuple(task.name for task in tasks)
        self.shown_is_negative: tuple[str, ...] = tuple(task.name for task in tasks if task.shown_is_negative)
        self.values: frozenset[str] = frozenset(task.name for task in tasks if task.is_value)
        self._by_kind: dict[str, list[LabelRule]] = {}
        self._values_by_kind: dict[str, list[str]] = {}
        for rule in rules:
            if rule.task in self.values:
                self._values_by_kind.setdefault(rule.kind, []).append(rule.task)
            else:
                self._by_kind.setdefault(rule.kind, []).append(rule)

    def labels(self, kind: str, value: float | None) -> dict[str, float]:
        """The labels by task that an action makes; empty for an action that says nothing of any task.

        They are 0.0 or 1.0: where several rules of one task apply, one that says 1 wins. A rule with `at_least` says
        nothing of an action without a value. Of a value task the label is the action's value, where it is a good one.
        """
        made: dict[str, float] = {}
        for rule in self._by_kind.get(kind, ()):
            if rule.at_least is None:
                label = 1.0
            elif value is None:
                continue
            else:
                label = 1.0 if value >= rule.at_least else 0.0
            made[rule.task] = max(label, made.get(rule.task, 0.0))
        if value is not None and kind in self._values_by_kind and is_good(value):
            made.update(dict.fromkeys(self._values_by_kind[kind], value))
        return made

    def wants_value(self, kind: str) -> bool:
        """Whether the value of such an action is the label of some task."""
        return kind in self._values_by_kind

    def has_positive(self, labels: Mapping[str, float]) -> bool:
        """Whether one of these labels is a 1; a value is none, whatever it is."""
        return any(label == 1.0 and task not in self.values for task, label in labels.items())


def is_good(value: float) -> bool:
    """Whether it can be the label of a value task: in [0, MOST_VALUE]."""
    return 0.0 <= value <= MOST_VALUE


def negative_kept(example_id: str, rate: float) -> bool:
    """Whether the negative of this example is among the share `rate` (0..1] that is kept; replays agree."""
    return rate >= 1.0 or xxhash.xxh3_64_intdigest(example_id.encode(), _NEGATIVE_SEED) < rate * 2.0**64
