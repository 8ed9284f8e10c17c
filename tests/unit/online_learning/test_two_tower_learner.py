"""The towers learn from positives alone: who takes what, and how often an item is taken at all."""

import msgspec
import numpy as np
import pytest

from online_learning.learners import Learners
from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.retriever import new_retriever, of_retrieval
from online_learning.models.scorers.two_tower import tower_side
from online_learning.reporting import health_values, metrics
from online_learning.sampling.candidates import Candidates
from online_learning.sampling.item_stream import ItemStream
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings, RetrievalSettings
from online_learning.state import TrainerState
from online_learning.table.table import Table
from online_learning.table.version import pack_version
from online_learning.two_tower_learner import TwoTowerLearner
from streams.records import Item
from tests.unit.online_learning import test_learners as world

FIELDS = (FieldSettings(name="user", side="user", source="id"), FieldSettings(name="item", side="item", source="id"))
TWO_TOWER = RetrievalSettings(name="two_tower")
LAYERED = RetrievalSettings(name="two_tower", hidden=(8,))


def with_towers(retrieval: RetrievalSettings = TWO_TOWER) -> LearningSettings:
    return msgspec.structs.replace(world.SETTINGS, retrieval=retrieval)


def test_with_lnq_taken_off_what_is_learned_is_how_often_an_item_is_taken():
    """All users alike: the best score is ln p up to a constant. Without the correction it would be flat."""
    settings = LearningSettings(model=ModelSettings(dim=4, fields=FIELDS), retrieval=TWO_TOWER)
    learner, encoder = TwoTowerLearner(settings), FieldEncoder(settings.model)
    table = Table(table_settings(settings), 0)
    random, stream = np.random.default_rng(0), ItemStream(2_000, seed=0)
    share = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    for step in range(1, 400):
        names = [f"i{k}" for k in random.choice(5, 16, p=share)]
        stream.add(names)
        drawn = stream.draw(64)
        users = Side.of([encoder.user_bags("u", None, [], "", None)] * 16, encoder.user_spaces)
        both = names + drawn
        told = Candidates.of(
            encoder.encode_items(both), both, [str(k) for k in range(16)], stream.log_probabilities(both)
        )
        learner.learn(table, users, told, step, pack_version(1, step))
    vectors, query = vectors_and_query(settings, table, {}, [f"i{k}" for k in range(5)], "u")
    scores = vectors @ query
    np.testing.assert_allclose(scores - scores[0], np.log(share / share[0]), atol=0.35)


def table_settings(settings: LearningSettings):
    from online_learning.learner import table_settings as of

    return of(settings)


def vectors_and_query(
    settings: LearningSettings, table: Table, parameters: dict[str, np.ndarray], items: list[str | Item], user: str
) -> tuple[np.ndarray, np.ndarray]:
    """As serving makes them, from a trainer's table."""
    encoder, retriever = FieldEncoder(settings.model), new_retriever(settings)
    retriever.load(parameters)

    def pooled(side: Side) -> np.ndarray:
        own = retriever.side(side)
        return table.gather_pooled(table.find(own.keys), own.offsets, "mean").reshape(own.rows, own.fields, -1)

    query = retriever.query(pooled(encoder.encode_user(user, None, [])), 0)
    return retriever.item_vectors(pooled(encoder.encode_items(items))), query


@pytest.mark.parametrize("retrieval", [TWO_TOWER, LAYERED], ids=["sums", "layers"])
def test_learners_teach_the_towers_who_clicks_what(retrieval: RetrievalSettings):
    """User u likes the items of category c(u mod 3), among impressions that say so by their clicks."""
    settings = with_towers(retrieval)
    these, random = world.learners(settings), np.random.default_rng(0)
    for number in range(250):
        clicks = [float(random.random() < (0.6 if (number + k) % 20 % 3 == number % 5 % 3 else 0.05)) for k in range(8)]
        these.learn([world.example(number, k, y) for k, y in enumerate(clicks)], number, pack_version(1, number + 1))
    items: list[str | Item] = [Item(item=f"i{k}", attributes={"category": f"c{k % 3}"}) for k in range(20)]
    # One that nobody has seen: its category tells what it is like.
    items.append(Item(item="fresh", attributes={"category": "c1"}))
    for user in range(5):
        vectors, query = vectors_and_query(
            settings, these.online.table, dict(these.online.dense_parameters()), items, f"u{user}"
        )
        scores = vectors @ query
        liked = np.array([k % 3 == user % 3 for k in range(20)])
        assert (scores[:20][liked][:, None] > scores[:20][~liked]).mean() > 0.9
        between = (scores[:20][liked].mean() + scores[:20][~liked].mean()) / 2
        assert (scores[20] > between) == (user % 3 == 1)
    assert these.online.towers is not None
    assert these.online.towers.loss < np.log(64)


