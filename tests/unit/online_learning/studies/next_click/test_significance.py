"""What the figures and their intervals promise."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from online_learning.studies.next_click.significance import clustered, gain, hits, reciprocal


def test_figures_of_ranks() -> None:
    ranks = np.array([1.0, 2.0, 10.0, 11.0, np.inf])
    assert hits(ranks).tolist() == [1, 1, 1, 0, 0]
    assert np.allclose(reciprocal(ranks), [1, 0.5, 0.1, 0, 0])
    assert np.allclose(gain(ranks), [1, 1 / np.log2(3), 1 / np.log2(11), 0, 0])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_with_one_click_a_cluster_it_is_the_normal_interval_of_the_mean(values: list[float]) -> None:
    found = clustered(np.array(values), np.arange(len(values)))
    assert np.isclose(found.half, 1.96 * np.std(values, ddof=1) / np.sqrt(len(values)), rtol=1e-3, atol=1e-12)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50), st.integers(2, 5))
def test_copies_of_a_click_in_its_cluster_make_nothing_surer(values: list[float], copies: int) -> None:
    once = clustered(np.array(values), np.arange(len(values)))
    more = clustered(np.repeat(values, copies), np.repeat(np.arange(len(values)), copies))
    assert np.isclose(once.mean, more.mean)
    assert np.isclose(once.half, more.half)


def test_one_cluster_has_no_interval() -> None:
    assert np.isnan(clustered(np.array([0.0, 1.0]), np.array([3, 3])).half)
