"""How large values are, as the stream tells it: what turns labels into what the network learns, and back.

The network learns standard scores of `log1p(value)`: (log1p(y) - mean) / deviation, by the Huber loss
(`models.ranking.masked_loss`). Mean and deviation are those of the newest labels, so the network's outputs begin at 0,
which says the mean, and a label moves a row by no more than a click does. They stand still soon, and what the network
has learned by then keeps its meaning.

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
SMEARED_OVER: Final = 300
"""Labels over which predictions are compared with what came: few, because that also takes away what the network lags
behind by. In simulated worlds (three seeds) the mean prediction of 500 labels was within 5% of theirs from the 1,000th
label on, with 1,000 here within 9%, at the same squared error."""
_SMEARED_AFTER: Final = 100
"""Labels after which half of the smearing is believed: the mean of few skewed values is mostly chance."""
_LEAST_DEVIATION: Final = 1e-3
"""Where all labels are the same, one that is not must not become infinite."""
_MOST_LOG_RATIO: Final = 2.0


class ScaleState(msgspec.Struct):
    """Per value task: labels seen, mean and variance of their log1p, and the decayed means of 1 + label and of what was
    predicted for them, without smearing and plus 1."""

    seen: list[int] = []
    mean: list[float] = []
    variance: list[float] = []
    labels: list[float] = []
    predictions: list[float] = []


class ValueScale:
    """The statistics of V value tasks. `parameters`: f32 [V, 2], changed in place (see `models.values`)."""

    def __init__(self, tasks: int) -> None:
        none = [0.0] * tasks
        self._state = ScaleState([0] * tasks, [*none], [*none], [*none], [*none])
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
                said = math.exp(min(state.mean[column] + self._deviation(column) * z, MOST_LOG))
                share = 1.0 / min(state.seen[column], SMEARED_OVER)
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
        self._state = state
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
            self.parameters[column] = state.mean[column] + smeared, self._deviation(column)
