"""ML-1M, leave-one-out: two towers of ids learned through a table, and what others find on the same split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from online_learning.studies.datasets import movielens_1m
from online_learning.studies.datasets.movielens_1m import LeaveOneOut
from online_learning.studies.study import Measurement, Point, Study
from online_learning.studies.summary import Summary

if TYPE_CHECKING:
    from online_learning.studies.leave_one_out import Variant

GROUP: Final = "ML-1M"
ALL, DRAWN, PLAIN = "two towers, all items as negatives", "two towers, drawn negatives", "drawn, without ln q"
SVD, POPULAR = "PureSVD", "popularity"
SETTINGS: Final = (ALL, DRAWN, PLAIN, SVD, POPULAR)
HR, NDCG = "HR@10", "NDCG@10"
_FACTORS: Final = 64
_QUICK_USERS: Final = 300
_ASKED: Final = {HR: 0.70, NDCG: 0.43}


def variants() -> dict[str, "Variant"]:
    """The settings of the towers, by name; chosen on what `LeaveOneOut.left_out_once_more` leaves out."""
    from online_learning.studies.leave_one_out import Variant

    drawn = Variant(dim=64, epochs=3, rate=0.2, scale=0.1, decay=0.0, batch=512, drawn=256)
    return {ALL: Variant(dim=64, epochs=20, rate=0.3, scale=0.1), DRAWN: drawn, PLAIN: replace(drawn, log_q=False)}


class Ncf(Study):
    """HR@10 and NDCG@10 of each user's last rating among 99 items that the user has not rated."""

    name = "ml-1m"
    title = "ML-1M, leave-one-out with 99 given negatives"
    question = "How well does retrieval find that is learned through the tables?"
    seeds = (0, 1, 2)
    metrics = (HR, NDCG)
    baseline = SVD
    needs = (movielens_1m.FOLDER,)
    notes = (
        "All items as negatives: softmax over the whole catalogue, all ratings of a user at once, and L2 on the rows. "
        "Drawn negatives: the live trainer's learner, batches of ratings in random order told from each other and from "
        "items drawn as often as they are rated, in few passes. Both are rows of one table, with Adagrad, under the "
        "keys by which serving looks them up, and are asked as serving asks them.",
        "Settings were chosen on one more rating a user, left out of train at random; the split's own last ratings "
        "were asked for once per seed. A seed sets the rows' first values and the order; PureSVD and popularity have "
        "none, so their intervals have no width.",
        "Published on this split (HR@10/NDCG@10): TopPop .4531/.2542, ItemKNN .6596/.3900, NeuMF .6725/.4011, PureSVD "
        ".6896/.4294.",
    )

    def sizes(self, quick: bool) -> Mapping[str, str]:
        users = f"the first {_QUICK_USERS}" if quick else "6,040"
        told = {
            name: f"(dim {one.dim}, {one.epochs} epochs, rate {one.rate}, scale {one.scale}, decay {one.decay}, "
            f"batch {one.batch}, {one.drawn} drawn)"
            for name, one in variants().items()
        }
        return {"users": users, "items": "3,706", **told, SVD: f"({_FACTORS} factors)"}

    def points(self, quick: bool, seeds: Sequence[int]) -> list[Point]:
        return [Point(GROUP, setting, seed) for setting in SETTINGS for seed in seeds]

    def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
        split = movielens_1m.read(data)
        return measure_split(point, split.first_users(_QUICK_USERS) if quick else split)

    def findings(self, summary: Summary) -> list[str]:
        found = []
        for metric, bar in _ASKED.items():
            best = summary.interval(GROUP, ALL, metric)
            if best is not None:
                said = "reached" if best.mean >= bar else "missed"
                found.append(f"{metric} {best.mean:.4f} with {ALL}, asked for at least {bar}: {said}.")
        return found


def measure_split(point: Point, split: LeaveOneOut, told: "Mapping[str, Variant] | None" = None) -> list[Measurement]:
    """What a setting finds of a split; `told`: other settings of the towers than the study's."""
    # The command line lists studies without waiting for torch.
    import torch

    from online_learning.studies.leave_one_out import Towers, hit_rate_and_ndcg

    torch.set_num_threads(1)
    scores: NDArray[np.floating]
    if point.setting == POPULAR:
        scores = np.bincount(split.item, minlength=split.items)[split.asked].astype(np.float64)
    elif point.setting == SVD:
        scores = pure_svd(split, _FACTORS)
    else:
        towers = Towers(split, (told or variants())[point.setting], point.seed)
        towers.learn()
        scores = towers.scores()
    found = zip((HR, NDCG), hit_rate_and_ndcg(scores), strict=True)
    return [Measurement(point.group, point.setting, point.seed, metric, value) for metric, value in found]


def pure_svd(split: LeaveOneOut, factors: int) -> NDArray[np.float64]:
    """Scores f64 [U, 1 + 99] by the truncated SVD of the 0/1 matrix (Cremonesi et al. 2010, section 3.3)."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    ones = np.ones(len(split.user))
    rated = csr_matrix((ones, (split.user, split.item)), shape=(split.users, split.items))
    # A start of its own, or every call would find another sign and other last digits.
    left, sizes, right = svds(rated, k=factors, v0=np.ones(min(rated.shape)))
    scores = (left * sizes) @ right
    return np.asarray(np.take_along_axis(scores, split.asked, axis=1))
