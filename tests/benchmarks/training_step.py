"""Whole training steps: the online learner on its table against the same model on nn.Embedding with SparseAdam.

    python -m tests.benchmarks.training_step [--quick] [--json FILE] [--dim DIM] [--threads THREADS]

Both learn the same examples with the same DeepFM: the same torch module with the same first weights, rows from the same
first values, lazy Adam on the rows of the batch (torch.optim.SparseAdam does the same), Adam on the network at every
batch. Ours is `OnlineLearner.learn`: it takes 64-bit keys that it has to find, makes rows for unseen ones, notes
sightings and versions for the update log, and refuses gradients that are not finite; the online learner lets batches
smaller than 64 add up before the network's step, which a batch of this size never does. The peer takes row numbers of
embeddings that were sized beforehand, as one embedding a field (the usual way) and as one for all fields (quicker).
Both know all ids of the timed batches already after the warm-up, but for those that Zipf's law shows only now.
Everyone is timed with torch on one thread and on all, and has the better of both: a network this small can lose more by
sharing its operations out than it gains.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from online_learning.batches import Batch
from online_learning.learner import OnlineLearner, table_settings
from online_learning.models.dense_features import dense_names
from online_learning.models.fields import Side
from online_learning.models.ranking import masked_loss
from online_learning.models.registry import new_network
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings
from online_learning.table.settings import OptimizerKind, OptimizerSettings
from online_learning.table.table import Table
from streams.settings import TaskSettings
from tests.benchmarks.report import Report, parse

FIELDS, BATCH, ZIPF, SEED = 20, 1024, 1.05, 1
ROUNDS = 5
RATE = 0.01


def settings_of(dim: int) -> LearningSettings:
    """DeepFM of 20 single-valued fields, half of the user and half of the item, and one task."""
    sides = ["user"] * (FIELDS // 2) + ["item"] * (FIELDS - FIELDS // 2)
    fields = tuple(
        FieldSettings(name=f"field{number}", side=side, source="attribute", attribute=f"field{number}")  # type: ignore[arg-type]
        for number, side in enumerate(sides)
    )
    return LearningSettings(tasks=(TaskSettings(name="click"),), model=ModelSettings(dim=dim, fields=fields))


class Example(msgspec.Struct):
    """One batch: ids i64 [B, F] in [0, rows a field), keys u64 [B, F], dense f32 [B, D], labels f32 [B, 1]."""

    ids: NDArray[np.int64]
    keys: NDArray[np.uint64]
    dense: NDArray[np.float32]
    labels: NDArray[np.float32]


def make_batches(count: int, rows: int, keys: NDArray[np.uint64], dense: int) -> list[Example]:
    """Batches of Zipf-distributed ids; `keys` u64 [F, rows] are their keys."""
    rng = np.random.default_rng(SEED)
    chances = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF)
    made = []
    for _ in range(count):
        ids = np.searchsorted(chances / chances[-1], rng.random((BATCH, FIELDS)))
        labels = (rng.random((BATCH, 1)) < 0.3).astype(np.float32)
        values = rng.normal(size=(BATCH, dense)).astype(np.float32)
        made.append(Example(ids, keys[np.arange(FIELDS), ids], values, labels))
    return made


class Ours:
    """The online learner, its rows under lazy Adam."""

    def __init__(self, settings: LearningSettings, threads: int) -> None:
        self.learner = OnlineLearner(settings)
        adam = OptimizerSettings(kind=OptimizerKind.LAZY_ADAM, learning_rate=RATE, epsilon=1e-8)
        rule = msgspec.structs.replace(table_settings(settings), optimizer=adam, threads=threads)
        self.learner.table = Table(rule, settings.trainer.seed)
        self._spaces = np.tile(np.arange(1, FIELDS + 1, dtype=np.uint16), BATCH)
        self._offsets = np.arange(BATCH * FIELDS + 1)
        self._items = ["item"] * BATCH
        self._weights = np.ones((BATCH, 1), np.float32)
        self._version = 1

    def batch(self, example: Example) -> Batch:
        """The example as the learner takes it."""
        side = Side(example.keys.reshape(-1), self._spaces, self._offsets, BATCH, FIELDS)
        return Batch(side, example.dense, self._items)

    def step(self, example: Example) -> None:
        """One training step."""
        self._version += 1
        self.learner.learn(self.batch(example), example.labels, self._weights, 0, self._version)


class Peer:
    """nn.Embedding(sparse=True) of `rows` a field under SparseAdam, the network under Adam.

    `merged`: one embedding for all fields. `first` f32 [F, rows, W]: its first rows.
    """

    def __init__(self, settings: LearningSettings, first: NDArray[np.float32], merged: bool) -> None:
        fields, rows, width = first.shape
        tables = first.reshape(1, fields * rows, width) if merged else first
        self._embeddings = [
            nn.Embedding(len(table), width, sparse=True, _weight=torch.tensor(table)) for table in tables
        ]
        self._offsets = torch.arange(fields) * (rows if merged else 0)
        self._merged = merged
        dense = len(dense_names(settings.model))
        self.model = new_network(settings.model, 1, fields, dense, settings.trainer.seed)
        self._sparse = torch.optim.SparseAdam([one.weight for one in self._embeddings], lr=RATE, eps=1e-8)
        self._dense = torch.optim.Adam(self.model.parameters(), settings.model.dense_learning_rate, foreach=True)
        self._weights = torch.ones(BATCH, 1)

    def rows(self, example: Example) -> torch.Tensor:
        """Rows f32 [B, F, W] of a batch."""
        ids = torch.from_numpy(example.ids)
        if self._merged:
            embedded: torch.Tensor = self._embeddings[0](ids + self._offsets)
            return embedded
        return torch.stack([one(ids[:, field]) for field, one in enumerate(self._embeddings)], dim=1)

    def step(self, example: Example) -> None:
        """One training step."""
        self._sparse.zero_grad()
        self._dense.zero_grad()
        logits = self.model(self.rows(example), torch.from_numpy(example.dense))
        loss = masked_loss(logits, torch.from_numpy(example.labels), self._weights)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            parameter.grad /= BATCH
        self._sparse.step()
        self._dense.step()

    def predict(self, example: Example) -> NDArray[np.float32]:
        """Probabilities f32 [B, 1]."""
        with torch.no_grad():
            return torch.sigmoid(self.model(self.rows(example), torch.from_numpy(example.dense))).numpy()


def examples_per_s(step: Callable[[Any], None], examples: list[Example]) -> float:
    """Examples per second over some batches."""
    start = time.perf_counter()
    for example in examples:
        step(example)
    return len(examples) * BATCH / (time.perf_counter() - start)


def main() -> int:
    """Run all of it; 1 where a bar was missed."""
    options = parse(__doc__ or "", extra={"dim": "factors a row (16)", "threads": "threads of both at most (2)"})
    dim, threads = int(options.extra.get("dim", 16)), int(options.extra.get("threads", 2))
    rows, warm_ups, timed = (2_000, 3, 5) if options.quick else (100_000, 100, 30)
    counts = sorted({1, threads})
    torch.set_num_threads(threads)
    settings = settings_of(dim)
    report = Report(
        "whole training step",
        options,
        packages=("numpy", "numba", "torch"),
        sizes={
            "fields": FIELDS,
            "batch": BATCH,
            "rows": FIELDS * rows,
            "dim": dim,
            "hidden": settings.model.hidden,
            "threads": threads,
        },
        seeds=(SEED,),
    )
    keys = np.random.default_rng(SEED).integers(1, 2**64, (FIELDS, rows), dtype=np.uint64)
    batches = make_batches(warm_ups + ROUNDS * len(counts) * timed, rows, keys, len(dense_names(settings.model)))
    ours = Ours(settings, threads)
    first = first_rows(settings, keys)
    peers = {
        "an nn.Embedding(sparse=True) a field": Peer(settings, first, merged=False),
        "one nn.Embedding(sparse=True)": Peer(settings, first, merged=True),
    }
    first_network = ours.learner.model.state_dict()
    for peer in peers.values():
        peer.model.load_state_dict(first_network)
    steps: dict[str, Callable[[Any], None]] = {"ours": ours.step}
    steps |= {name: peer.step for name, peer in peers.items()}

    rates: dict[tuple[str, int], list[float]] = {(name, count): [] for name in steps for count in counts}
    for step in steps.values():
        examples_per_s(step, batches[:warm_ups])
    # They take turns, so that a disturbance of the machine meets all of them.
    for number in range(ROUNDS * len(counts)):
        count, part = counts[number % len(counts)], batches[warm_ups + number * timed :][:timed]
        torch.set_num_threads(count)
        for name, step in steps.items():
            rates[name, count].append(examples_per_s(step, part))
    on = {name: max(counts, key=lambda count: float(np.median(rates[name, count]))) for name in steps}
    best = {name: float(np.median(rates[name, count])) for name, count in on.items()}

    last = batches[-1]
    said = ours.learner.predict(ours.batch(last))
    report.add("examples learned, online learner", best["ours"], "per s", note=f"torch on {on['ours']} threads")
    for name, peer in peers.items():
        label = f"examples learned, {name} + SparseAdam"
        report.add(label, best[name], "per s", note=f"torch on {on[name]} threads")
        report.add(f"  online learner over {name}", best["ours"] / best[name], "x", at_least=1.5)
        apart = float(np.abs(said - peer.predict(last)).max())
        report.add("  largest difference of predictions after all steps", apart, "", at_most=0.01)
    return report.finish()


def first_rows(settings: LearningSettings, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The rows f32 [F, rows, W] that a new table gives these keys."""
    table = Table(table_settings(settings), settings.trainer.seed)
    flat = keys.reshape(-1)
    slots = table.find_or_insert(flat, np.zeros(len(flat), np.uint16), 0, 1)
    return table.gather(slots).copy().reshape(*keys.shape, table.dim)


if __name__ == "__main__":
    sys.exit(main())
