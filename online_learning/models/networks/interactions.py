"""A factorisation machine's sums over rows, each in one pass over memory, with the gradient written down.

In torch, forward and backward go over all rows a dozen times, by rows of an odd number of floats: half of what a
training step spent on its network.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_learning.table.compiled import kernels_of

kernel = kernels_of(Path(__file__).parent)


@kernel
def sum_rows(rows, dense, fields, dim, features, inputs, total, linear, pairwise):  # type: ignore[no-untyped-def]
    """The forward pass of `Interactions`, all arrays flat; total f32 [B * dim] = sums of the factors, for backward."""
    # Unsigned: numba would test a signed place for being counted from the end, and no loop here be vectorised.
    size, width, columns = np.uint64(dim), np.uint64(dim + 1), np.uint64(fields * dim + features)
    squares, zero = np.empty(dim, rows.dtype), rows.dtype.type(0)
    for example in range(np.uint64(linear.shape[0])):
        weights, first, target = zero, example * size, example * columns
        for column in range(size):
            total[first + column] = squares[column] = zero
        for field in range(np.uint64(fields)):
            row = (example * np.uint64(fields) + field) * width
            weights += rows[row]
            for column in range(size):
                factor = rows[row + np.uint64(1) + column]
                inputs[target + field * size + column] = factor
                total[first + column] += factor
                squares[column] += factor * factor
        for feature in range(np.uint64(features)):
            inputs[target + np.uint64(fields) * size + feature] = dense[example * np.uint64(features) + feature]
        # Rendle 2010, eq. 5 (lemma 3.1): all pairs in linear time.
        pairs = zero
        for column in range(size):
            pairs += total[first + column] * total[first + column] - squares[column]
        linear[example], pairwise[example] = weights, pairs / rows.dtype.type(2)


@kernel
def spread_gradients(inputs, total, fields, dim, features, linear, pairwise, by_input, by_row):  # type: ignore[no-untyped-def]
    """The backward pass of `Interactions`: by_row f32 [B * F * (1 + dim)] from the gradients of its three results."""
    size, width, columns = np.uint64(dim), np.uint64(dim + 1), np.uint64(fields * dim + features)
    for example in range(np.uint64(linear.shape[0])):
        first, source = example * size, example * columns
        for field in range(np.uint64(fields)):
            row, place = (example * np.uint64(fields) + field) * width, source + field * size
            by_row[row] = linear[example]
            for column in range(size):
                # The pairs' sum by one factor is the sum of all others.
                others = total[first + column] - inputs[place + column]
                by_row[row + np.uint64(1) + column] = others * pairwise[example] + by_input[place + column]


class Interactions(torch.autograd.Function):
    """(linear [B], pairwise [B], factors and dense features side by side [B, F * dim + D]) of rows f32 [B, F, 1 + dim]
    and dense features f32 [B, D], which take no gradient.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, fields, width = rows.shape
        dim, features = width - 1, dense.shape[1]
        inputs, total = rows.new_empty(batch, fields * dim + features), rows.new_empty(batch, dim)
        linear, pairwise = rows.new_empty(batch), rows.new_empty(batch)
        results = [_flat(tensor) for tensor in (inputs, total, linear, pairwise)]
        sum_rows(_flat(rows), _flat(dense), fields, dim, features, *results)
        context.save_for_backward(inputs, total)
        context.sizes = fields, dim, features
        return linear, pairwise, inputs

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        inputs, total = context.saved_tensors
        fields, dim, _ = context.sizes
        by_row = inputs.new_empty(len(inputs), fields, dim + 1)
        given = [_flat(gradient) for gradient in gradients]
        spread_gradients(_flat(inputs), _flat(total), *context.sizes, *given, _flat(by_row))
        return by_row, None


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    """The tensor's own memory as one row; a copy where it is not contiguous."""
    flat: NDArray[np.float32] = tensor.detach().contiguous().numpy().reshape(-1)
    return flat
