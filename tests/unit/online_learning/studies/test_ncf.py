"""The study of ML-1M on a made split: what each setting finds, and that the split asks for what was not learned."""

from pathlib import Path

import numpy as np
import pytest

from online_learning.studies.datasets.movielens_1m import LeaveOneOut, read
from online_learning.studies.leave_one_out import Variant, hit_rate_and_ndcg
from online_learning.studies.ncf import ALL, DRAWN, GROUP, HR, NDCG, POPULAR, SETTINGS, SVD, measure_split
from online_learning.studies.registry import find
from online_learning.studies.runner import run
from online_learning.studies.study import Point

KINDS = 4
SMALL = {
    ALL: Variant(dim=8, epochs=60, rate=0.02, decay=1.0, batch=50),
    DRAWN: Variant(dim=8, epochs=20, rate=0.1, batch=64, drawn=32),
}


def made(seed: int = 0, users: int = 120, items: int = 160) -> LeaveOneOut:
    """Users rate items of their own kind, the first ones more often than the last."""
    random = np.random.default_rng(seed)
    reach = np.geomspace(4, 1, items // KINDS)
    user, item, asked = [], [], np.empty((users, 100), np.int64)
    for u in range(users):
        mine = np.arange(u % KINDS, items, KINDS)
        rated = random.choice(mine, 16, replace=False, p=reach / reach.sum())
        user += [u] * 15
        item += rated[1:].tolist()
        asked[u, 0] = rated[0]
        asked[u, 1:] = random.choice(np.setdiff1d(np.arange(items), rated), 99, replace=False)
    return LeaveOneOut(np.array(user), np.array(item), asked, items)


def measured(setting: str, seed: int = 0) -> dict[str, float]:
    return {one.metric: one.value for one in measure_split(Point(GROUP, setting, seed), made(), SMALL)}


@pytest.mark.parametrize("setting", [ALL, DRAWN, SVD])
def test_towers_and_svd_find_what_is_of_the_users_kind(setting: str) -> None:
    found, popular = measured(setting), measured(POPULAR)
    # About 21 of 99 others are of the kind too, so that more than half is hardly to be found.
    assert found[HR] > popular[HR] + 0.15
    assert found[NDCG] > popular[NDCG] + 0.05
    assert found == measured(setting)


def test_hits_and_gains_are_those_of_the_ranks() -> None:
    scores = np.zeros((4, 12))
    scores[0, 0] = 1.0
    scores[1] = [0.5, 1, 1, *[0] * 9]
    scores[2] = [0.5, *[1] * 11]
    hit, gain = hit_rate_and_ndcg(scores)
    # First, third, twelfth, and tied with all, which counts as last.
    assert hit == pytest.approx(2 / 4)
    assert gain == pytest.approx((1 + 1 / np.log2(4)) / 4)


def test_once_more_left_out_is_rated_and_the_others_are_not() -> None:
    split = made()
    again = split.left_out_once_more(seed=1)
    assert len(again.user) == len(split.user) - split.users
    rated, kept = set(zip(split.user, split.item, strict=True)), set(zip(again.user, again.item, strict=True))
    for user in range(split.users):
        assert (user, again.asked[user, 0]) in rated - kept
        assert not rated & {(user, other) for other in again.asked[user, 1:]}


@pytest.mark.data
def test_a_quick_run_measures_all_settings_on_the_real_split(data: Path, tmp_path: Path) -> None:
    split = read(data)
    assert (split.users, split.items, len(split.user)) == (6_040, 3_706, 994_169)
    outcome = run(find("ml-1m"), data, tmp_path, about={}, quick=True, seeds=(0,), only=(ALL, POPULAR))
    assert set(outcome.summary.settings(GROUP)) == {ALL, POPULAR} <= set(SETTINGS)
