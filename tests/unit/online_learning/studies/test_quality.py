"""The AUC is the share of pairs in the right order, and the log loss the mean cross-entropy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from online_learning.studies.quality import auc, log_loss

rows = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40)


@given(rows)
def test_the_auc_is_the_share_of_pairs_in_order(sample: list[tuple[int, bool]]) -> None:
    said = np.array([value / 8 for value, _ in sample], dtype=np.float32)
    labels = np.array([label for _, label in sample], dtype=np.float32)
    pairs = [
        1.0 if said[i] > said[j] else 0.5 if said[i] == said[j] else 0.0
        for i in np.flatnonzero(labels > 0)
        for j in np.flatnonzero(labels == 0)
    ]
    found = auc(said, labels)
    assert math.isnan(found) if not pairs else found == pytest.approx(np.mean(pairs))


def test_the_log_loss_is_torchs() -> None:
    random = np.random.default_rng(0)
    said, labels = random.uniform(0.01, 0.99, 100), (random.random(100) < 0.3).astype(np.float64)
    expected = torch.nn.functional.binary_cross_entropy(torch.from_numpy(said), torch.from_numpy(labels))
    assert log_loss(said, labels) == pytest.approx(expected.item())
    assert math.isfinite(log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])))
