"""How good predicted probabilities are, exactly: nothing is binned."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def auc(probabilities: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """The area under the ROC curve, ties counted half (Mann and Whitney's U); NaN without both classes."""
    positive = labels > 0.5
    hits = int(positive.sum())
    misses = len(labels) - hits
    if not hits or not misses:
        return math.nan
    ranks = rankdata(probabilities)
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def log_loss(probabilities: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """The mean cross-entropy in nats; probabilities are kept within 1e-7 of 0 and 1."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels > 0.5, np.log(p), np.log1p(-p))))
