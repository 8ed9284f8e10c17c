"""Means over seeds, how sure they are, and paired differences."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from scipy import stats


class Interval(msgspec.Struct, frozen=True):
    """A mean of n values with its two-sided interval; the bounds are NaN where n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """False also where there is no interval."""
        return self.low > 0 or self.high < 0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean and Student's t interval of independent values (n - 1 degrees of freedom); raises ValueError on none."""
    if not values:
        raise ValueError("an interval needs a value")
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired(values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95) -> Interval | None:
    """The mean difference over the seeds that both have, with its t interval; None where they share none."""
    shared = sorted(values.keys() & baseline.keys())
    return t_interval([values[seed] - baseline[seed] for seed in shared], confidence) if shared else None
