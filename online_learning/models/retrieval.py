"""The linear and pairwise parts of DeepFM as one dot product between a query and an item.

Let v_f be the factors of field f, U the user and context fields, I the item fields. The pairwise part over all fields
is pairs within U + pairs within I + (sum of v_f over U) . (sum of v_f over I). Only the last two depend on the item.
With a, b = scale[task]:

    item  = [linear(I), pairs(I), sum over I of v]              f32 [dim + 2]
    query = [a,         b,        b * sum over U of v]          f32 [dim + 2]
    query . item + constant(U) = a * linear + b * pairwise      exactly, constant(U) = a * linear(U) + b * pairs(U)

The item's vector holds no dense parameter: it changes only when a row of the item changes.
"""

import numpy as np
from numpy.typing import NDArray

EXTRA_COLUMNS = 2
"""A retrieval vector is that much wider than `dim`."""


def item_vectors(item_rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors f32 [n, dim + 2] of pooled item rows f32 [n, Fi, 1 + dim]."""
    factors = item_rows[:, :, 1:]
    total = factors.sum(axis=1)
    pairs = 0.5 * (np.einsum("bd,bd->b", total, total) - np.einsum("bfd,bfd->b", factors, factors))
    return np.concatenate([item_rows[:, :, 0].sum(axis=1)[:, None], pairs[:, None], total], axis=1).astype(np.float32)


def query_vector(user_rows: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The query f32 [dim + 2] of pooled user rows f32 [1, Fu, 1 + dim] (or [Fu, 1 + dim]).

    `scale` f32 [2] is the row of the task that ranks, of the dense parameter `scale`.
    """
    factors = user_rows.reshape(-1, user_rows.shape[-1])[:, 1:]
    return np.concatenate([scale, scale[1] * factors.sum(axis=0)]).astype(np.float32)
