"""DeepFM's sums and their gradient equal autograd's on the formula, for every shape and for gradients of any layout."""

import pytest
import torch
from torch import Tensor

from online_learning.models.networks.interactions import Interactions


def plain(rows: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three results as the formula says them."""
    factors = rows[:, :, 1:]
    others = factors.sum(dim=1).square() - factors.square().sum(dim=1)
    return rows[:, :, 0].sum(dim=1), 0.5 * others.sum(dim=1), torch.cat([factors.flatten(1), dense], dim=1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "fields", "width", "features"), [(0, 3, 4, 2), (1, 1, 2, 0), (7, 5, 17, 3)])
def test_sums_and_gradients_equal_autograds(
    kind: torch.dtype, batch: int, fields: int, width: int, features: int
) -> None:
    random = torch.Generator().manual_seed(batch)
    rows = torch.randn(batch, fields, width, generator=random, dtype=kind)
    dense = torch.randn(batch, features, generator=random, dtype=kind)
    both = []
    for form in (plain, Interactions.apply):
        given = rows.clone().requires_grad_()
        linear, pairwise, inputs = form(given, dense)
        # Gradients that are expanded, contiguous and transposed.
        down = torch.randn(inputs.shape[1], batch, generator=torch.Generator().manual_seed(1), dtype=kind).T
        (2 * linear.sum() + (pairwise * pairwise.detach()).sum() + (inputs * down).sum()).backward()
        assert given.grad is not None
        both.append((linear, pairwise, inputs, given.grad))
    for expected, got in zip(*both, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_result_that_is_not_used_has_no_part_in_the_gradient() -> None:
    rows = torch.randn(4, 3, 5, requires_grad=True)
    Interactions.apply(rows, torch.empty(4, 0))[1].sum().backward()
    factors = rows.detach()[:, :, 1:]
    assert rows.grad is not None
    assert not rows.grad[:, :, 0].any()
    torch.testing.assert_close(rows.grad[:, :, 1:], factors.sum(dim=1, keepdim=True) - factors)
