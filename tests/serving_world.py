"""A mirror as the replica writes it, with items, statistics, rows and dense parameters that a test can reason about."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.retriever import dense_shapes, new_retriever
from online_learning.models.values import VALUES
from serving.replica.experiments import Experiments
from serving.replica.item_vectors import ItemVectors
from serving.replica.items import Items
from serving.settings import ServingSettings
from serving.shared.dense_bundle import DenseReader, DenseWriter
from serving.shared.head import HeadWriter, Lineage
from serving.shared.shared_table import SharedTableWriter
from streams.records import Experiment, FeatureRow, Item

TTL_MS = 90 * 24 * 3_600_000


class World:
    """The replica's writers over one folder. Everything is drawn from `seed`."""

    def __init__(self, folder: Path, settings: ServingSettings, seed: int = 0, incarnation: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.model = settings.learning.model
        self._rng = np.random.default_rng(seed)
        self._head = HeadWriter(folder)
        self._items = Items(self._head, self.model, TTL_MS, incarnation)
        self._table = SharedTableWriter(self._head, self.model.dim + 1)
        self.retriever = new_retriever(settings.learning)
        self._vectors = ItemVectors(self._head, self._items, self.retriever, incarnation)
        self._dense = DenseReader(folder)
        self._experiments = Experiments(self._head)
        self._encoder = FieldEncoder(self.model)
        self._published_s = 0.0

    def put_items(self, items: Sequence[Item]) -> None:
        """Adds items with a row for each of their keys."""
        for item in items:
            self._items.put(item.item, item)
        self._learn(self._encoder.encode_items(items))

    def put_user(self, user: str) -> None:
        """Gives a user rows."""
        self._learn(self._encoder.encode_user(user, None, []))

    def put_stats(self, item: str, arm: str, impressions: float, positives: float, at: int) -> None:
        """Counts of an item in an arm, decayed with a half-life of a day."""
        values = {"impressions_1d": impressions, "positives_1d": positives, "at": at}
        row = FeatureRow(1, "item_stats", {"item": item, "arm": arm}, values, version=1, ts=at, available_at=at)
        self._items.put_stats(item, arm, row)

    def put_experiments(self, *experiments: Experiment) -> None:
        """Defines experiments."""
        for experiment in experiments:
            self._experiments.put(experiment.name, experiment)

    def put_dense(self, version: int = 1, tasks: int | None = None, values: tuple[float, float] | None = None) -> None:
        """Publishes random dense parameters; with another number of `tasks`, those of another model. `values`: location
        and deviation of all value tasks."""
        learning = self.settings.learning
        shapes = dense_shapes(learning if tasks is None else replace(learning, tasks=learning.tasks[:tasks]))
        parameters = {name: self._rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
        if values is not None:
            parameters[VALUES][:] = values
        DenseWriter(self._head).swap(version, 1, {"sparse": 1}, parameters)

    def publish(self, sequence: int = 1, learned: Mapping[int, int] | None = None) -> None:
        """Makes everything put so far what readers see; each time at a later moment."""
        self._published_s += 1_000.0
        self._items.flush_stats()
        self._vectors.add_new()
        if self.retriever.layered:
            self._vectors.take(self._dense.current().parameters)
        self._items.flush_catalogue(self._published_s)
        self._table.publish()
        self._vectors.touch_all()
        while self._vectors.flush(self._table, self._published_s):
            pass
        self._experiments.flush()
        self._head.write_lineage(Lineage(1, sequence, dict(learned or {}), 1, 1))

    def _learn(self, side: Side) -> None:
        own = self.retriever.side(side)
        for one in (side,) if own is side else (side, own):
            keys, first = np.unique(one.keys, return_index=True)
            rows = self._rng.normal(0, 0.3, (len(keys), self.model.dim + 1)).astype(np.float32)
            self._table.apply(keys, one.spaces[first], rows)


def items(count: int, scenes: Sequence[str] = ("",)) -> list[Item]:
    """Items i0, i1, ... with a category each, dealt to the scenes in turn."""
    return [
        Item(item=f"i{k}", scene=scenes[k % len(scenes)], attributes={"category": f"c{k % 5}"}) for k in range(count)
    ]
