"""What every ranking network is: a torch module over pooled rows and dense features with parameters known by name.

The embeddings live in the sparse table; a network holds only the dense parameters. A row of the table is
`[linear weight | dim factors]`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from online_learning.models.parameters import Parameters, Shapes, check


class Undone(NamedTuple):
    """Labels 0 or 1 that were learned before and are taken back: labels f32 [B, T] (NaN: none) and the weights f32
    [B, T] that they were learned with."""

    labels: NDArray[np.float32]
    weights: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "Undone":
        """Those of some rows."""
        return Undone(self.labels[rows], self.weights[rows])

    def padded(self, rows: int) -> "Undone":
        """These, and so many rows behind them of which nothing is taken back."""
        ends = ((0, rows), (0, 0))
        return Undone(np.pad(self.labels, ends, constant_values=np.nan), np.pad(self.weights, ends))


class RankingModel(nn.Module, ABC):
    """One logit per task, or a value task's standard score; F fields, D dense features, T tasks, W = 1 + dim. Each
    model has its own (`registry`)."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes
        self.bias = nn.Parameter(torch.zeros(shapes["bias"]))
        self.scale = nn.Parameter(torch.ones(shapes["scale"]))
        self.dense_linear = nn.Parameter(torch.zeros(shapes["dense_linear"]))

    @abstractmethod
    def forward(self, rows: Tensor, dense: Tensor) -> Tensor:
        """Logits f32 [B, T] of pooled rows f32 [B, F, W] and dense features f32 [B, D]."""

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters under the names of `shapes`."""
        return {"bias": self.bias, "scale": self.scale, "dense_linear": self.dense_linear}

    def learning_rates(self, base: float) -> list[float]:
        """The learning rate of each of `parameters()`, where most parameters have `base`."""
        return [base for _ in self.parameters()]

    def to_numpy(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the parameters by name."""
        return {name: value.detach().numpy().copy() for name, value in self.named().items()}

    def from_numpy(self, parameters: Parameters) -> None:
        """Takes over parameters by name; raises ShapeMismatch."""
        check(parameters, self.shapes)
        with torch.no_grad():
            for name, value in self.named().items():
                value.copy_(torch.from_numpy(np.ascontiguousarray(parameters[name])))


class Layers(nn.Module):
    """The network of layers under the names `layer.K.*` of `shapes`, ReLU between them."""

    def __init__(self, shapes: Shapes, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        layers = [n.removesuffix(".weight") for n in shapes if n.startswith("layer.") and n.endswith(".weight")]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in layers:
            out, into = shapes[f"{layer}.weight"]
            # He et al. 2015 for the hidden layers; the output starts at zero, so that a new model says its bias.
            deviation = 0.0 if layer == layers[-1] else (2.0 / into) ** 0.5
            self.weights.append(nn.Parameter(torch.randn(out, into, generator=random) * deviation))
            self.biases.append(nn.Parameter(torch.zeros(out)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs f32 [B, T] of inputs f32 [B, n]."""
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = nn.functional.linear(hidden, weight, bias)
            if number + 1 < len(self.weights):
                hidden = torch.relu(hidden)
        return hidden

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters under the names of `shapes`."""
        named: dict[str, nn.Parameter] = {}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"layer.{number}.weight"] = weight
            named[f"layer.{number}.bias"] = bias
        return named


def masked_loss(logits: Tensor, labels: Tensor, weights: Tensor, values: Sequence[int] = ()) -> Tensor:
    """Weighted binary cross-entropy summed over [B, T]; a label that is NaN adds nothing.

    In the columns `values` labels are standard scores, and the loss is Huber's with delta 1 (Huber 1964): half the
    squared error up to one deviation, linear beyond it. Its slope is at most 1, as that of cross-entropy.

    A sum, not a mean: what an example does to its rows is the same whatever else is in its batch.
    """
    known = ~torch.isnan(labels)
    targets = torch.where(known, labels, torch.zeros_like(labels))
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if values:
        columns = torch.zeros(logits.shape[1], dtype=torch.bool)
        columns[list(values)] = True
        losses = torch.where(columns, nn.functional.huber_loss(logits, targets, reduction="none"), losses)
    return (losses * weights * known).sum()


def gradients(
    model: RankingModel,
    rows: NDArray[np.float32],
    dense: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.float32] | None = None,
    values: Sequence[int] = (),
    undone: Undone | None = None,
) -> tuple[float, NDArray[np.float32]]:
    """Loss and its gradient f32 [B, F, W] by the pooled rows; the parameters' gradients are added to `.grad`.

    rows f32 [B, F, W], dense f32 [B, D], labels and weights f32 [B, T]. `offsets` f32 [B, T] are added to the logits in
    the loss only: what the way in which an example was sampled adds to its odds. `values`: see `masked_loss`. The loss
    of what is `undone` is subtracted.
    """
    embedded = torch.from_numpy(rows).requires_grad_(True)
    logits = model(embedded, torch.from_numpy(dense))
    if offsets is not None:
        logits = logits + torch.from_numpy(offsets)
    loss = masked_loss(logits, torch.from_numpy(labels), torch.from_numpy(weights), values)
    if undone is not None:
        loss = loss - masked_loss(logits, torch.from_numpy(undone.labels), torch.from_numpy(undone.weights))
    loss.backward()  # type: ignore[no-untyped-call]
    assert embedded.grad is not None
    return loss.item(), embedded.grad.numpy()
