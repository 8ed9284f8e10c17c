"""Windows of progressive validation put together in Python, as ClickHouse does it in SQL."""

import math
from collections.abc import Iterable

import numpy as np

from online_learning.watching.progressive import auc
from online_learning.watching.value_errors import ValueErrors
from streams.records import Validation


def merged_auc(windows: Iterable[Validation]) -> float:
    """The AUC over several windows of one learner and task together; NaN without both classes."""
    known = list(windows)
    if not known:
        return math.nan
    return auc(
        np.sum([window.bins_positive for window in known], axis=0),
        np.sum([window.bins_negative for window in known], axis=0),
    )


def merged_errors(windows: Iterable[Validation]) -> ValueErrors:
    """The errors over several windows of one learner and value task together."""
    return sum((_errors_of(window) for window in windows), ValueErrors())


def _errors_of(window: Validation) -> ValueErrors:
    return ValueErrors(
        window.n,
        window.label_sum,
        window.absolute_error_sum,
        window.squared_error_sum,
        window.reference_error_sum,
    )
