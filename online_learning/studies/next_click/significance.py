"""Figures of ranks, and intervals that know that the clicks of one session are not independent."""

import math

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.intervals import Interval

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NORMAL_95 = 1.959963984540054
"""Two-sided 95% of the normal distribution: sessions come in thousands."""


def hits(ranks: Floats, k: int = 10) -> Floats:
    """By click 1 where its article is among the first k, else 0; the mean is HR@k."""
    return (ranks <= k).astype(np.float64)


def reciprocal(ranks: Floats, k: int = 10) -> Floats:
    """By click 1 / rank where its article is among the first k, else 0; the mean is MRR@k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def gain(ranks: Floats, k: int = 10) -> Floats:
    """By click 1 / log2(1 + rank) where its article is among the first k, else 0; the mean is NDCG@k."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


METRICS = {"HR@10": hits, "MRR@10": reciprocal, "NDCG@10": gain}


def clustered(values: Floats, clusters: Ints) -> Interval:
    """The mean of values f64 [n] with a 95% interval whose independent units are the clusters i64 [n].

    The mean is a ratio of cluster sums, its variance the linearised one (Deng, Knoblich, Lu 2018, Applying the Delta
    Method in Metric Analytics, section 3). NaN bounds where there are fewer than two clusters.
    """
    _, of = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(of, weights=values), np.bincount(of)
    mean, count = float(values.mean()), len(sums)
    if count < 2:
        return Interval(mean, math.nan, math.nan, count)
    apart = sums - mean * sizes
    half = NORMAL_95 * math.sqrt(float((apart**2).sum()) * count / (count - 1)) / len(values)
    return Interval(mean, mean - half, mean + half, count)
