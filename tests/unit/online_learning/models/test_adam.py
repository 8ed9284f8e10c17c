"""Our Adam is torch's, bit for bit, and does not bring torch's compiler along."""

import io
import subprocess
import sys

import pytest
import torch

from online_learning.models.adam import Adam

SHAPES = ((5, 3), (3,), (1,))


def parameters(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give(ours: list[torch.nn.Parameter], theirs: list[torch.nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        gradient = torch.randn(one.shape, generator=generator)
        # Now and then one has no gradient.
        one.grad, other.grad = (None, None) if (seed + k) % 4 == 0 else (gradient, gradient.clone())


@pytest.mark.parametrize("rates", [0.01, (0.01, 0.003, 0.01)])
def test_steps_are_torch_s_bit_for_bit_also_over_a_restart(rates: float | tuple[float, ...]) -> None:
    ours, theirs = parameters(1), parameters(1)
    each = rates if isinstance(rates, tuple) else (rates,) * len(SHAPES)
    groups = [{"params": [one], "lr": rate} for one, rate in zip(theirs, each, strict=True)]
    mine, reference = Adam(ours, rates), torch.optim.Adam(groups, foreach=True)
    for seed in range(40):
        if seed == 20:
            kept = io.BytesIO()
            torch.save(mine.state_dict(), kept)
            mine = Adam(ours, rates)
            mine.load_state_dict(torch.load(io.BytesIO(kept.getvalue()), weights_only=True))
        give(ours, theirs, seed)
        mine.step()
        reference.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_it_takes_over_what_torch_kept() -> None:
    ours, theirs = parameters(2), parameters(2)
    reference = torch.optim.Adam(theirs, 0.01)
    give(ours, theirs, 1)
    reference.step()
    mine = Adam(ours, 0.01)
    mine.load_state_dict(reference.state_dict())
    assert torch.equal(mine.state_dict()["state"][0]["exp_avg"], reference.state_dict()["state"][0]["exp_avg"])


def test_moments_of_another_network_are_refused() -> None:
    mine = Adam(parameters(1), 0.01)
    give(mine._parameters, parameters(1), 1)
    mine.step()
    with pytest.raises(ValueError, match="other parameters"):
        Adam([torch.nn.Parameter(torch.zeros(2, 2))], 0.01).load_state_dict(mine.state_dict())


def test_gradients_are_cleared_as_asked() -> None:
    ours = parameters(3)
    mine = Adam(ours, 0.01)
    give(ours, parameters(3), 1)
    mine.zero_grad(set_to_none=False)
    assert [one.grad is None or not one.grad.any() for one in ours] == [True] * 3
    mine.zero_grad()
    assert [one.grad for one in ours] == [None] * 3


def test_making_one_does_not_import_the_compiler() -> None:
    program = (
        "import sys, torch; from online_learning.models.adam import Adam\n"
        "p = torch.nn.Parameter(torch.ones(2)); p.grad = torch.ones(2); a = Adam([p], 0.1); a.step(); a.zero_grad()\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
