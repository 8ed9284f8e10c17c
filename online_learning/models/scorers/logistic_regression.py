"""Logistic regression in numpy: one weight per key and per dense feature, no interactions.

The tasks share the keys' weights (the first column of a row) but for one factor each. Of a row, the model reads and
learns that column only; the rest stays as it was drawn.
"""

import numpy as np
from numpy.typing import NDArray

from online_learning.models.parameters import Shapes
from online_learning.models.scorer import Scorer
from online_learning.settings import ModelSettings


class LogisticRegressionScorer(Scorer):
    """`bias + scale * linear + dense_linear . dense` per task."""

    @staticmethod
    def shapes_of(settings: ModelSettings, tasks: int, fields: int, dense: int) -> Shapes:
        """`bias` [T]; `scale` [T, 1], the task's factor of the keys' weights; `dense_linear` [T, D]."""
        return {"bias": (tasks,), "scale": (tasks, 1), "dense_linear": (tasks, dense)}

    @staticmethod
    def retrieval_width(settings: ModelSettings) -> int:
        return 1

    @staticmethod
    def item_vectors(item_rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sum of the item's weights: exactly what its fields add, the same order of items for every user."""
        return np.asarray(item_rows[:, :, 0].sum(axis=1, keepdims=True), dtype=np.float32)

    def query(self, user_rows: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        return np.asarray(self._parameters["scale"][task], dtype=np.float32)

    def logits(self, rows: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
        known = self._parameters
        linear = rows[:, :, 0].sum(axis=1)
        wide = known["bias"] + known["scale"][:, 0] * linear[:, None]
        return np.asarray(wide + dense @ known["dense_linear"].T, dtype=np.float32)
