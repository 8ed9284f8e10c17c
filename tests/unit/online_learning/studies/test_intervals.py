"""Intervals equal those of statsmodels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import DescrStatsW

from online_learning.studies.intervals import paired, t_interval

values = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@given(values, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_students(sample: list[float], confidence: float) -> None:
    low, high = DescrStatsW(np.array(sample)).tconfint_mean(alpha=1 - confidence)
    found = t_interval(sample, confidence)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.n == len(sample)


@given(values)
def test_a_paired_difference_is_the_interval_of_the_differences(sample: list[float]) -> None:
    base = dict(enumerate(sample))
    other = {seed: value + 0.5 + 0.01 * seed for seed, value in base.items()}
    low, high = DescrStatsW(np.array([other[s] - base[s] for s in base])).tconfint_mean()
    found = paired({**other, 99: 1.0}, {**base, 77: 3.0})
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.excludes_zero == (low > 0 or high < 0)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = t_interval([0.5])
    assert one.mean == 0.5
    assert math.isnan(one.low)
    assert not one.excludes_zero
    assert paired({0: 1.0}, {1: 1.0}) is None
    with pytest.raises(ValueError, match="needs a value"):
        t_interval([])
