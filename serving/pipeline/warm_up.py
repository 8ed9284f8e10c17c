"""Compiles what answering runs, on a mirror of one item: the first requests must not wait for a compiler."""

import tempfile
from pathlib import Path

import numpy as np

from features.online import UserRow
from online_learning.models.fields import FieldEncoder
from online_learning.models.retriever import dense_shapes, new_retriever
from serving.pipeline.pipeline import Pipeline
from serving.pipeline.request import parse
from serving.replica.item_vectors import ItemVectors
from serving.replica.items import Items
from serving.settings import ServingSettings
from serving.shared.dense_bundle import DenseWriter
from serving.shared.head import HeadWriter, Lineage
from serving.shared.mirror import Mirror
from serving.shared.shared_table import SharedTableWriter
from streams.records import FeatureRow, Item, UsedFeatures

_ITEM = Item(item="warm-up", attributes={"category": "warm-up"})


def warm_up(settings: ServingSettings) -> None:
    """Answers one request of the online model from a folder that is written as the replica writes it, then removed.

    With the compilers' cache it takes some tenths of a second, without it some tens of seconds.
    """
    with tempfile.TemporaryDirectory(prefix="freshet-warm-up-") as folder:
        _write(Path(folder), settings)
        row = UserRow(UsedFeatures("user_stats", 1, 1, {"recent_items": [_ITEM.item]}))
        pipeline = Pipeline(settings, Mirror(Path(folder)), lambda _: row, np.random.default_rng(0))
        answer = pipeline.answer(parse(b"warm-up", 1, b"", max_items=1, request_id="", ts=2))
        assert answer.items == [_ITEM.item], answer


def _write(folder: Path, settings: ServingSettings) -> None:
    model = settings.learning.model
    head, width, retriever = HeadWriter(folder), model.dim + 1, new_retriever(settings.learning)
    items = Items(head, model, ttl_ms=1_000, incarnation=1)
    table = SharedTableWriter(head, width)
    vectors = ItemVectors(head, items, retriever, incarnation=1)
    items.put(_ITEM.item, _ITEM)
    items.put_stats(_ITEM.item, "", FeatureRow(1, "item_stats", {}, {"at": 1}, version=1, ts=1, available_at=1))
    side = FieldEncoder(model).encode_items([_ITEM])
    for one in (side, retriever.side(side)):
        table.apply(one.keys, one.spaces, np.zeros((len(one.keys), width), np.float32))
    shapes = dense_shapes(settings.learning)
    DenseWriter(head).swap(1, 1, {}, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    items.flush_stats()
    vectors.add_new()
    items.flush_catalogue(0.0)
    table.publish()
    vectors.flush(table, 0.0)
    head.write_lineage(Lineage(1, 1, {0: 1}, 1, 1))
