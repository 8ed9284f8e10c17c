"""The two towers: what torch learns and numpy serves, the loss by its definition, and rows that are nobody else's."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from online_learning.models.fields import FieldEncoder
from online_learning.models.networks.two_tower import TwoTower, sampled_softmax
from online_learning.models.parameters import ShapeMismatch
from online_learning.models.retriever import dense_shapes, new_retriever, of_ranking, of_retrieval, together
from online_learning.models.scorers.two_tower import TwoTowerScorer, tower_keys, tower_shapes, tower_side
from online_learning.sampling.candidates import Candidates
from online_learning.settings import LearningSettings, ModelSettings, RetrievalSettings
from streams.records import Item


def settings(**retrieval: object) -> LearningSettings:
    told = msgspec.convert({"name": "two_tower", **retrieval}, RetrievalSettings)
    return LearningSettings(model=ModelSettings(dim=6), retrieval=told)


ENCODER = FieldEncoder(ModelSettings(dim=6))
USERS, ITEMS = len(ENCODER.user_fields), len(ENCODER.item_fields)


def rows(fields: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, (count, fields, 7)).astype(np.float32)


@hypothesis(max_examples=20)
@given(
    hidden=st.lists(st.integers(1, 20), max_size=2).map(tuple),
    normalize=st.booleans(),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 1000),
)
def test_numpy_vectors_equal_torchs_and_their_product_is_the_score(
    hidden: tuple[int, ...], normalize: bool, temperature: float, seed: int
):
    told = settings(hidden=hidden, normalize=normalize, temperature=temperature)
    network, random = TwoTower(told), np.random.default_rng(seed)
    parameters = {name: random.normal(0, 0.3, s).astype(np.float32) for name, s in tower_shapes(told).items()}
    assert network.named().keys() == parameters.keys()
    with torch.no_grad():
        for name, value in network.named().items():
            value.copy_(torch.from_numpy(parameters[name]))
        users, items = rows(USERS, 3, seed), rows(ITEMS, 9, seed + 1)
        wanted_users = network.users(torch.from_numpy(users)).numpy()
        wanted_items = network.items(torch.from_numpy(items)).numpy()
    scorer = TwoTowerScorer(told)
    scorer.load(parameters)
    scale = 1.0 / temperature
    for k in range(3):
        np.testing.assert_allclose(scorer.query(users[k : k + 1]), wanted_users[k], atol=1e-5 * max(1.0, scale))
    np.testing.assert_allclose(scorer.item_vectors(items), wanted_items, atol=1e-5)


def test_without_layers_a_new_network_adds_nothing_and_with_them_neither():
    plain, layered = TwoTower(settings()), TwoTower(settings(hidden=(8,)))
    items = torch.from_numpy(rows(ITEMS, 5, 0))
    with torch.no_grad():
        assert torch.equal(plain.items(items)[:, 1:], items[:, :, 1:].sum(dim=1))
        assert torch.equal(layered.items(items), plain.items(items))


def test_over_many_draws_the_loss_is_that_over_all_items():
    """With everything drawn as often as expected, each positive's sum is the one over the whole catalogue."""
    scores = np.random.default_rng(0).normal(size=4).astype(np.float32)
    counts = np.array([800, 600, 400, 200])
    q = counts / counts.sum()
    names = ["i0", *np.repeat(["i0", "i1", "i2", "i3"], counts).tolist()]
    number = np.array([int(name[1]) for name in names])
    side = ENCODER.encode_items(names)
    candidates = Candidates.of(side, names, ["u"], np.log(q)[number].astype(np.float32))
    found = sampled_softmax(torch.from_numpy(scores[number][None, :]), torch.from_numpy(candidates.log_expected))
    assert found.item() == pytest.approx(np.log(np.exp(scores).sum()) - scores[0], abs=1e-5)


def test_a_positives_own_item_and_what_its_user_took_beside_it_are_no_negatives():
    side = ENCODER.encode_items(["a", "b", "c", "a", "d"])
    log_q = np.log(np.array([0.4, 0.1, 0.2, 0.4, 0.3], np.float32))
    found = Candidates.of(side, ["a", "b", "c", "a", "d"], ["u", "v", "u"], log_q)
    inf = np.inf
    # The draws for u are those of v and of the stream; the second a is one, though it tells nothing of the first.
    expected = [[1, 3 * 0.1, inf, inf, 3 * 0.3], [4 * 0.4, 1, 4 * 0.2, 4 * 0.4, 4 * 0.3], [inf, 3 * 0.1, 1, 1.2, 0.9]]
    np.testing.assert_allclose(np.exp(found.log_expected), expected, rtol=1e-6)


def test_the_towers_rows_are_not_the_ranking_models():
    side = ENCODER.encode_items([Item(item=f"i{k}", attributes={"genres": ["g"]}) for k in range(50)])
    towers = tower_side(side)
    assert not set(towers.keys.tolist()) & set(side.keys.tolist())
    assert len(np.unique(towers.keys)) == len(np.unique(side.keys))
    assert not set(towers.spaces.tolist()) & set(side.spaces.tolist())
    assert towers.offsets is side.offsets
    # The one key that would become the reserved one.
    only = tower_keys(np.zeros(1, np.uint64))
    assert tower_keys(only).tolist() == [1]


def test_a_models_parameters_travel_together_and_part_again():
    told = settings(hidden=(3,))
    shapes = dense_shapes(told)
    everything = {name: np.full(shape, n, np.float32) for n, (name, shape) in enumerate(shapes.items())}
    towers = of_retrieval(everything)
    assert towers.keys() == tower_shapes(told).keys()
    again = together(of_ranking(everything), towers)
    assert again.keys() == everything.keys()
    new_retriever(told).load(everything)
    with pytest.raises(ShapeMismatch):
        new_retriever(settings(hidden=(4,))).load(everything)
    with pytest.raises(ShapeMismatch):
        new_retriever(settings()).load(everything)


def test_an_unknown_retrieval_is_refused_and_so_is_an_option_that_would_do_nothing():
    with pytest.raises(msgspec.ValidationError, match="three_tower"):
        msgspec.convert({"name": "three_tower"}, RetrievalSettings)
    with pytest.raises(msgspec.ValidationError, match="negatives"):
        msgspec.convert({"negatives": 7}, RetrievalSettings)
    with pytest.raises(msgspec.ValidationError, match="hidden"):
        msgspec.convert({"name": "ranking", "hidden": [8]}, RetrievalSettings)
