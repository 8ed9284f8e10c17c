"""Which labels of an example are learned now, and how much each weighs.

- A label is learned when it is first observed; a later revision that repeats it adds nothing.
- What is shown counts as a negative at once, before any example of it is there (`Learners.see`): clicks come within
  seconds and the join's negatives a window later, and a model that is told only what was clicked learns that everything
  is. The join's negative then has nothing to add, and a click makes good what was a fake negative. Both are validated:
  no label was known when they were predicted.
- Negatives of silence are kept at rate r by the join, so one that came weighs 1/r: the sum over negatives is unbiased
  (Horvitz and Thompson 1952). That is the one correction: nothing is added to the logit as well. A 0 that an action
  said (a low rating) was not sampled, and weighs 1.
- A label that comes in place of another one takes that back: with p predicted now and w the weight that it was learned
  with, the slope of cross-entropy by the logit is w (p - y) for the old label, and that much is taken off what the new
  one adds. So both together are the new one alone: of a fake negative's click, (p - 1 + p / r) - p / r. Fake-negative
  weighting (Ktena et al. 2019, https://arxiv.org/abs/1907.06558) does so in expectation, for a stream in which every
  example starts as a negative; here it is known which one was. Whatever r and p are, the step stays bounded: dividing
  by 1 - p, as a weight of the positive alone has to, does not.
- A value that a later revision says anew is learned as the step from the old to the new one (`OnlineLearner.learn`).
"""

import math
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_learning.models.ranking import Undone
from online_learning.predictions import Remembered
from streams.labels import is_good
from streams.records import Assignment, Example, LabelState

MAX_WEIGHT: Final = 20.0
"""No single example moves the model more than this many others: what a negative of the smallest rate stands for."""


class Targets(NamedTuple):
    """labels f32 [B, T], NaN where there is nothing to learn; weights f32 [B, T]; `undone`: the 0 or 1 that was learned
    before in place of a label; `revised` f32 [B, T]: the value that was learned before, NaN where none was; `fresh` f32
    [B, T]: what no example has said before, to be learned or learned already as a fake negative, else NaN.
    """

    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    undone: Undone
    revised: NDArray[np.float32]
    fresh: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "Targets":
        """Those of some rows."""
        undone = self.undone.take(rows)
        return Targets(self.labels[rows], self.weights[rows], undone, self.revised[rows], self.fresh[rows])


class _Learned(NamedTuple):
    """A label that was learned, and its weight."""

    label: float
    weight: float


def is_learned(arms: Sequence[Assignment], *, organic: bool, arm: str) -> bool:
    """Whether the learner of `arm` learns from it: organic, of its own arm, or of no experiment; "" learns from all."""
    return organic or not arm or not arms or any(place.arm == arm for place in arms)


def targets(
    examples: Sequence[Example],
    known: Sequence[Remembered | None],
    tasks: Sequence[str],
    values: Collection[int] = (),
    shown: Collection[int] = (),
) -> Targets:
    """What to learn from each example, given what is remembered of it (None: forgotten, or never predicted).

    `values`: the columns of the value tasks, whose labels are the values. `shown`: those of the tasks whose negatives
    are the items shown, which fake negatives are of.

    Notes in what is remembered that these labels are learned, so that two revisions in one batch do not count twice.
    """
    labels = np.full((len(examples), len(tasks)), np.nan, dtype=np.float32)
    weights = np.ones_like(labels)
    undone = Undone(np.full_like(labels, np.nan), np.zeros_like(labels))
    revised = np.full_like(labels, np.nan)
    fresh = np.full_like(labels, np.nan)
    for row, (example, memory) in enumerate(zip(examples, known, strict=True)):
        for t, task in enumerate(tasks):
            label = example.labels.get(task)
            if label is None or label.state is not LabelState.OBSERVED or math.isnan(label.value):
                continue
            if t in values:
                before = _said_before(example, memory, t, label.value)
                if before == label.value or not is_good(label.value):
                    continue
                if memory is not None:
                    memory.labels[t] = label.value
                labels[row, t] = label.value
                if before is None:
                    fresh[row, t] = label.value
                else:
                    revised[row, t] = before
                continue
            value = 1.0 if label.value >= 0.5 else 0.0
            said = 0.0 if _makes_good(example, memory, value) else _said_before(example, memory, t, value)
            if said == value:
                continue
            if said is None:
                fresh[row, t] = value
            # A 0 that no action said was made by the window's end.
            silence = value == 0.0 and example.cause is None and not example.organic
            new = _Learned(value, negative_weight(example.negative_rate) if silence else 1.0)
            old = _learned_before(example, memory, t, said, t in shown)
            if memory is not None:
                memory.labels[t], memory.weights[t] = new
            if new == old:
                continue
            labels[row, t], weights[row, t] = new
            if old is not None:
                undone.labels[row, t], undone.weights[row, t] = old
    return Targets(labels, weights, undone, revised, fresh)


def _said_before(example: Example, memory: Remembered | None, t: int, value: float) -> float | None:
    """What an example said of a task before that now is `value`; None where none did."""
    if memory is not None:
        return memory.labels[t]
    # Forgotten: a first revision is new, and of a later one nobody knows; it is taken to repeat.
    return None if example.revision == 0 else value


def _makes_good(example: Example, memory: Remembered | None, value: float) -> bool:
    """Whether a later revision of an example that is forgotten says that its negative was none."""
    forgotten = memory is None and example.revision > 0
    return forgotten and example.correction and example.negative_emitted and value == 1.0


def _learned_before(
    example: Example, memory: Remembered | None, t: int, said: float | None, shown: bool
) -> _Learned | None:
    """What was learned of a binary task before, that `said`, or a fake negative; `shown`: whether it has these."""
    if memory is None:
        if said is None:
            return None
        return _Learned(said, negative_weight(example.negative_rate) if shown else 1.0)
    if said is None:
        return _Learned(0.0, memory.weights[t]) if memory.fake and shown else None
    return _Learned(said, memory.weights[t])


def negative_weight(rate: float) -> float:
    """What a negative of silence weighs that was kept at this rate: it stands for those that were not."""
    return min(1.0 / max(rate, 1e-6), MAX_WEIGHT)
