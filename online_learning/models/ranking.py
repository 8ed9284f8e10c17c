"""DeepFM: linear weights, pairwise interactions and a small network over the same field embeddings.

Guo et al. 2017, https://arxiv.org/abs/1703.04247. The embeddings live in the sparse table; this module holds only the
dense parameters. A row of the table is `[linear weight | dim factors]`.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from online_learning.models.parameters import Parameters, check, shapes
from online_learning.settings import ModelSettings


class RankingModel(nn.Module):
    """One logit per task: `bias + scale[0] * linear + scale[1] * pairwise + dense_linear . dense + network(e, dense)`.

    F fields, D dense features, T tasks, W = 1 + dim. Linear and pairwise parts are shared between tasks but for their
    scale, so that one dot product retrieves for every task (see `retrieval`).
    """

    def __init__(self, settings: ModelSettings, tasks: int, fields: int, dense: int, seed: int = 0) -> None:
        super().__init__()
        self.shapes = shapes(settings, tasks, fields, dense)
        random = torch.Generator().manual_seed(seed)
        self.bias = nn.Parameter(torch.zeros(tasks))
        self.scale = nn.Parameter(torch.ones(tasks, 2))
        self.dense_linear = nn.Parameter(torch.zeros(tasks, dense))
        layers = [name.removesuffix(".weight") for name in self.shapes if name.endswith(".weight")]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in layers:
            out, into = self.shapes[f"{layer}.weight"]
            # He et al. 2015 for the hidden layers; the output starts at zero, so that a new model says its bias.
            deviation = 0.0 if layer == layers[-1] else (2.0 / into) ** 0.5
            self.weights.append(nn.Parameter(torch.randn(out, into, generator=random) * deviation))
            self.biases.append(nn.Parameter(torch.zeros(out)))

    def forward(self, rows: Tensor, dense: Tensor) -> Tensor:
        """Logits f32 [B, T] of pooled rows f32 [B, F, W] and dense features f32 [B, D]."""
        linear = rows[:, :, 0].sum(dim=1)
        factors = rows[:, :, 1:]
        total = factors.sum(dim=1)
        # Rendle 2010, eq. 5 (lemma 3.1): all pairs in linear time.
        pairwise = 0.5 * (total.square().sum(dim=1) - factors.square().sum(dim=(1, 2)))
        hidden = torch.cat([factors.flatten(1), dense], dim=1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = nn.functional.linear(hidden, weight, bias)
            if number + 1 < len(self.weights):
                hidden = torch.relu(hidden)
        wide = self.bias + self.scale[:, 0] * linear[:, None] + self.scale[:, 1] * pairwise[:, None]
        return wide + nn.functional.linear(dense, self.dense_linear) + hidden

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters under the names of `parameters.shapes`."""
        named = {"bias": self.bias, "scale": self.scale, "dense_linear": self.dense_linear}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"layer.{number}.weight"] = weight
            named[f"layer.{number}.bias"] = bias
        return named

    def to_numpy(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the parameters by name."""
        return {name: value.detach().numpy().copy() for name, value in self.named().items()}

    def from_numpy(self, parameters: Parameters) -> None:
        """Takes over parameters by name; raises ShapeMismatch."""
        check(parameters, self.shapes)
        with torch.no_grad():
            for name, value in self.named().items():
                value.copy_(torch.from_numpy(np.ascontiguousarray(parameters[name])))


def masked_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross-entropy summed over [B, T]; a label that is NaN adds nothing.

    A sum, not a mean: what an example does to its rows is the same whatever else is in its batch.
    """
    known = ~torch.isnan(labels)
    targets = torch.where(known, labels, torch.zeros_like(labels))
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * weights * known).sum()


def gradients(
    model: RankingModel,
    rows: NDArray[np.float32],
    dense: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> tuple[float, NDArray[np.float32]]:
    """Loss and its gradient f32 [B, F, W] by the pooled rows; the parameters' gradients are added to `.grad`.

    rows f32 [B, F, W], dense f32 [B, D], labels and weights f32 [B, T].
    """
    embedded = torch.from_numpy(rows).requires_grad_(True)
    logits = model(embedded, torch.from_numpy(dense))
    loss = masked_loss(logits, torch.from_numpy(labels), torch.from_numpy(weights))
    loss.backward()  # type: ignore[no-untyped-call]
    assert embedded.grad is not None
    return loss.item(), embedded.grad.numpy()