@pytest.mark.parametrize("retrieval", [TWO_TOWER, LAYERED], ids=["sums", "layers"])
def test_restored_towers_go_on_bit_for_bit(retrieval: RetrievalSettings):
    settings = with_towers(retrieval)
    whole, first, second = (world.learners(settings) for _ in range(3))
    before, after = world.traffic(1, 60), world.traffic(60, 120)
    world.run(whole, before + after, 1)
    world.run(first, before, 1)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=TrainerState)
    online = first.online
    second.online.restore(online.table.snapshot(), online.dense_parameters(), kept.optimizer, kept.towers)
    second.restore(kept, first.counters)
    world.run(second, after, 60)
    assert second.online.table.digest() == whole.online.table.digest()
    for name, value in whole.online.dense_parameters().items():
        np.testing.assert_array_equal(second.online.dense_parameters()[name], value)
    assert bool(of_retrieval(whole.online.dense_parameters())) == bool(retrieval.hidden)


def test_the_ranking_model_learns_the_same_beside_towers_as_without():
    alone, beside = world.learners(), world.learners(with_towers())
    for these in (alone, beside):
        world.run(these, world.traffic(1, 30), 1)
    assert beside.progressive.figures() == alone.progressive.figures()
    assert len(beside.online.table) > len(alone.online.table)


def test_an_erased_users_tower_row_goes_too():
    these: Learners = world.learners(with_towers())
    world.learn(these, world.example(0, 0, 1.0))
    key = tower_side(FieldEncoder(world.SETTINGS.model).encode_user("u0", None, [])).keys[:1]
    assert these.online.table.find(key)[0] >= 0
    these.forget_user("u0", pack_version(1, 2))
    assert these.online.table.find(key)[0] == -1


def test_a_batch_whose_loss_is_not_finite_moves_nothing():
    settings = LearningSettings(model=ModelSettings(dim=4, fields=FIELDS), retrieval=LAYERED)
    learner, encoder = TwoTowerLearner(settings), FieldEncoder(settings.model)
    table = Table(table_settings(settings), 0)
    users = Side.of([encoder.user_bags("u", None, [], "", None)], encoder.user_spaces)

    def told(log_q: float) -> Candidates:
        return Candidates.of(encoder.encode_items(["a", "b"]), ["a", "b"], ["u"], np.array([0, log_q], np.float32))

    learner.learn(table, users, told(0.0), 1, pack_version(1, 1))
    digest, state = table.digest(), learner.optimizer_state()
    assert np.isnan(learner.learn(table, users, told(-np.inf), 2, pack_version(1, 2)))
    assert table.digest() == digest
    assert learner.optimizer_state() == state
    assert learner.refused == 1
    assert learner.loss == pytest.approx(np.log(2), abs=0.1)


def test_what_the_towers_lose_is_said_where_there_are_towers():
    these, plain = world.learners(with_towers()), world.learners()
    assert "retrieval_loss" not in health_values(these, with_towers(), 0)
    for one in (these, plain):
        world.learn(one, world.example(0, 0, 1.0), world.example(1, 2, 1.0))
    assert health_values(these, with_towers(), 0)["retrieval_loss"] > 0
    assert health_values(these, with_towers(), 0)["retrieval_refused"] == 0
    assert "retrieval_loss" not in health_values(plain, world.SETTINGS, 0)
    told = {(metric.name, metric.labels.get("part", "")) for metric in metrics(these, with_towers(), 0)}
    assert {("retrieval_loss", ""), ("learning_rate", "towers")} <= told
