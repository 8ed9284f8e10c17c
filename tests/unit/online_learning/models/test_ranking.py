"""The ranking models: what torch learns and numpy serves, each model alike."""

import subprocess
import sys
from typing import get_args

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from online_learning.models.dense_features import dense_names
from online_learning.models.fields import FieldEncoder
from online_learning.models.parameters import ShapeMismatch
from online_learning.models.ranking import RankingModel, gradients, masked_loss
from online_learning.models.registry import SCORERS, new_network, new_scorer
from online_learning.models.values import VALUES
from online_learning.settings import ModelName, ModelSettings

NAMES: tuple[ModelName, ...] = get_args(ModelName)
ENCODER = FieldEncoder(ModelSettings())
TASKS, FIELDS, DENSE = 2, ENCODER.fields, len(dense_names(ModelSettings()))
USERS = len(ENCODER.user_fields)

pytestmark = pytest.mark.parametrize("name", NAMES)


def model_with_random_parameters(settings: ModelSettings, seed: int = 1, tasks: int = TASKS) -> RankingModel:
    """Sizes as they are after learning: a matrix keeps the size of what it is given."""
    model = new_network(settings, tasks, FIELDS, DENSE)
    random = np.random.default_rng(seed)
    deviations = {name: 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.3 for name, shape in model.shapes.items()}
    model.from_numpy(
        {n: random.normal(0, deviations[n], shape).astype(np.float32) for n, shape in model.shapes.items()}
    )
    return model


def random_batch(settings: ModelSettings, rows: int, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    normal = random.normal(0, 0.3, (rows, FIELDS, settings.dim + 1)).astype(np.float32)
    return normal, random.normal(0, 1, (rows, DENSE)).astype(np.float32)


@hypothesis(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    dim=st.integers(1, 16),
    hidden=st.lists(st.integers(1, 40), max_size=3),
    crosses=st.integers(1, 3),
)
def test_numpy_scores_equal_torch_within_1e_6(name: ModelName, seed: int, dim: int, hidden: list[int], crosses: int):
    settings = ModelSettings(
        name=name, dim=dim, hidden=tuple(hidden), cross_layers=crosses if name == "dcn_v2" else None
    )
    model, (rows, dense) = model_with_random_parameters(settings, seed), random_batch(settings, 50, seed)
    scorer = new_scorer(settings, TASKS)
    scorer.load(model.to_numpy())
    with torch.no_grad():
        expected = torch.sigmoid(model(torch.from_numpy(rows), torch.from_numpy(dense))).numpy()
    np.testing.assert_allclose(scorer.score(rows, dense), expected, atol=1e-6)


def test_a_request_scores_as_its_rows_do(name: ModelName):
    settings = ModelSettings(name=name)
    scorer = new_scorer(settings, TASKS)
    scorer.load(model_with_random_parameters(settings).to_numpy())
    rows, dense = random_batch(settings, 50)
    rows[:, :USERS] = rows[:1, :USERS]
    np.testing.assert_array_equal(
        scorer.score_request(rows[:1, :USERS], rows[:, USERS:], dense), scorer.score(rows, dense)
    )


def test_a_missing_label_moves_nothing(name: ModelName):
    settings = ModelSettings(name=name)
    model, (rows, dense) = model_with_random_parameters(settings), random_batch(settings, 4)
    labels = np.array([[1, np.nan], [0, np.nan], [1, np.nan], [np.nan, np.nan]], dtype=np.float32)
    _, row_gradient = gradients(model, rows, dense, labels, np.ones((4, TASKS), np.float32))
    assert not row_gradient[3].any()
    assert row_gradient[:3].any(axis=(1, 2)).all()
    assert model.bias.grad is not None
    assert model.bias.grad[1] == 0 != model.bias.grad[0]


def test_gradients_by_rows_and_parameters_equal_finite_differences(name: ModelName):
    settings = ModelSettings(name=name, dim=3, hidden=(4,))
    model = new_network(settings, 1, 2, 2, seed=3).double()
    random = np.random.default_rng(4)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.from_numpy(random.normal(0, 0.5, tuple(value.shape))))
    rows = torch.from_numpy(random.normal(0, 0.5, (3, 2, 4))).requires_grad_(True)
    dense, labels = torch.from_numpy(random.normal(0, 1, (3, 2))), torch.tensor([[1.0], [0.0], [1.0]]).double()
    weights = torch.tensor([[1.0], [2.0], [0.5]]).double()
    everything = (rows, *model.parameters())
    assert torch.autograd.gradcheck(lambda r, *_: masked_loss(model(r, dense), labels, weights), everything)


