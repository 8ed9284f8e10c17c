"""Passes of the live learner over columns: one that predicts before it learns, and ones over what is frozen."""

import numpy as np
from numpy.typing import NDArray

from online_learning.batches import Batch
from online_learning.learner import OnlineLearner
from online_learning.studies.columns import Columns
from online_learning.table.version import pack_version

# Rows that are predicted at once where nothing is learned in between.
_CHUNK = 4096


class Passes:
    """A learner with its steps counted; D dense features are all 0."""

    def __init__(self, learner: OnlineLearner, dense: int) -> None:
        self.learner = learner
        self._dense = dense
        self._steps = 0

    def online(self, columns: Columns, labels: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
        """Predicts each batch, then learns it: what was predicted f32 [n] of labels f32 [n]."""
        said = np.empty(len(columns), np.float32)
        for start in range(0, len(columns), batch):
            stop = min(start + batch, len(columns))
            rows = columns.batch(start, stop, self._dense)
            said[start:stop] = self.learner.predict(rows)[:, 0]
            self._learn(rows, labels[start:stop])
        return said

    def learn(self, columns: Columns, labels: NDArray[np.float32], batch: int) -> None:
        """One pass of learning labels f32 [n] without predictions."""
        for start in range(0, len(columns), batch):
            stop = min(start + batch, len(columns))
            self._learn(columns.batch(start, stop, self._dense), labels[start:stop])

    def predict(self, columns: Columns) -> NDArray[np.float32]:
        """Probabilities f32 [n]; nothing is learned."""
        starts = range(0, len(columns), _CHUNK)
        parts = [columns.batch(start, start + _CHUNK, self._dense) for start in starts]
        return np.concatenate([self.learner.predict(part)[:, 0] for part in parts])

    def _learn(self, rows: Batch, labels: NDArray[np.float32]) -> None:
        self._steps += 1
        targets = labels[:, None]
        # Time plays no part: no row grows old in a study.
        self.learner.learn(rows, targets, np.ones_like(targets), now_ms=0, version=pack_version(1, self._steps))
