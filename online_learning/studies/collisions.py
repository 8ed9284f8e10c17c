"""What collisions cost: the same online model on collision-free tables and on hash spaces of several sizes.

Monolith, section 3.1.1 (Liu et al. 2022, https://arxiv.org/abs/2209.07663), extended to a progressive pass over three
data sets, several spaces, seeds and paired intervals.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from online_learning.studies.datasets import frappe, globo, movielens
from online_learning.studies.datasets.labelled import Labelled
from online_learning.studies.hash_space import hashed, lost, slots_for
from online_learning.studies.study import Measurement, Point, Study
from online_learning.studies.summary import Summary
from online_learning.studies.words import signed

FREE: Final = "collision-free"
LOSSES: Final = {"2.9% lost": 0.029, "7.7% lost": 0.077, "25% lost": 0.25, "50% lost": 0.5}
"""The first two are the losses of Monolith's study (users and films of MovieLens)."""

# Which fields are ids, by the space that they share: an article and the one before it are the same articles.
_ID_FIELDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "ml-100k": {"user": ("user",), "item": ("item",)},
    "frappe": {"user": ("user",), "item": ("item",)},
    "globo": {"user": ("user",), "article": ("article", "previous")},
}
_CLICKS, _NEGATIVES = 25_000, 3
_FRAPPE_ROWS: Final = 60_000
_QUICK_ROWS: Final = 4_000
_BATCH: Final = 256
_DIM, _HIDDEN = 16, (64, 32)
_LEARNING_RATE: Final = 0.2


class Collisions(Study):
    """Progressive AUC of one pass; a hash space per id field, whose size follows from the share of ids to be lost."""

    name = "collisions"
    title = "Collisions: what hashing ids together costs"
    question = (
        "How much worse does the same online model predict when the ids of users and items are hashed into spaces that "
        "lose a share of them, instead of having a row each?"
    )
    seeds = (0, 1, 2, 3, 4)
    baseline = FREE
    metrics = ("AUC", "log loss", "ids lost, %", "rows")
    plain = ("ids lost, %", "rows")
    differences = True
    needs = (movielens.FOLDER, frappe.FOLDER, globo.FOLDER)
    x_label = "distinct ids lost, %"
    notes = (
        "One pass, each row predicted before it is learned; DeepFM on the live tables and learner. A seed sets the "
        "initial rows and network, which ids collide, which of Frappe's rows come in which order (they have no "
        "times) and Globo's negatives.",
        "Lost = 1 - distinct slots / distinct ids. Each id field has a space of its own, of the size at which that "
        "share is expected over the whole stream; context fields are not hashed. Globo's article and the one before it "
        "share a space.",
        "Globo holds clicks only: each click has "
        f"{_NEGATIVES} negatives, drawn evenly from the distinct articles clicked in the hour before.",
        frappe.REDRAWN,
    )

    def sizes(self, quick: bool) -> Mapping[str, str]:
        rows = f"{_QUICK_ROWS:,} of each"
        full = (
            f"ml-100k 100,000; frappe {_FRAPPE_ROWS:,} of train's 202,027, drawn by seed; "
            f"globo the first {_CLICKS:,} clicks with {_NEGATIVES} negatives each"
        )
        return {
            "rows": rows if quick else full,
            "batch": str(_BATCH),
            "dim": str(_DIM),
            "hidden": "x".join(map(str, _HIDDEN)),
            "row learning rate": str(_LEARNING_RATE),
        }

    def points(self, quick: bool, seeds: Sequence[int]) -> list[Point]:
        return [Point(group, setting, seed) for seed in seeds for group in _ID_FIELDS for setting in (FREE, *LOSSES)]

    def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
        rows = _read(point.group, point.seed, data, quick)
        return measure_rows(point, rows, _ID_FIELDS[point.group])

    def findings(self, summary: Summary) -> list[str]:
        found = []
        for group in summary.groups:
            told = []
            for setting in LOSSES:
                change = summary.difference(group, setting, "AUC")
                if change is not None:
                    verdict = "" if change.excludes_zero else ", no difference that this many seeds can tell from none"
                    told.append(f"{setting}: {signed(change, self.digits)}{verdict}")
            if told:
                found.append(f"{group}: AUC against collision-free, {'; '.join(told)}.")
        return found


def measure_rows(point: Point, rows: Labelled, id_fields: Mapping[str, tuple[str, ...]]) -> list[Measurement]:
    """One progressive pass over rows whose id fields are hashed as the point's setting says."""
    # The command line lists studies without waiting for torch.
    import torch

    from online_learning.learner import OnlineLearner
    from online_learning.settings import ModelSettings
    from online_learning.studies.columns import dense_width, settings_of
    from online_learning.studies.passes import Passes
    from online_learning.studies.quality import auc, log_loss

    torch.set_num_threads(1)
    rows, share = _hash(rows, id_fields, point)
    settings = settings_of(
        rows.fields,
        ModelSettings(name="deepfm", dim=_DIM, hidden=_HIDDEN),
        sparse_learning_rate=_LEARNING_RATE,
        seed=point.seed,
    )
    learner = OnlineLearner(settings)
    said = Passes(learner, dense_width(settings)).online(rows.columns(), rows.labels, _BATCH)
    measured = {
        "AUC": auc(said, rows.labels),
        "log loss": log_loss(said, rows.labels),
        "ids lost, %": 100 * share,
        "rows": float(len(learner.table)),
    }
    place = 100 * LOSSES.get(point.setting, 0.0)
    return [
        Measurement(point.group, point.setting, point.seed, metric, value, place) for metric, value in measured.items()
    ]


def _hash(rows: Labelled, id_fields: Mapping[str, tuple[str, ...]], point: Point) -> tuple[Labelled, float]:
    """The rows with their id fields hashed, and the share of all distinct ids that were lost."""
    import numpy as np

    if point.setting == FREE:
        return rows, 0.0
    gone = known = 0.0
    for fields in id_fields.values():
        ids = np.concatenate([rows.ids[field] for field in fields])
        distinct = len(np.unique(ids[ids >= 0]))
        slots = slots_for(distinct, LOSSES[point.setting])
        gone += distinct * lost(ids, hashed(ids, slots, point.seed))
        known += distinct
        for field in fields:
            rows = rows.with_field(field, hashed(rows.ids[field], slots, point.seed))
    return rows, gone / known


# All settings of a group are measured on the same rows, one after the other.
@functools.lru_cache(maxsize=1)
def _read(group: str, seed: int, data: Path, quick: bool) -> Labelled:
    import numpy as np

    if group == "ml-100k":
        return movielens.read(data, _QUICK_ROWS if quick else None)
    if group == "globo":
        return globo.read(data, _QUICK_ROWS // (1 + _NEGATIVES) if quick else _CLICKS, _NEGATIVES, seed)
    train = frappe.read(data, "train")
    order = np.random.default_rng(seed).permutation(len(train))
    return train.take(order[: _QUICK_ROWS if quick else _FRAPPE_ROWS])