@pytest.mark.parametrize("values", [(1,), (0, 1)])
def test_the_loss_of_values_is_hubers_and_its_gradient_is_bounded_by_one(name: ModelName, values: tuple[int, ...]):
    settings = ModelSettings(name=name, dim=3, hidden=(4,))
    random = np.random.default_rng(5)
    logits = torch.from_numpy(random.normal(0, 2, (40, TASKS))).requires_grad_(True)
    labels, weights = random.normal(0, 2, (40, TASKS)), random.uniform(0.5, 2, (40, TASKS))
    binary = [t for t in range(TASKS) if t not in values]
    labels[:, binary] = labels[:, binary] > 0
    labels[::7] = np.nan
    masked_loss(logits, torch.from_numpy(labels), torch.from_numpy(weights), values).backward()
    assert logits.grad is not None
    said, known = logits.detach().numpy(), ~np.isnan(labels)
    slopes = np.where(
        np.isin(np.arange(TASKS), values), np.clip(said - labels, -1, 1), 1 / (1 + np.exp(-said)) - labels
    )
    np.testing.assert_allclose(logits.grad.numpy(), np.where(known, slopes * weights, 0.0), atol=1e-12)
    # The same through every network, by finite differences.
    model = new_network(settings, TASKS, 2, 2, seed=3).double()
    rows = torch.from_numpy(random.normal(0, 0.5, (3, 2, 4))).requires_grad_(True)
    dense, told = torch.from_numpy(random.normal(0, 1, (3, 2))), torch.tensor([[1.0, 0.3], [0.0, -2.5], [1.0, 4.0]])
    everything = (rows, *model.parameters())
    ones = torch.ones(3, TASKS).double()
    assert torch.autograd.gradcheck(lambda r, *_: masked_loss(model(r, dense), told.double(), ones, values), everything)


def test_a_value_is_predicted_in_its_own_units_beside_a_probability(name: ModelName):
    settings = ModelSettings(name=name)
    model, (rows, dense) = model_with_random_parameters(settings), random_batch(settings, 50)
    binary, scorer = new_scorer(settings, TASKS), new_scorer(settings, TASKS, (1,))
    binary.load(model.to_numpy())
    scorer.load({**model.to_numpy(), VALUES: np.array([[3.0, 0.5]], np.float32)})
    said = scorer.score(rows, dense)
    np.testing.assert_array_equal(said[:, 0], binary.score(rows, dense)[:, 0])
    expected = np.expm1(np.maximum(3.0 + 0.5 * binary.logits(rows, dense)[:, 1], 0.0))
    np.testing.assert_allclose(said[:, 1], expected, rtol=1e-5)
    with pytest.raises(ShapeMismatch, match="`values` is missing"):
        scorer.load(model.to_numpy())


def test_a_new_model_says_its_bias_where_no_row_is_known(name: ModelName):
    settings = ModelSettings(name=name)
    model, (rows, dense) = new_network(settings, TASKS, FIELDS, DENSE), random_batch(settings, 5)
    with torch.no_grad():
        model.bias[0] = -2.0
        said = model(torch.zeros_like(torch.from_numpy(rows)), torch.from_numpy(dense)).numpy()
    assert said.tolist() == [[-2.0, 0.0]] * 5


def test_parameters_travel_by_name(name: ModelName):
    settings = ModelSettings(name=name)
    model, other = model_with_random_parameters(settings), new_network(settings, TASKS, FIELDS, DENSE)
    assert model.named().keys() == model.shapes.keys()
    assert {id(value) for value in model.parameters()} == {id(value) for value in model.named().values()}
    other.from_numpy(model.to_numpy())
    for parameter, value in model.to_numpy().items():
        np.testing.assert_array_equal(other.to_numpy()[parameter], value)


def test_another_models_parameters_are_refused(name: ModelName):
    settings = ModelSettings(name=name)
    with pytest.raises(ShapeMismatch, match="`bias` has shape"):
        new_scorer(settings, TASKS).load(new_network(settings, TASKS + 1, FIELDS, DENSE).to_numpy())
    for other in set(NAMES) - {name}:
        with pytest.raises(ShapeMismatch):
            new_scorer(settings, TASKS).load(new_network(ModelSettings(name=other), TASKS, FIELDS, DENSE).to_numpy())


def test_every_name_of_the_settings_has_a_model(name: ModelName):
    settings = msgspec.convert({"name": name}, ModelSettings)
    assert type(new_scorer(settings, 1)) is SCORERS[name]
    assert new_network(settings, 1, FIELDS, DENSE).shapes == new_scorer(settings, 1).shapes


def test_serving_a_model_needs_no_torch(name: ModelName):
    code = (
        "import sys; from online_learning.models.registry import new_scorer; "
        "from online_learning.settings import ModelSettings; "
        f"new_scorer(ModelSettings(name={name!r}), 1); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
