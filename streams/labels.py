"""Which actions make which labels, as `freshet.toml` declares it, and which negatives are kept."""

from collections.abc import Sequence
from typing import Final

import xxhash

from streams.settings import LabelRule, TaskSettings

# Part of the contract: another seed would keep other negatives, and a replayed log would not give the same examples.
_NEGATIVE_SEED: Final = 0x6672_6573_6865_7421


class LabelRules:
    """The label rules of all tasks, looked up by kind of action."""

    def __init__(self, tasks: Sequence[TaskSettings], rules: Sequence[LabelRule]) -> None:
        self.tasks: tuple[str, ...] = tuple(task.name for task in tasks)
        self.shown_is_negative: tuple[str, ...] = tuple(task.name for task in tasks if task.shown_is_negative)
        self._by_kind: dict[str, list[LabelRule]] = {}
        for rule in rules:
            self._by_kind.setdefault(rule.kind, []).append(rule)

    def labels(self, kind: str, value: float | None) -> dict[str, float]:
        """The labels (0.0 or 1.0) by task that an action makes; empty for an action that says nothing of any task.

        Where several rules of one task apply, one that says 1 wins. A rule with `at_least` says nothing of an action
        without a value.
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
        return made


def negative_kept(example_id: str, rate: float) -> bool:
    """Whether the negative of this example is among the share `rate` (0..1] that is kept; replays agree."""
    return rate >= 1.0 or xxhash.xxh3_64_intdigest(example_id.encode(), _NEGATIVE_SEED) < rate * 2.0**64
