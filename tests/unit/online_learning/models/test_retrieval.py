"""Retrieval: one dot product keeps exactly those parts of each model that it promises."""

import numpy as np
import pytest

from online_learning.models.parameters import Parameters
from online_learning.models.registry import new_network, new_scorer
from online_learning.models.scorer import Scorer
from online_learning.settings import ModelSettings
from tests.unit.online_learning.models.test_ranking import (
    DENSE,
    FIELDS,
    TASKS,
    USERS,
    model_with_random_parameters,
    random_batch,
)

KEPT = {
    "deepfm": ("scale",),
    "logistic_regression": ("scale",),
    "dcn_v2": ("scale", "cross.0.weight", "cross.0.bias", "cross.1.weight", "cross.1.bias", "cross_out"),
}


def scorer_and_rows(settings: ModelSettings, size: float = 1.0) -> tuple[Scorer, Parameters, np.ndarray]:
    """A scorer without bias, dense part and network, and 30 rows of one user."""
    whole = model_with_random_parameters(settings).to_numpy()
    kept = {name: value if name in KEPT[settings.name] else np.zeros_like(value) for name, value in whole.items()}
    scorer = new_scorer(settings, TASKS)
    scorer.load(kept)
    rows = size * random_batch(settings, 30)[0]
    rows[:, :USERS] = rows[:1, :USERS]
    return scorer, kept, rows


def found_and_wanted(scorer: Scorer, rows: np.ndarray, task: int) -> tuple[np.ndarray, np.ndarray]:
    """Dot products, and logits less what the user alone adds."""
    items = scorer.item_vectors(rows[:, USERS:])
    nothing = rows[:1].copy()
    nothing[:, USERS:] = 0
    no_dense = np.zeros((30, DENSE), np.float32)
    logits = scorer.logits(rows, no_dense)[:, task] - scorer.logits(nothing, no_dense[:1])[0, task]
    return items @ scorer.query(rows[:1, :USERS], task), logits


@pytest.mark.parametrize("name", ["deepfm", "logistic_regression", "dcn_v2"])
def test_vectors_have_the_width_that_is_reserved_for_them(name):
    settings = ModelSettings(name=name)
    scorer, _, rows = scorer_and_rows(settings)
    width = scorer.retrieval_width(settings)
    assert scorer.item_vectors(rows[:, USERS:]).shape == (30, width)
    assert scorer.query(rows[:1, :USERS], 0).shape == (width,)
    assert scorer.item_vectors(rows[:, USERS:]).dtype == scorer.query(rows[:1, :USERS], 0).dtype == np.float32


@pytest.mark.parametrize("task", range(TASKS))
@pytest.mark.parametrize("name", ["deepfm", "logistic_regression"])
def test_the_dot_product_is_the_linear_and_pairwise_part(name, task: int):
    scorer, _, rows = scorer_and_rows(ModelSettings(name=name))
    found, wanted = found_and_wanted(scorer, rows, task)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("task", range(TASKS))
def test_one_cross_layer_is_kept_but_for_the_products_of_the_items_own_factors(task: int):
    settings = ModelSettings(name="dcn_v2", cross_layers=1)
    scorer, kept, rows = scorer_and_rows(settings)
    own = slice(USERS * settings.dim, FIELDS * settings.dim)
    kept["cross.0.weight"][own, own] = 0
    scorer.load(kept)
    found, wanted = found_and_wanted(scorer, rows, task)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("task", range(TASKS))
def test_of_deeper_cross_layers_all_products_of_a_users_and_an_items_factor_are_kept(task: int):
    """The mixed difference of a cubic leaves its mixed products of two, up to what shrinks faster with the rows."""
    scorer, _, rows = scorer_and_rows(ModelSettings(name="dcn_v2"), size=0.05)
    no_dense = np.zeros((30, DENSE), np.float32)
    rows[:, :, 0] = 0
    user, item, none = rows.copy(), rows.copy(), np.zeros_like(rows)
    user[:, USERS:] = 0
    item[:, :USERS] = 0
    whole, by_user, by_item, nothing = (scorer.logits(r, no_dense)[:, task] for r in (rows, user, item, none))
    vectors = scorer.item_vectors(rows[:, USERS:])
    products = vectors @ (scorer.query(user[:1, :USERS], task) - scorer.query(none[:1, :USERS], task))
    np.testing.assert_allclose(products, whole - by_user - by_item + nothing, atol=0.05 * abs(products).max())


def test_what_a_new_dcn_v2_retrieves_is_what_it_scores():
    """It begins as a factorization machine: the order is the scorer's but for pairs within the item."""
    ids = tuple(field for field in ModelSettings().fields if field.name in ("user", "item"))
    settings = ModelSettings(name="dcn_v2", fields=ids)
    scorer = new_scorer(settings, 1)
    dense = scorer.shapes["dense_linear"][1]
    scorer.load(new_network(settings, 1, 2, dense).to_numpy())
    rows = np.random.default_rng(0).normal(0, 0.3, (40, 2, settings.dim + 1)).astype(np.float32)
    rows[:, 0] = rows[0, 0]
    scores = scorer.logits(rows, np.zeros((40, dense), np.float32))[:, 0]
    found = scorer.item_vectors(rows[:, 1:]) @ scorer.query(rows[:1, :1], 0)
    assert np.argsort(found).tolist() == np.argsort(scores).tolist()
