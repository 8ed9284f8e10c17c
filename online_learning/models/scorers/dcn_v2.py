"""DCN-V2 in numpy: cross layers beside a small network, both over all factors and dense features.

Wang et al. 2021, https://arxiv.org/abs/2008.13535, eq. 1 with full matrices: x' = x_0 * (W x + b) + x. In parallel with
the network (their section 3.3) and not below it: what a cross layer has learned reaches the logit through one weight
per coordinate, and not through layers that must first learn to pass it on. In a single pass over a stream that is what
counts; it also lets retrieval use the cross layers. Only what these add to x_0 counts: rows and dense features have
linear weights of their own, and x_0 itself under the output weights would move an item's logit by all its factors at
once, at each step of an online learner.

What retrieval keeps. Let x_0 = [u, i, d]: factors of the user and context fields, of the item fields, dense features.
Of what the cross layers add, sorted by degree in x_0,

    degree 1:  o . (c * x_0)              c = b_0 + ... + b_(L-1)
    degree 2:  o . (x_0 * A x_0)          A = sum over l of W_l diag(1 + b_0 + ... + b_(l-1))

with o the task's output weights. The query and the item

    item  = [linear(I), i]                                                          f32 [1 + Fi * dim]
    query = [scale, (o * c)_I + o_I * (A_IU u) + A_UI^T (o_U * u)]

have as dot product exactly the linear weights, all of degree 1, and all products of a user's and an item's factor. Left
out are products of item factors alone, degrees above 2 (one cross layer has none), all that
depends on dense features, and the network: the scorer ranks what was retrieved by those too.
"""

import numpy as np
from numpy.typing import NDArray

from online_learning.models.parameters import Parameters, Shapes, layer_shapes
from online_learning.models.scorer import Scorer, weights_and_biases
from online_learning.settings import ModelSettings


class DCNV2Scorer(Scorer):
    """`bias + scale * linear + dense_linear . dense + cross_out . (cross(x_0) - x_0) + network(x_0)` per task."""

    @staticmethod
    def shapes_of(settings: ModelSettings, tasks: int, fields: int, dense: int) -> Shapes:
        """`bias` [T]; `scale` [T, 1]; `dense_linear` [T, D]; with n = F * dim + D: `cross.K.weight` [n, n],
        `cross.K.bias` [n], `cross_out` [T, n]; `layer.K.weight` [out, in] and `layer.K.bias` [out], n inputs and T
        outputs."""
        n = fields * settings.dim + dense
        named: Shapes = {"bias": (tasks,), "scale": (tasks, 1), "dense_linear": (tasks, dense)}
        for number in range(settings.number_of_cross_layers):
            named[f"cross.{number}.weight"] = (n, n)
            named[f"cross.{number}.bias"] = (n,)
        return {**named, "cross_out": (tasks, n), **layer_shapes(n, settings.hidden, tasks)}

    @staticmethod
    def retrieval_width(settings: ModelSettings) -> int:
        return 1 + settings.dim * sum(field.side == "item" for field in settings.fields)

    @staticmethod
    def item_vectors(item_rows: NDArray[np.float32]) -> NDArray[np.float32]:
        linear = item_rows[:, :, 0].sum(axis=1, keepdims=True)
        return np.concatenate([linear, item_rows[:, :, 1:].reshape(len(item_rows), -1)], axis=1)

    def load(self, parameters: Parameters) -> None:
        super().load(parameters)
        self._crosses = weights_and_biases(parameters, "cross")

    def query(self, user_rows: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        known = self._parameters
        user = user_rows[..., 1:].reshape(-1)
        end = len(known["cross_out"][task]) - known["dense_linear"].shape[1]
        u, i = slice(0, len(user)), slice(len(user), end)
        out = known["cross_out"][task]
        first, by_item = np.ones_like(out), np.zeros(end - len(user), np.float32)
        for weight, bias in self._crosses:
            by_item += out[i] * (weight[i, u] @ (first[u] * user))
            by_item += first[i] * ((out[u] * user) @ weight[u, i])
            first = first + bias
        return np.concatenate([known["scale"][task], out[i] * (first[i] - 1.0) + by_item]).astype(np.float32)

    def logits(self, rows: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
        known = self._parameters
        linear = rows[:, :, 0].sum(axis=1)
        start = np.concatenate([rows[:, :, 1:].reshape(len(rows), -1), dense], axis=1)
        crossed = start
        for weight, bias in self._crosses:
            crossed = start * (crossed @ weight.T + bias) + crossed
        wide = known["bias"] + known["scale"][:, 0] * linear[:, None] + dense @ known["dense_linear"].T
        return np.asarray(wide + (crossed - start) @ known["cross_out"].T + self._network(start), dtype=np.float32)
