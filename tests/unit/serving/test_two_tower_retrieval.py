"""Two-tower retrieval in serving: the replica's item vectors, the request's query, and what comes first."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.retriever import new_retriever
from online_learning.settings import LearningSettings, ModelSettings, RetrievalSettings
from serving.pipeline.model import OnlineModel
from serving.pipeline.pipeline import Pipeline
from serving.pipeline.request import KnownContext, Request
from serving.pipeline.warm_up import warm_up
from serving.settings import PipelineSettings, ServingSettings
from serving.shared.mirror import Mirror
from streams.records import Item
from streams.settings import StreamsSettings
from tests.serving_world import World, items

NOW = 1_700_000_000_000
REQUEST = Request(request_id="r", ts=NOW, user="u1", n=5, context=KnownContext())

pytestmark = pytest.mark.parametrize(
    "retrieval",
    [
        RetrievalSettings(name="two_tower"),
        RetrievalSettings(name="two_tower", hidden=(12,), normalize=True, temperature=0.2),
    ],
    ids=["sums", "layers"],
)


def settings(retrieval: RetrievalSettings, retrieve: int = 3) -> ServingSettings:
    learning = LearningSettings(tasks=StreamsSettings().tasks, model=ModelSettings(dim=4), retrieval=retrieval)
    return ServingSettings(learning=learning, pipeline=PipelineSettings(retrieve=retrieve, explore=0.0, explore_pool=1))


def world(folder: Path, told: ServingSettings) -> World:
    made = World(folder, told)
    made.put_items(items(60))
    made.put_user("u1")
    made.put_dense(version=1)
    made.publish()
    return made


def by_hand(told: ServingSettings, mirror: Mirror) -> np.ndarray:
    """The towers' scores of all items for u1, from rows and parameters as they are in the mirror."""
    encoder, retriever = FieldEncoder(told.learning.model, mirror.item), new_retriever(told.learning)
    retriever.load(mirror.dense().parameters)

    def pooled(side: Side) -> np.ndarray:
        own = retriever.side(side)
        rows, _ = mirror.table.lookup(own.keys)
        bags = [rows[a:b].mean(axis=0) if b > a else np.zeros(5) for a, b in pairs(own.offsets)]
        return np.array(bags, np.float32).reshape(own.rows, own.fields, 5)

    query = retriever.query(pooled(encoder.encode_user("u1", None, [])), 0)
    return retriever.item_vectors(pooled(encoder.encode_items(mirror.catalogue.ids))) @ query


def pairs(offsets: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def test_the_nearest_are_those_of_the_towers(tmp_path: Path, retrieval: RetrievalSettings) -> None:
    told = settings(retrieval)
    world(tmp_path, told)
    mirror = Mirror(tmp_path)
    best = np.argsort(-by_hand(told, mirror))[: REQUEST.n]
    answer = Pipeline(told, mirror, lambda _: None, np.random.default_rng(0)).answer(REQUEST)
    assert answer.versions.policy == "online"
    assert answer.impression is not None
    nearest = {slot.item for slot in answer.impression.items if slot.source == "nearest"}
    assert nearest <= {f"i{k}" for k in best}
    assert nearest
    model = OnlineModel(told.learning, mirror, 0)
    assert model.refresh() == ""
    scores = mirror.scores(model.query(model.user(REQUEST, None), 0))
    np.testing.assert_allclose(scores, by_hand(told, mirror), atol=1e-5)


def test_new_parameters_make_all_vectors_new_where_they_are_part_of_them(
    tmp_path: Path, retrieval: RetrievalSettings
) -> None:
    told = settings(retrieval)
    made, mirror = world(tmp_path, told), Mirror(tmp_path)
    before = mirror.vectors().copy()
    made.put_dense(version=2)
    made.publish()
    mirror.refresh()
    assert bool(np.any(mirror.vectors() != before)) == bool(retrieval.hidden)
    model = OnlineModel(told.learning, mirror, 0)
    model.refresh()
    scores = mirror.scores(model.query(model.user(REQUEST, None), 0))
    np.testing.assert_allclose(scores, by_hand(told, mirror), atol=1e-5)


def test_a_fresh_item_is_what_its_attributes_are(tmp_path: Path, retrieval: RetrievalSettings) -> None:
    """Its own row is not there yet; of its category others have taught."""
    told = settings(retrieval)
    made, mirror = world(tmp_path, told), Mirror(tmp_path)
    made._items.put("fresh", Item(item="fresh", attributes={"category": "c3"}))
    made.publish()
    mirror.refresh()
    assert mirror.catalogue.ids[-1] == "fresh"
    np.testing.assert_allclose(mirror.scores(query_of(told, mirror))[-1], by_hand(told, mirror)[-1], atol=1e-5)
    assert mirror.vectors()[-1].any()


def query_of(told: ServingSettings, mirror: Mirror) -> np.ndarray:
    model = OnlineModel(told.learning, mirror, 0)
    model.refresh()
    return model.query(model.user(REQUEST, None), 0)


def test_parameters_of_other_towers_are_not_used_and_the_answer_says_so(
    tmp_path: Path, retrieval: RetrievalSettings
) -> None:
    told = settings(retrieval)
    world(tmp_path, told)
    other = replace(retrieval, hidden=(9,))
    answering = replace(told, learning=replace(told.learning, retrieval=other))
    answer = Pipeline(answering, Mirror(tmp_path), lambda _: None, np.random.default_rng(0)).answer(REQUEST)
    assert answer.versions.policy == "popularity"
    assert "another model" in answer.versions.fallback


def test_what_answering_runs_can_be_warmed_up(tmp_path: Path, retrieval: RetrievalSettings) -> None:
    warm_up(settings(retrieval))
