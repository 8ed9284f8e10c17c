"""Progressive AUC and log loss of the online model and its baselines on real logs, without Kafka.

    python -m tests.benchmarks.progressive [--quick] [--json FILE] [--seeds N] [--model NAME] [--rate R]

Every rating of ml-100k in time order becomes an organic example, with the user features as of just before; each learner
predicts a batch before any learns it.
"""

import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import get_args

import msgspec
import numpy as np

from online_learning.baselines import Baselines, Lesson
from online_learning.batches import Batcher
from online_learning.learner import OnlineLearner
from online_learning.models.fields import FieldEncoder
from online_learning.settings import LearningSettings, ModelName
from online_learning.table.version import pack_version
from online_learning.watching.progressive import auc, logit_bins
from streams.datasets.dataset import Dataset
from streams.records import SCHEMA_VERSION, Example, Label, LabelState, UsedFeatures
from streams.settings import TaskSettings
from tests.benchmarks.ratings import BATCH, Figures, options, over_seeds

TASKS = (TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="rating"))


def organic_examples(dataset: Dataset, limit: int) -> Iterator[Example]:
    """The dataset's ratings as the join would make them: user features as of before the rating."""
    count: dict[str, int] = defaultdict(int)
    total: dict[str, float] = defaultdict(float)
    last: dict[str, int] = {}
    decayed: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    recent: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=20))
    for number, event in enumerate(dataset.events(0)):
        if number >= limit:
            return
        user, value = event.user, event.value or 0.0
        age_h = (event.ts - last.get(user, event.ts)) / 3_600_000
        hour, day = (c * 2.0 ** (-age_h / h) for c, h in zip(decayed[user], (1, 24), strict=True))
        values = {
            "impressions_1h": 0.0,
            "actions_1h": hour,
            "impressions_1d": 0.0,
            "actions_1d": day,
            "rating_mean": total[user] / count[user] if count[user] else None,
            "rating_count": float(count[user]),
            "last_action_ts": last.get(user),
            "recent_items": list(recent[user]),
        }
        yield Example(
            v=SCHEMA_VERSION,
            example_id=event.event_id or "",
            revision=0,
            ts=event.ts,
            user=user,
            item=event.item,
            labels={"rating": Label(LabelState.OBSERVED, float(value >= 4))},
            user_features=UsedFeatures("user_stats", 1, event.ts, values) if count[user] else None,
            scene=event.scene,
            organic=True,
        )
        decayed[user] = [hour + 1, day + 1]
        count[user] += 1
        total[user] += value
        last[user] = event.ts
        recent[user].appendleft(event.item)


class Catalogue:
    """The dataset's users and items."""

    def __init__(self, dataset: Dataset) -> None:
        self.items = {item.item: item for item in dataset.items()}
        self._users = {user.user: user.attributes for user in dataset.users()}

    def user_attributes(self, user: str) -> dict[str, object] | None:
        return self._users.get(user)


def measure(
    dataset: Dataset, settings: LearningSettings, batch_size: int, limit: int, river: bool = True
) -> dict[str, dict[str, float]]:
    """Per learner: AUC and log loss over all and over the second half, microseconds of CPU per example."""
    catalogue = Catalogue(dataset)
    batcher = Batcher(FieldEncoder(settings.model, catalogue.items.get), catalogue)
    online = OnlineLearner(settings)
    others = Baselines(len(settings.tasks)).all if river else ()
    names = [online.name, *(other.name for other in others)]
    said: dict[str, list[np.ndarray]] = {name: [] for name in names}
    spent = dict.fromkeys([*names, "batches"], 0.0)
    truth: list[np.ndarray] = []
    examples = list(organic_examples(dataset, limit))
    step = 0
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        began = time.process_time()
        batch = batcher.of_examples(chunk)
        labels = np.full((len(chunk), 2), np.nan, dtype=np.float32)
        labels[:, 1] = [example.labels["rating"].value for example in chunk]
        weights = np.ones_like(labels)
        spent["batches"] += time.process_time() - began
        truth.append(labels[:, 1])
        for name, learner in zip(names, (online, *others), strict=True):
            began = time.process_time()
            said[name].append(learner.predict(batch)[:, 1])
            if isinstance(learner, OnlineLearner):
                step += 1
                learner.learn(batch, labels, weights, chunk[-1].ts, pack_version(1, step))
            else:
                learner.learn(Lesson(batch, labels, weights))
            spent[name] += time.process_time() - began
    y = np.concatenate(truth)
    out = {}
    for name in names:
        p = np.concatenate(said[name])
        half = len(p) // 2
        out[name] = {
            "auc": _auc(p, y),
            "auc_second_half": _auc(p[half:], y[half:]),
            "log_loss_second_half": _log_loss(p[half:], y[half:]),
            "cpu_us_per_example": spent[name] / len(p) * 1e6,
        }
    out["batches"] = {"cpu_us_per_example": spent["batches"] / len(y) * 1e6}
    return out


def _auc(p: np.ndarray, y: np.ndarray) -> float:
    bins = logit_bins(p)
    return auc(np.bincount(bins[y > 0.5], minlength=128), np.bincount(bins[y < 0.5], minlength=128))


def _log_loss(p: np.ndarray, y: np.ndarray) -> float:
    p = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def main() -> int:
    """Run it."""
    base = LearningSettings(tasks=TASKS)
    chosen = options(
        __doc__,
        {
            "model": f"of {', '.join(get_args(ModelName))}; {base.model.name}",
            "rate": f"learning rate of the rows, {base.sparse_learning_rate}",
        },
    )
    text = {
        "model": {"name": chosen.extra.get("model", base.model.name)},
        "sparse_learning_rate": float(chosen.extra.get("rate", base.sparse_learning_rate)),
    }
    base = msgspec.structs.replace(msgspec.convert(text, LearningSettings), tasks=TASKS)

    def of_seed(dataset: Dataset, rows: int, seed: int) -> Figures:
        settings = msgspec.structs.replace(base, trainer=msgspec.structs.replace(base.trainer, seed=seed))
        return measure(dataset, settings, BATCH, rows)

    return over_seeds(chosen, of_seed, f"{base.model.name}, rows learn at {base.sparse_learning_rate}")


if __name__ == "__main__":
    sys.exit(main())
