"""What the output of a value task stands for, from a network's logit to a prediction in the value's own units.

Values such as seconds of dwell are spread over orders of magnitude, so the network works with `log1p(value)`, and with
that as standard scores: a gradient of it is then about as large as one of a log loss. With z the network's output,

    prediction = expm1(location + slope * z)            within [0, MOST_VALUE]

`location` and `slope` (never below 0) move with the stream and travel with the dense parameters, under the name
`values`; `online_learning.value_scale` says how they are learned.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.settings import MOST_VALUE, TaskSettings

VALUES: Final = "values"
"""The dense parameter f32 [V, 2] of V value tasks in order: location and slope. Only where there are any."""
MOST_LOG: Final = math.log1p(MOST_VALUE)
"""The most that log1p of a value can be."""


def value_columns(tasks: Sequence[TaskSettings]) -> tuple[int, ...]:
    """The columns of the value tasks among all outputs."""
    return tuple(column for column, task in enumerate(tasks) if task.is_value)


def values_of(logits: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Predictions f32 [B, V] in the values' units of the network's outputs f32 [B, V], by the parameter `values`."""
    return of_logs(scale[:, 0] + scale[:, 1] * logits)


def of_logs(logs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values f32, within [0, MOST_VALUE], that predictions of their log1p f32 stand for."""
    return np.asarray(np.expm1(np.clip(logs, 0.0, MOST_LOG)), dtype=np.float32)
