"""DeepFM in numpy: linear weights, pairwise interactions and a small network over the same field embeddings.

Guo et al. 2017, https://arxiv.org/abs/1703.04247. Retrieval is exact for the linear and pairwise
part (see `retrieval`).
"""

import numpy as np
from numpy.typing import NDArray

from online_learning.models import retrieval
from online_learning.models.parameters import Shapes, layer_shapes
from online_learning.models.scorer import Scorer
from online_learning.settings import ModelSettings


class DeepFMScorer(Scorer):
    """`bias + scale[0] * linear + scale[1] * pairwise + dense_linear . dense + network(factors, dense)` per task."""

    @staticmethod
    def shapes_of(settings: ModelSettings, tasks: int, fields: int, dense: int) -> Shapes:
        """`bias` [T]; `scale` [T, 2], the task's weight of the linear and of the pairwise part; `dense_linear` [T, D];
        `layer.K.weight` [out, in] and `layer.K.bias` [out] over `[F * dim + D]` inputs, the last with T outputs."""
        layers = layer_shapes(fields * settings.dim + dense, settings.hidden, tasks)
        return {"bias": (tasks,), "scale": (tasks, 2), "dense_linear": (tasks, dense), **layers}

    @staticmethod
    def retrieval_width(settings: ModelSettings) -> int:
        return settings.dim + retrieval.EXTRA_COLUMNS

    @staticmethod
    def item_vectors(item_rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return retrieval.item_vectors(item_rows)

    def query(self, user_rows: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        return retrieval.query_vector(user_rows, self._parameters["scale"][task])

    def logits(self, rows: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
        linear = rows[:, :, 0].sum(axis=1)
        factors = rows[:, :, 1:]
        total = factors.sum(axis=1)
        pairwise = 0.5 * (np.einsum("bd,bd->b", total, total) - np.einsum("bfd,bfd->b", factors, factors))
        hidden = self._network(np.concatenate([factors.reshape(len(rows), -1), dense], axis=1))
        known = self._parameters
        scale = known["scale"]
        wide = known["bias"] + scale[:, 0] * linear[:, None] + scale[:, 1] * pairwise[:, None]
        return np.asarray(wide + dense @ known["dense_linear"].T + hidden, dtype=np.float32)
