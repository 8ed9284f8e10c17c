"""Adam on a network's parameters, by torch's own functional form.

`torch.optim.Adam` does the same, but the first one that a process makes imports torch's compiler (torch._dynamo and
sympy): more than a second of every start of a trainer, and a trainer that was killed should be back soon.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch.optim.adam import adam

_BETA1: Final = 0.9
_BETA2: Final = 0.999
_EPSILON: Final = 1e-8


class Adam:
    """Kingma and Ba 2015, with torch's defaults; parameters without a gradient are passed over, moments and all."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], learning_rate: float | Sequence[float]) -> None:
        """`learning_rate`: one for all parameters, or one for each."""
        self._parameters = list(parameters)
        rates = [learning_rate] * len(self._parameters) if isinstance(learning_rate, float) else learning_rate
        self._at_rate: dict[float, list[int]] = {}
        for k, rate in zip(range(len(self._parameters)), rates, strict=True):
            self._at_rate.setdefault(rate, []).append(k)
        self._state: dict[int, dict[str, torch.Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for rate, places in self._at_rate.items():
            moved = [k for k in places if self._parameters[k].grad is not None]
            if moved:
                self._move(moved, rate)

    def _move(self, moved: list[int], rate: float) -> None:
        state = [self._of(k) for k in moved]
        adam(
            [self._parameters[k] for k in moved],
            [gradient for k in moved if (gradient := self._parameters[k].grad) is not None],
            [one["exp_avg"] for one in state],
            [one["exp_avg_sq"] for one in state],
            [],
            [one["step"] for one in state],
            foreach=True,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=rate,
            weight_decay=0.0,
            eps=_EPSILON,
            maximize=False,
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients: to nothing, or to zeros where there are some."""
        for parameter in self._parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The moments and steps by the parameter's place, in the layout of `torch.optim.Adam`."""
        return {"state": self._state, "param_groups": []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over moments and steps. Raises ValueError where they are of other parameters."""
        found = {int(k): dict(one) for k, one in state["state"].items()}
        for k, one in found.items():
            if k >= len(self._parameters) or one["exp_avg"].shape != self._parameters[k].shape:
                raise ValueError("the optimizer's moments are of other parameters")
        self._state = found

    def _of(self, k: int) -> dict[str, torch.Tensor]:
        if k not in self._state:
            zeros = torch.zeros_like(self._parameters[k], memory_format=torch.preserve_format)
            self._state[k] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        return self._state[k]
