"""DCN-V2 in torch; see `scorers.dcn_v2` for the model."""

import torch
from torch import Tensor, nn

from online_learning.models.ranking import Layers, RankingModel
from online_learning.models.scorers.dcn_v2 import DCNV2Scorer
from online_learning.settings import ModelSettings


class DCNV2(RankingModel):
    """A task's logit: `bias + scale * linear + dense_linear . dense + cross_out . (cross(x_0) - x_0) + network(x_0)`.

    It begins as a factorization machine: the first matrix pairs equal places of different fields, each pair twice at
    half its weight, and the others are 0. Each output of a cross layer belongs to one input, so zeros leave no symmetry
    to be broken. Dense features begin without weight, so that a new model says its prior.
    """

    def __init__(self, settings: ModelSettings, tasks: int, fields: int, dense: int, seed: int = 0) -> None:
        super().__init__(DCNV2Scorer.shapes_of(settings, tasks, fields, dense))
        embedded, crosses = fields * settings.dim, settings.number_of_cross_layers
        self.cross_weights = nn.ParameterList(torch.zeros(self.shapes[f"cross.{k}.weight"]) for k in range(crosses))
        self.cross_biases = nn.ParameterList(torch.zeros(self.shapes[f"cross.{k}.bias"]) for k in range(crosses))
        self.cross_out = nn.Parameter(torch.zeros(self.shapes["cross_out"]))
        with torch.no_grad():
            pairs = 0.5 * (1.0 - torch.eye(fields))
            self.cross_weights[0][:embedded, :embedded] = torch.kron(pairs, torch.eye(settings.dim))
            self.cross_out[:, :embedded] = 1.0
        self.network = Layers(self.shapes, seed)

    def forward(self, rows: Tensor, dense: Tensor) -> Tensor:
        linear = rows[:, :, 0].sum(dim=1)
        start = torch.cat([rows[:, :, 1:].flatten(1), dense], dim=1)
        crossed = start
        for weight, bias in zip(self.cross_weights, self.cross_biases, strict=True):
            crossed = start * nn.functional.linear(crossed, weight, bias) + crossed
        wide = self.bias + self.scale[:, 0] * linear[:, None] + nn.functional.linear(dense, self.dense_linear)
        deep: Tensor = self.network(start)
        return wide + nn.functional.linear(crossed - start, self.cross_out) + deep

    def named(self) -> dict[str, nn.Parameter]:
        named = super().named()
        for number, (weight, bias) in enumerate(zip(self.cross_weights, self.cross_biases, strict=True)):
            named[f"cross.{number}.weight"] = weight
            named[f"cross.{number}.bias"] = bias
        return named | {"cross_out": self.cross_out} | self.network.named()

    def learning_rates(self, base: float) -> list[float]:
        # n x n entries move a logit at once, and Adam moves each as far as if it were alone: at the full rate a step
        # turns the logit over. So they learn the slower the more they are.
        crosses = {id(weight) for weight in self.cross_weights}
        slower = base / len(self.cross_weights[0]) ** 0.5
        return [slower if id(parameter) in crosses else base for parameter in self.parameters()]
