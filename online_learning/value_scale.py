"""How large values are, as the stream tells it: what turns labels into what the network learns, and back.

The network learns standard scores of `log1p(value)`: (log1p(y) - mean) / deviation, by the Huber loss
(`models.ranking.masked_loss`). Mean and deviation are those of the newest labels, so the network's outputs begin at 0,
which says the mean, and a label moves a row by no more than a click does. They stand still soon, and what the network
has learned by then keeps its meaning.

An output is not taken at its word. It is made of rows that all tasks share, and clicks, which come first and in
numbers, move it long before it has learned what they mean for a value. So what is predicted is the score that labels
have had at such outputs, by a line through the newest of them (`Line`): flat, the mean for everybody, until outputs
have shown that they say something. In simulated worlds (four seeds) R2 over the first half minute was -.17 without it
and .01 with it.

A mean of logs is no log of a mean: of skewed values it says too little. So the location that predictions are made with
is moved by the log of what the predictions lack on average (smearing: Duan 1983,
https://doi.org/10.1080/01621459.1983.10478017, as a ratio): mean prediction and mean label agree, whatever the values'
distribution.
"""

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.models.values import MOST_LOG

WINDOW: Final = 10_000
"""Labels that the statistics look back on: their mean is then known to 1% of a deviation, and habits may change."""
NEWEST: Final = 300
"""Labels over which outputs and predictions are compared with what came: few, because that also takes away what the
network lags behind by. In simulated worlds (three seeds) the mean prediction of 500 labels was within 5% of theirs from
the 1,000th label on, with 1,000 here within 9%, at the same squared error."""
_SMEARED_AFTER: Final = 10
"""Labels after which half of the smearing is believed: the mean of few skewed values is mostly chance. R2 of the first
150 labels in simulated worlds (six seeds): with 300, 100, 30 and 10 here -.095, -.066, -.039 and -.028."""
_LEAST_DEVIATION: Final = 1e-3
"""Where all labels are the same, one that is not must not become infinite."""
_MOST_LOG_RATIO: Final = 2.0
RIDGE: Final = 7.5
"""Labels times variance of the outputs (whose unit is a deviation of the labels' logs) at which half of the slope is
believed: 30 labels with outputs that are half a deviation apart."""


class Line(msgspec.Struct):
    """The scores that labels had by what the network put out for them: the least squares of about the `NEWEST` pairs,
    with a slope that is shrunk to 0 (ridge) and never below it."""

    n: int = 0
    output: float = 0.0
    score: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0

    def add(self, output: float, score: float) -> None:
        """Takes a pair."""
        self.n += 1
        share = 1.0 / min(self.n, NEWEST)
        off, too_low = output - self.output, score - self.score
        self.output += share * off
        self.score += share * too_low
        self.variance = (1.0 - share) * (self.variance + share * off * off)
        self.covariance = (1.0 - share) * (self.covariance + share * off * too_low)

    @property
    def slope(self) -> float:
        """By how much the score rises with the output."""
        return max(self.covariance, 0.0) / (self.variance + RIDGE / min(self.n, NEWEST)) if self.n else 0.0

    def at(self, output: float) -> float:
        """The score to expect at an output."""
        return self.score + self.slope * (output - self.output)


class ScaleState(msgspec.Struct):
    """Per value task: labels seen, mean and variance of their log1p, the decayed means of 1 + label and of what was
    predicted for them, without smearing and plus 1, and what outputs have said."""

    seen: list[int] = []
    mean: list[float] = []
    variance: list[float] = []
    labels: list[float] = []
    predictions: list[float] = []
    lines: list[Line] = []


class ValueScale:
    """The statistics of V value tasks. `parameters`: f32 [V, 2], changed in place (see `models.values`)."""

    def __init__(self, tasks: int) -> None:
        none = [0.0] * tasks
        self._state = ScaleState([0] * tasks, [*none], [*none], [*none], [*none], [Line() for _ in range(tasks)])
        self.parameters = np.zeros((tasks, 2), dtype=np.float32)
        self._publish()

    def add(self, labels: NDArray[np.floating], logits: NDArray[np.floating]) -> None:
        """Takes new labels [B, V] (NaN: none) and the network's outputs for them [B, V], of before they are learned."""
        state = self._state
        for column in range(len(self.parameters)):
            rows = np.flatnonzero(~np.isnan(labels[:, column]))
            for y, z in zip(labels[rows, column].tolist(), logits[rows, column].tolist(), strict=True):
                if math.isnan(z):
                    # An example that will be refused.
                    continue
                state.seen[column] += 1
                share = 1.0 / min(state.seen[column], WINDOW)
                # West 1979, with a share that stops shrinking.
                off = math.log1p(y) - state.mean[column]
                state.mean[column] += share * off
                state.variance[column] = (1.0 - share) * (state.variance[column] + share * off * off)
                line, deviation = state.lines[column], self._deviation(column)
                said = math.exp(min(state.mean[column] + deviation * line.at(z), MOST_LOG))
                line.add(z, (math.log1p(y) - state.mean[column]) / deviation)
                share = 1.0 / min(state.seen[column], NEWEST)
                state.labels[column] += share * (1.0 + y - state.labels[column])
                state.predictions[column] += share * (said - state.predictions[column])
        self._publish()

    def scores(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """What the network is to say for values [B, V] (NaN stays): standard scores of their logs, f32 [B, V]."""
        deviations = np.array([self._deviation(column) for column in range(len(self.parameters))])
        return np.asarray((np.log1p(values) - np.array(self._state.mean)) / deviations, dtype=np.float32)

    def state(self) -> ScaleState:
        """The state to keep."""
        return self._state

    def restore(self, state: ScaleState) -> None:
        """Takes over a kept state; raises ValueError where it is of other tasks."""
        if len(state.seen) != len(self.parameters):
            raise ValueError(f"statistics of {len(state.seen)} value tasks, must be of {len(self.parameters)}")
        # An older version kept no lines.
        self._state = msgspec.structs.replace(state, lines=state.lines or [Line() for _ in state.seen])
        self._publish()

    def _deviation(self, column: int) -> float:
        return max(math.sqrt(self._state.variance[column]), _LEAST_DEVIATION)

    def _publish(self) -> None:
        state = self._state
        for column, seen in enumerate(state.seen):
            smeared = 0.0
            if seen:
                ratio = math.log(max(state.labels[column], 1.0) / max(state.predictions[column], 1e-9))
                believed = seen / (seen + _SMEARED_AFTER)
                smeared = believed * max(-_MOST_LOG_RATIO, min(ratio, _MOST_LOG_RATIO))
            line, deviation = state.lines[column], self._deviation(column)
            self.parameters[column] = state.mean[column] + deviation * line.at(0.0) + smeared, deviation * line.slope
