"""Which labels of an example are learned now, and how much each weighs.

- A label is learned when it is first observed; a later revision that repeats it adds nothing.
- What is shown counts as a negative at once, before any example of it is there (`Learners.see`): clicks come within
  seconds and the join's negatives a window later, and a model that is told only what was clicked learns that everything
  is. The join's negative then has nothing to add, and a click makes good what was a fake negative. Both are validated:
  no label was known when they were predicted.
- Negatives of silence are kept at rate r by the join, so one that came weighs 1/r: the sum over negatives is unbiased
  (Horvitz and Thompson 1952). That is the one correction: nothing is added to the logit as well. A 0 that an action
  said (a low rating) was not sampled, and weighs 1.
- A positive whose negative was learned before (it came after the window's end) has to make that good. Fake-negative
  weighting (Ktena et al. 2019, https://arxiv.org/abs/1907.06558) does so in expectation, for a stream in which every
  example starts as a negative: positives weigh 1 + p. Here it is known which example was a fake negative, so that one
  undoes its own gradient: with p predicted, cross-entropy's slope by the logit is p/r for the negative as learned and
  p - 1 for the positive; their difference is the slope of a positive of weight 1 + p / (r (1 - p)).
- A positive that an action takes back (a newer rating is a low one) is undone alike: p - 1 as learned, p as it should
  have been, together a negative of weight 1 + (1 - p) / p = 1 / p.
- A value that a later revision says anew is learned as the step from the old to the new one (`OnlineLearner.learn`).
"""

import math
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_learning.predictions import Remembered
from streams.labels import is_good
from streams.records import Assignment, Example, LabelState

MAX_WEIGHT: Final = 20.0
"""No single example moves the model more than this many others."""


class Targets(NamedTuple):
    """labels f32 [B, T], NaN where there is nothing to learn; weights f32 [B, T]; `corrects` bool [B, T]: a 0 or 1
    whose opposite was learned before; `revised` f32 [B, T]: the value that was learned before, NaN where none was;
    `fresh` f32 [B, T]: what no example has said before, to be learned or learned already as a fake negative, else NaN.
    """

    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    corrects: NDArray[np.bool_]
    revised: NDArray[np.float32]
    fresh: NDArray[np.float32]


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
    corrects = np.zeros(labels.shape, dtype=bool)
    revised = np.full_like(labels, np.nan)
    fresh = np.full_like(labels, np.nan)
    for row, (example, memory) in enumerate(zip(examples, known, strict=True)):
        for t, task in enumerate(tasks):
            label = example.labels.get(task)
            if label is None or label.state is not LabelState.OBSERVED or math.isnan(label.value):
                continue
            if t in values:
                before = _value_before(example, memory, t, label.value)
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
            if memory is not None:
                before = memory.labels[t]
            else:
                # Forgotten: a first revision is new; a later one repeats all but what a correction makes good.
                corrected = example.correction and example.negative_emitted and value == 1.0
                before = None if example.revision == 0 else 0.0 if corrected else value
            if before == value:
                continue
            if memory is not None:
                memory.labels[t] = value
            fake = before is None and memory is not None and memory.fake and t in shown
            if before is None:
                fresh[row, t] = value
            if not fake or value == 1.0:
                labels[row, t] = value
            corrects[row, t] = before is not None or (fake and value == 1.0)
            if value == 0.0 and example.cause is None and not example.organic:
                # The window's end made it, and no action.
                weights[row, t] = negative_weight(example.negative_rate)
    return Targets(labels, weights, corrects, revised, fresh)


def negative_weight(rate: float) -> float:
    """What a negative of silence weighs that was kept at this rate: it stands for those that were not."""
    return min(1.0 / max(rate, 1e-6), MAX_WEIGHT)


def _value_before(example: Example, memory: Remembered | None, t: int, value: float) -> float | None:
    """The value of a task that was learned of this example before; None where none was."""
    if memory is not None:
        return memory.labels[t]
    # Forgotten: a first revision is new, and of a later one nobody knows.
    return None if example.revision == 0 else value


def negative_rates(
    examples: Sequence[Example], shown_is_negative: NDArray[np.bool_], fresh: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The rate r at which what a positive corrects was sampled, f32 [B, T]; `shown_is_negative` bool [T], `fresh` as in
    `Targets`.

    It is the join's where being shown or the window's end had made the negative, and 1 where an action had said 0.
    """
    emitted = np.array([one.negative_emitted for one in examples])[:, None]
    sampled = (emitted | ~np.isnan(fresh)) & shown_is_negative
    rates = np.array([one.negative_rate for one in examples], dtype=np.float32)[:, None]
    return np.where(sampled, rates, np.float32(1.0)).astype(np.float32)


def correction_weights(found: Targets, probabilities: NDArray[np.float32], rates: NDArray[np.float32]) -> None:
    """Sets the weight of labels that make good their opposite; probabilities f32 [B, T] as predicted now,
    `rates` f32 [B, T]: the rate r at which the negative was kept."""
    p = np.clip(probabilities, 0.001, 0.999)
    undo = np.where(found.labels == 1.0, 1.0 + p / (np.maximum(rates, 1e-6) * (1.0 - p)), 1.0 / p)
    np.copyto(found.weights, np.minimum(undo, MAX_WEIGHT), where=found.corrects)
