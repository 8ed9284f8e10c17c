"""The models learn what they can express: who likes what needs products, and only products."""

import numpy as np
import pytest

from online_learning.batches import Batch
from online_learning.learner import OnlineLearner
from online_learning.models.dense_features import dense_names
from online_learning.models.fields import FieldEncoder
from online_learning.settings import FieldSettings, LearningSettings, ModelName, ModelSettings
from online_learning.table.version import pack_version
from streams.settings import TaskSettings

FIELDS = (FieldSettings(name="user", side="user", source="id"), FieldSettings(name="item", side="item", source="id"))
KINDS = 8


def learned(name: ModelName) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth for all pairs after 6,000 examples: even users like even items, odd ones odd items."""
    settings = LearningSettings(
        tasks=(TaskSettings(name="rating"),), model=ModelSettings(name=name, dim=8, hidden=(16,), fields=FIELDS)
    )
    learner, encoder, random = OnlineLearner(settings), FieldEncoder(settings.model), np.random.default_rng(0)

    def batch(users: np.ndarray, items: np.ndarray) -> Batch:
        bags = [encoder.user_bags(f"u{user}", None, [], "", None) for user in users.tolist()]
        names = [f"i{item}" for item in items.tolist()]
        side = encoder.combine(bags, map(encoder.item_bags, names))
        return Batch(side, np.zeros((len(users), len(dense_names(settings.model))), np.float32), names)

    for step in range(1, 94):
        users, items = random.integers(0, KINDS, (2, 64))
        labels = ((users + items) % 2 == 0).astype(np.float32)[:, None]
        learner.learn(batch(users, items), labels, np.ones_like(labels), step, pack_version(1, step))
    users, items = np.divmod(np.arange(KINDS * KINDS), KINDS)
    return learner.predict(batch(users, items))[:, 0], (users + items) % 2 == 0


@pytest.mark.parametrize("name", ["deepfm", "dcn_v2"])
def test_a_model_with_products_learns_who_likes_what(name: ModelName):
    said, truth = learned(name)
    assert ((said > 0.5) == truth).all()


def test_logistic_regression_cannot():
    said, truth = learned("logistic_regression")
    assert 0.25 < ((said > 0.5) == truth).mean() < 0.75
