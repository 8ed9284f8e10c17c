"""Touched rows move as torch.optim moves them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from online_learning.table.settings import InitializerSettings, OptimizerKind, OptimizerSettings, TableSettings
from online_learning.table.table import Table

ROWS, DIM = 12, 5


def table_and_twin(kind: OptimizerKind, rate: float, seed: int) -> tuple[Table, np.ndarray, torch.Tensor]:
    """A table with ROWS rows, their slots, and the same rows as a dense torch parameter."""
    table = Table(
        TableSettings(
            dim=DIM,
            optimizer=OptimizerSettings(kind=kind, learning_rate=rate, epsilon=1e-8),
            initializer=InitializerSettings(scale=0.1),
        ),
        seed,
    )
    slots = table.find_or_insert(np.arange(1, ROWS + 1, dtype=np.uint64), np.zeros(ROWS, np.uint16), 0, 1)
    return table, slots, torch.tensor(table.gather(slots), requires_grad=True)


def batches(rng: np.random.Generator, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row numbers with duplicates, and a gradient for each."""
    return [
        (rng.integers(0, ROWS, size), rng.normal(0, 1, (size, DIM)).astype(np.float32))
        for size in rng.integers(1, 40, steps)
    ]


def dense_gradient(rows: np.ndarray, grads: np.ndarray) -> torch.Tensor:
    total = torch.zeros(ROWS, DIM)
    return total.index_add_(0, torch.tensor(rows), torch.tensor(grads))


@pytest.mark.parametrize("kind", [OptimizerKind.SGD, OptimizerKind.ADAGRAD])
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 20), rate=st.sampled_from([0.001, 0.05, 0.5]))
@settings(max_examples=40)
def test_rows_move_as_under_torchs_dense_optimizer(kind: OptimizerKind, seed: int, steps: int, rate: float) -> None:
    table, slots, twin = table_and_twin(kind, rate, seed)
    optimizer = (
        torch.optim.SGD([twin], lr=rate)
        if kind is OptimizerKind.SGD
        else torch.optim.Adagrad([twin], lr=rate, eps=1e-8)
    )
    for rows, grads in batches(np.random.default_rng(seed), steps):
        # Both leave untouched rows as they are: their gradient is zero there.
        twin.grad = dense_gradient(rows, grads)
        optimizer.step()
        table.apply_gradients(slots[rows], grads, 2)
        np.testing.assert_allclose(table.gather(slots), twin.detach().numpy(), atol=1e-6, rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 20), rate=st.sampled_from([0.001, 0.05]))
@settings(max_examples=40)
def test_lazy_adam_moves_rows_as_torchs_sparse_adam(seed: int, steps: int, rate: float) -> None:
    table, slots, twin = table_and_twin(OptimizerKind.LAZY_ADAM, rate, seed)
    optimizer = torch.optim.SparseAdam([twin], lr=rate, eps=1e-8)
    for rows, grads in batches(np.random.default_rng(seed), steps):
        twin.grad = torch.sparse_coo_tensor(
            torch.tensor(rows)[None], torch.tensor(grads), (ROWS, DIM), check_invariants=True
        )
        optimizer.step()
        table.apply_gradients(slots[rows], grads, 2)
        np.testing.assert_allclose(table.gather(slots), twin.detach().numpy(), atol=1e-6, rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 20))
@settings(max_examples=40)
def test_rowwise_adagrad_divides_by_the_root_of_the_summed_mean_square(seed: int, steps: int) -> None:
    table, slots, twin = table_and_twin(OptimizerKind.ROWWISE_ADAGRAD, 0.05, seed)
    weights, accumulator = twin.detach().clone(), torch.zeros(ROWS, 1)
    for rows, grads in batches(np.random.default_rng(seed), steps):
        grad = dense_gradient(rows, grads)
        accumulator += (grad * grad).mean(dim=1, keepdim=True)
        weights -= 0.05 * grad / (accumulator.sqrt() + 1e-8)
        table.apply_gradients(slots[rows], grads, 2)
        np.testing.assert_allclose(table.gather(slots), weights.numpy(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_the_number_of_threads_does_not_change_a_bit(kind: OptimizerKind) -> None:
    rng = np.random.default_rng(5)
    keys = rng.integers(1, 30_000, 100_000).astype(np.uint64)
    grads = rng.normal(size=(100_000, 4)).astype(np.float32)
    digests = set()
    for threads in (1, 2, 4):
        table = Table(TableSettings(dim=4, threads=threads, optimizer=OptimizerSettings(kind=kind)), 1)
        slots = table.find_or_insert(keys, np.zeros(len(keys), np.uint16), 0, 1)
        for step in range(3):
            table.apply_gradients(slots, grads, 2 + step)
        digests.add(table.digest())
    assert len(digests) == 1


def test_a_slot_without_a_row_is_refused_and_nothing_moves() -> None:
    table, slots, _ = table_and_twin(OptimizerKind.ADAGRAD, 0.1, 1)
    table.remove(np.array([3], np.uint64), 0, 2)
    before = table.digest()
    for wrong in (slots[2], ROWS, -2):
        with pytest.raises(ValueError, match="slots"):
            table.apply_gradients(np.array([0, wrong]), np.ones((2, DIM), np.float32), 3)
    assert table.digest() == before


def test_a_gradient_of_zero_divides_nothing_by_it() -> None:
    with pytest.raises(ValueError, match=r"`epsilon` == 0.0, must be in \(0, 1\)"):
        OptimizerSettings(epsilon=0.0)
    for kind in OptimizerKind:
        table = Table(TableSettings(dim=2, optimizer=OptimizerSettings(kind=kind)))
        slots = table.find_or_insert(np.array([1], np.uint64), np.zeros(1, np.uint16), 0, 1)
        table.apply_gradients(slots, np.array([[0, 1]], np.float32), 1)
        assert np.isfinite(table.gather(slots)).all()
