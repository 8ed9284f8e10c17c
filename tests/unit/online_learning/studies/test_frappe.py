"""The study of Frappe on made splits: what one pass and several measure."""

from pathlib import Path

import numpy as np
import pytest

from online_learning.studies.datasets.labelled import Labelled
from online_learning.studies.frappe import ONE, SEVERAL, VARIANTS, Variant, measure_splits
from online_learning.studies.registry import find
from online_learning.studies.runner import run
from online_learning.studies.study import Point

SMALL = Variant(dim=4, hidden=(8,), batch=64)


def made(seed: int, rows: int) -> Labelled:
    """Users like the apps of their own kind."""
    random = np.random.default_rng(seed)
    user, item = random.integers(0, 60, rows), random.integers(0, 60, rows)
    p = np.where(user % 3 == item % 3, 0.85, 0.15)
    return Labelled({"user": user, "item": item, "weekday": random.integers(0, 7, rows)}, random.random(rows) < p)


def measured(group: str, variant: Variant, seed: int = 0) -> dict[str, float]:
    splits = (made(1, 8_000), made(2, 2_000), made(3, 2_000))
    return {one.metric: one.value for one in measure_splits(Point(group, "made", seed), variant, *splits)}


def test_one_pass_predicts_what_it_then_learns_and_ends_better_than_it_began() -> None:
    found = measured(ONE, SMALL)
    assert found["passes"] == 1
    assert 0.5 < found["online AUC"] < found["test AUC"] < 0.9
    assert found == measured(ONE, SMALL)


def test_passes_end_where_valid_is_best() -> None:
    one, several = measured(ONE, SMALL), measured(SEVERAL, SMALL)
    assert several["passes"] >= 1
    assert several["valid AUC"] >= one["valid AUC"] - 0.01
    assert several["test AUC"] == pytest.approx(several["valid AUC"], abs=0.04)


def test_pairs_are_a_field_of_their_own() -> None:
    # A pair's own liking, which no sum of user and app can tell.
    random = np.random.default_rng(0)
    likes = random.random((40, 40)) < 0.5

    def split(rows: int) -> Labelled:
        user, item = random.integers(0, 40, rows), random.integers(0, 40, rows)
        return Labelled({"user": user, "item": item}, likes[user, item])

    splits = (split(16_000), split(2_000), split(2_000))
    plain, paired = (
        {
            one.metric: one.value
            for one in measure_splits(
                Point(ONE, "made", 0),
                Variant(model="logistic_regression", dim=1, hidden=(), batch=64, pairs=pairs),
                *splits,
            )
        }
        for pairs in (False, True)
    )
    assert paired["test AUC"] > 0.95 > 0.7 > plain["test AUC"]


@pytest.mark.data
def test_a_quick_run_goes_over_the_real_splits_and_says_what_they_are(data: Path, tmp_path: Path) -> None:
    outcome = run(find("frappe"), data, tmp_path, about={}, quick=True, seeds=(0,), only=("DeepFM",))
    assert outcome.summary.groups == list(VARIANTS)
    assert "train negatives are re-drawn" in outcome.table.read_text()
    best = outcome.summary.interval(ONE, "DeepFM", "test AUC")
    assert best is not None
    assert best.mean > 0.6
