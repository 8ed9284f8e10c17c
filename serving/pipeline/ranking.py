"""How candidates are ordered. A policy ranks; which policy an arm has is its experiment's definition."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from online_learning.models.dense_features import ITEM_STATS

_IMPRESSIONS, _POSITIVES = ITEM_STATS.index("impressions_1d"), ITEM_STATS.index("positives_1d")
# A rate is shrunk towards the mean of all items as if it had been seen in this many impressions: a first click does
# not make an item the best one, and an item that nobody saw is an average one.
_PRIOR_IMPRESSIONS = 20.0
# Where nothing was shown yet the mean is unknown: one in ten.
_UNKNOWN_RATE = 0.1


def weighted(
    predictions: NDArray[np.float32], weights: NDArray[np.float32], values: Sequence[int]
) -> NDArray[np.float32]:
    """The sum f32[C] of predictions f32[C, T] by the tasks' weights f32[T], those of the value columns as log1p.

    A probability counts as it is. Of a value the log counts: twice the dwell is worth the same whether of seconds or of
    minutes, and one long film does not outweigh everything.
    """
    said = predictions.copy()
    said[:, list(values)] = np.log1p(said[:, list(values)])
    return np.asarray(said @ weights, dtype=np.float32)


def popularity(stats: NDArray[np.floating]) -> NDArray[np.float32]:
    """The decayed rate of positives, shrunk towards the mean: f32[n] of item stats [n, 6] (NaN: nothing known).

    Organic positives come without impressions and count in full, so much-used items of an imported log lead.
    """
    known = np.nan_to_num(stats.astype(np.float64))
    impressions, positives = known[:, _IMPRESSIONS], known[:, _POSITIVES]
    total = impressions.sum()
    mean = min(1.0, positives.sum() / total) if total > 0 else _UNKNOWN_RATE
    return ((positives + mean * _PRIOR_IMPRESSIONS) / (impressions + _PRIOR_IMPRESSIONS)).astype(np.float32)


def shown(stats: NDArray[np.floating]) -> NDArray[np.float64]:
    """How much an item has been seen lately, decayed impressions and positives together: f64[n] of stats [n, 6]."""
    known = np.nan_to_num(stats.astype(np.float64))
    return np.asarray(known[:, _IMPRESSIONS] + known[:, _POSITIVES])


def order(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rows from the highest score to the lowest; ties keep the order of the sources."""
    return np.argsort(-scores, kind="stable")
