"""What each retrieval finds before it learns it, and what negatives for organic positives do to the ranking model.

    python -m tests.benchmarks.retrieval [--quick] [--json FILE] [--seeds N]

Every rating of ml-100k in time order becomes an organic click and a rating (4 and above: 1). Before a batch is learned,
each of its clicks is looked for among all items of the catalogue but those that its user has rated. All settings see
the same examples in the same batches; popularity (clicks so far) is measured beside them.
"""

import sys
import time
from collections import defaultdict

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from online_learning.catalogue import Catalogue
from online_learning.learners import Learners
from online_learning.models.fields import FieldEncoder, Side
from online_learning.settings import LearningSettings, NegativesSettings, RetrievalSettings
from online_learning.table.version import pack_version
from streams.datasets.dataset import Dataset
from streams.records import Example, Label, LabelState
from tests.benchmarks.finder import Finder
from tests.benchmarks.progressive import TASKS, organic_examples
from tests.benchmarks.ratings import BATCH, options, over_seeds

KS = (10, 100)


def settings_of(seed: int) -> dict[str, LearningSettings]:
    """What is compared, by name."""
    base = LearningSettings(tasks=TASKS)
    base = replace(base, trainer=replace(base.trainer, seed=seed))
    two_tower = RetrievalSettings(name="two_tower")
    return {
        "ranking, no negatives": replace(base, negatives=NegativesSettings(per_positive=0)),
        "ranking, negatives": base,
        "two_tower": replace(base, retrieval=two_tower),
        "two_tower, layers": replace(base, retrieval=RetrievalSettings(name="two_tower", hidden=(32,))),
    }


def user_side(encoder: FieldEncoder, catalogue: Catalogue, one: Example) -> Side:
    """The user and context fields of an example."""
    recent = one.user_features.values["recent_items"] if one.user_features is not None else []
    return encoder.encode_user(one.user, catalogue.user_attributes(one.user), recent, one.scene)


def ranks(scores: NDArray[np.float32], own: NDArray[np.int64], seen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The place i64 [B] of each row's own item among those that its user has not seen; ties count against it."""
    masked = np.where(seen, -np.inf, scores)
    mine = np.take_along_axis(scores, own[:, None], axis=1)
    return np.asarray((masked >= mine).sum(axis=1) - 1)


def measure(dataset: Dataset, limit: int, batch: int, seed: int) -> dict[str, dict[str, float]]:
    """Per setting: recall at 10 and 100 over the second half, AUC of the ratings, microseconds of CPU per example."""
    catalogue = Catalogue()
    for item in dataset.items():
        catalogue.put_item(item.item, item)
    for user in dataset.users():
        catalogue.put_user(user.user, user)
    names = [item.item for item in dataset.items()]
    place = {name: k for k, name in enumerate(names)}
    users: dict[str, int] = defaultdict(lambda: len(users))
    click = {"click": Label(LabelState.OBSERVED, 1.0)}
    examples = [replace(one, labels={**one.labels, **click}) for one in organic_examples(dataset, limit)]
    told = settings_of(seed)
    these = {name: Learners(settings, catalogue) for name, settings in told.items()}
    encoder = FieldEncoder(LearningSettings().model, catalogue.item)
    finders = {name: Finder(settings, encoder, names) for name, settings in told.items()}
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (*told, "popularity")}
    spent = dict.fromkeys(told, 0.0)
    seen = np.zeros((2_000, len(names)), dtype=np.bool_)
    counts = np.zeros(len(names), dtype=np.float32)
    for step, start in enumerate(range(0, len(examples), batch), start=1):
        chunk = examples[start : start + batch]
        own = np.array([place[one.item] for one in chunk])
        who = np.array([users[one.user] for one in chunk])
        sides = [user_side(encoder, catalogue, one) for one in chunk]
        for name, learners in these.items():
            if start >= len(examples) // 2:
                found[name].append(ranks(finders[name].scores(learners, sides), own, seen[who]))
            began = time.process_time()
            learners.learn(chunk, chunk[-1].ts, pack_version(1, step))
            spent[name] += time.process_time() - began
        if start >= len(examples) // 2:
            found["popularity"].append(ranks(np.broadcast_to(counts, (len(chunk), len(names))), own, seen[who]))
        np.add.at(counts, own, 1.0)
        seen[who, own] = True
    out: dict[str, dict[str, float]] = {}
    for name, parts in found.items():
        rank = np.concatenate(parts)
        out[name] = {f"recall@{k}": float((rank < k).mean()) for k in KS}
        if name in these:
            out[name]["rating_auc"] = these[name].progressive.figures()["auc_rating_online"]
            out[name]["cpu_us_per_example"] = spent[name] / len(examples) * 1e6
    return out


def main() -> int:
    """Run it."""
    return over_seeds(
        options(__doc__),
        lambda dataset, rows, seed: measure(dataset, rows, BATCH, seed),
        "what the next rating is of",
    )


if __name__ == "__main__":
    sys.exit(main())
