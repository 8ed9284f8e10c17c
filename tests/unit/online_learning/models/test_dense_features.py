"""Dense features: zero where nothing is known, finite whatever comes."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from online_learning.models import dense_features as df
from online_learning.settings import ModelSettings

NUMBERS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-(10**15), 10**15))


def test_nothing_known_is_all_zeros():
    user = df.user_features(np.array([df.raw_user(None)]), 1e12)
    item = df.item_features(df.item_stats_matrix([[]]))
    row = df.dense_features(user, item, np.array([df.NO_POSITION]), np.zeros((1, 0), np.float32))
    assert row.shape == (1, len(df.dense_names(ModelSettings(fields=()))))
    assert not row.any()


def test_known_zeros_differ_from_unknown_only_by_their_flag():
    item = df.item_features(df.item_stats_matrix([[0.0] * 6]))
    assert item[0].tolist() == [1.0] + [0.0] * 6


@given(st.lists(NUMBERS, min_size=7, max_size=7), st.floats(0, 1e13))
def test_wild_user_values_stay_finite(values: list[float | None], now_ms: float):
    row = df.user_features(np.array([df.raw_user(dict(zip(df.USER_STATS, values, strict=True)))]), now_ms)
    assert np.isfinite(row).all()
    assert abs(row).max() <= 20


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=8))
def test_wild_item_values_stay_finite(values: list[float]):
    assert np.isfinite(df.item_features(df.item_stats_matrix([values]))).all()


def test_counts_halve_in_their_half_life_and_ratings_stay():
    hour, day = 3_600_000, 86_400_000
    stats = np.full((2, 6), 8.0)
    at_ms = np.array([0, 0])
    assert df.decayed_item_stats(stats, at_ms, hour)[0, :2].tolist() == [4.0, 4.0]
    assert df.decayed_item_stats(stats, at_ms, day)[1, 2:].tolist() == [4.0, 4.0, 8.0, 8.0]
    assert df.decayed_item_stats(stats, np.array([hour, hour]), 0).tolist() == stats.tolist()


def test_more_positives_raise_the_rate_and_few_impressions_say_little():
    few, many = df.item_features(df.item_stats_matrix([[1, 1, 1, 1, 0, 0], [100, 100, 100, 100, 0, 0]]))[:, 3]
    assert 0 < few < 0.7 < many


def test_position_is_told_apart_from_none():
    rows = df.position_features(np.array([-1, 0, 4]))
    np.testing.assert_allclose(rows, [[0, 0, 0], [1, 1, 0], [1, 0.2, math.log(5)]], rtol=1e-6)
