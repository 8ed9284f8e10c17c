"""The ranking model: what torch learns, numpy serves and one dot product retrieves."""

import numpy as np
import pytest
import torch

from online_learning.models.dense_features import dense_names
from online_learning.models.fields import FieldEncoder
from online_learning.models.parameters import ShapeMismatch
from online_learning.models.ranking import RankingModel, gradients, masked_loss
from online_learning.models.retrieval import EXTRA_COLUMNS, item_vectors, query_constant, query_vector
from online_learning.models.scorer import Scorer
from online_learning.settings import ModelSettings

SETTINGS = ModelSettings()
ENCODER = FieldEncoder(SETTINGS)
TASKS, FIELDS, DENSE, WIDTH = 2, ENCODER.fields, len(dense_names(SETTINGS)), SETTINGS.dim + 1


def model_with_random_parameters() -> RankingModel:
    model = RankingModel(SETTINGS, TASKS, FIELDS, DENSE)
    random = np.random.default_rng(1)
    model.from_numpy({name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in model.shapes.items()})
    return model


def random_batch(rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    normal = random.normal(0, 0.3, (rows, FIELDS, WIDTH)).astype(np.float32)
    return normal, random.normal(0, 1, (rows, DENSE)).astype(np.float32)


def test_numpy_scores_equal_torch_within_1e_6():
    model, (rows, dense) = model_with_random_parameters(), random_batch(200)
    scorer = Scorer(SETTINGS, TASKS)
    scorer.load(model.to_numpy())
    with torch.no_grad():
        expected = torch.sigmoid(model(torch.from_numpy(rows), torch.from_numpy(dense))).numpy()
    np.testing.assert_allclose(scorer.score(rows, dense), expected, atol=1e-6)


def test_a_request_scores_as_its_rows_do():
    scorer = Scorer(SETTINGS, TASKS)
    scorer.load(model_with_random_parameters().to_numpy())
    rows, dense = random_batch(50)
    users = len(ENCODER.user_fields)
    rows[:, :users] = rows[:1, :users]
    np.testing.assert_array_equal(
        scorer.score_request(rows[:1, :users], rows[:, users:], dense), scorer.score(rows, dense)
    )


def test_the_dot_product_is_the_linear_and_pairwise_part():
    model, (rows, _) = model_with_random_parameters(), random_batch(30)
    users = len(ENCODER.user_fields)
    rows[:, :users] = rows[:1, :users]
    parameters = model.to_numpy()
    # Without bias, dense part and network only the linear and the pairwise part are left.
    wide = {name: value if name == "scale" else np.zeros_like(value) for name, value in parameters.items()}
    scorer = Scorer(SETTINGS, TASKS)
    scorer.load(wide)
    expected = scorer.logits(rows, np.zeros((30, DENSE), np.float32))
    items = item_vectors(rows[:, users:])
    assert items.shape == (30, SETTINGS.dim + EXTRA_COLUMNS)
    for task in range(TASKS):
        scale = parameters["scale"][task]
        found = items @ query_vector(rows[:1, :users], scale) + query_constant(rows[:1, :users], scale)
        np.testing.assert_allclose(found, expected[:, task], atol=1e-5)


def test_a_missing_label_moves_nothing():
    model, (rows, dense) = model_with_random_parameters(), random_batch(4)
    labels = np.array([[1, np.nan], [0, np.nan], [1, np.nan], [np.nan, np.nan]], dtype=np.float32)
    _, row_gradient = gradients(model, rows, dense, labels, np.ones((4, TASKS), np.float32))
    assert not row_gradient[3].any()
    assert row_gradient[:3].any(axis=(1, 2)).all()
    assert model.bias.grad is not None
    assert model.bias.grad[1] == 0 != model.bias.grad[0]


def test_gradients_by_rows_equal_finite_differences():
    settings = ModelSettings(dim=3, hidden=(4,))
    model = RankingModel(settings, 1, 2, 2, seed=3).double()
    random = np.random.default_rng(4)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.from_numpy(random.normal(0, 0.5, tuple(value.shape))))
    rows = torch.from_numpy(random.normal(0, 0.5, (3, 2, 4))).requires_grad_(True)
    dense, labels = torch.from_numpy(random.normal(0, 1, (3, 2))), torch.tensor([[1.0], [0.0], [1.0]]).double()
    weights = torch.tensor([[1.0], [2.0], [0.5]]).double()
    assert torch.autograd.gradcheck(lambda r: masked_loss(model(r, dense), labels, weights), (rows,))


def test_parameters_travel_by_name():
    model, other = model_with_random_parameters(), RankingModel(SETTINGS, TASKS, FIELDS, DENSE)
    other.from_numpy(model.to_numpy())
    for name, value in model.to_numpy().items():
        np.testing.assert_array_equal(other.to_numpy()[name], value)


def test_another_models_parameters_are_refused():
    parameters = RankingModel(SETTINGS, TASKS + 1, FIELDS, DENSE).to_numpy()
    with pytest.raises(ShapeMismatch, match="`bias` has shape"):
        Scorer(SETTINGS, TASKS).load(parameters)
