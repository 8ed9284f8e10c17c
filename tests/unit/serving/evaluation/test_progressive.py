"""AUC from bins is the AUC of the scores, as far as bins can know it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from serving.evaluation.progressive import auc_of_bins

bins = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=30)


@given(bins)
def test_with_one_score_per_bin_it_is_mann_whitney(pairs: list[tuple[int, int]]) -> None:
    positives, negatives = [p for p, _ in pairs], [n for _, n in pairs]
    found = auc_of_bins(positives, negatives)
    if not sum(positives) or not sum(negatives):
        assert math.isnan(found.value)
        return
    scores = [np.repeat(np.arange(len(pairs)), counted) for counted in (positives, negatives)]
    expected = stats.mannwhitneyu(*scores).statistic / sum(positives) / sum(negatives)
    assert found.value == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=200), st.integers(1, 20))
def test_the_exact_auc_is_within_the_stated_error(scored: list[tuple[float, bool]], n_bins: int) -> None:
    scores, labels = np.array([s for s, _ in scored]), np.array([y for _, y in scored])
    if labels.all() or not labels.any():
        return
    exact = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic / labels.sum() / (~labels).sum()
    at = np.minimum((scores * n_bins).astype(int), n_bins - 1)
    counted = [np.bincount(at[mask], minlength=n_bins).tolist() for mask in (labels, ~labels)]
    found = auc_of_bins(*counted)
    assert abs(found.value - exact) <= found.error + 1e-9


def test_different_numbers_of_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="must be the same"):
        auc_of_bins([1], [1, 2])
