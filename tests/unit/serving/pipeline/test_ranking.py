"""Popularity is a shrunk rate of what happened lately."""

import numpy as np

from serving.pipeline.ranking import order, popularity, shown


def stats(*rows: tuple[float, float]) -> np.ndarray:
    """Item stats of (impressions, positives) with a half-life of a day."""
    return np.array([[0, 0, impressions, positives, 0, 0] for impressions, positives in rows], dtype=np.float32)


def test_many_clicks_on_many_impressions_beat_one_on_one() -> None:
    scores = popularity(stats((1, 1), (1000, 300), (1000, 20)))
    assert order(scores).tolist() == [1, 0, 2]


def test_an_item_that_nobody_saw_is_an_average_one() -> None:
    scores = popularity(stats((100, 30), (100, 10), (0, 0)))
    assert order(scores).tolist() == [0, 2, 1]


def test_nothing_known_at_all_ranks_everything_alike() -> None:
    scores = popularity(np.full((3, 6), np.nan, dtype=np.float32))
    assert np.isfinite(scores).all()
    assert order(scores).tolist() == [0, 1, 2]


def test_organic_positives_count_without_impressions() -> None:
    assert order(popularity(stats((0, 500), (100, 10)))).tolist() == [0, 1]
    assert shown(stats((0, 500), (100, 10), (0, 0))).tolist() == [500.0, 110.0, 0.0]
