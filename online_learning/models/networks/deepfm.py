"""DeepFM in torch; see `scorers.deepfm` for the model."""

from typing import Any

import torch
from torch import Tensor, nn

from online_learning.models.ranking import Layers, RankingModel
from online_learning.models.scorers.deepfm import DeepFMScorer
from online_learning.settings import ModelSettings


class Interactions(torch.autograd.Function):
    """(linear [B], pairwise [B], factors and dense features side by side [B, F * dim + D]) of rows f32 [B, F, 1 + dim]
    and dense features f32 [B, D], which take no gradient.

    Its gradient is written down, since autograd's goes over all rows a dozen times: a fifth of a training step.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, fields, width = rows.shape
        columns = fields * (width - 1)
        inputs = rows.new_empty(len(rows), columns + dense.shape[1])
        flat = inputs[:, :columns]
        factors = flat.view(-1, fields, width - 1)
        factors.copy_(rows[:, :, 1:])
        inputs[:, columns:] = dense
        total = factors.sum(dim=1)
        # Rendle 2010, eq. 5 (lemma 3.1): all pairs in linear time.
        pairwise = 0.5 * (total.square().sum(dim=1) - flat.square().sum(dim=1))
        context.save_for_backward(inputs, total)
        context.fields = fields
        return rows[:, :, 0].sum(dim=1), pairwise, inputs

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        linear, pairwise, by_input = gradients
        inputs, total = context.saved_tensors
        fields, dim = context.fields, total.shape[1]
        by_row = inputs.new_empty(len(inputs), fields, dim + 1)
        by_row[:, :, 0] = linear[:, None]
        by_factor = by_row[:, :, 1:]
        # The pairs' sum by one factor is the sum of all others.
        torch.sub(total[:, None, :], inputs[:, : fields * dim].view(-1, fields, dim), out=by_factor)
        by_factor.mul_(pairwise[:, None, None]).add_(by_input[:, : fields * dim].view(-1, fields, dim))
        return by_row, None


class DeepFM(RankingModel):
    """One logit per task: `bias + scale[0] * linear + scale[1] * pairwise + dense_linear . dense + network(e, dense)`.

    Linear and pairwise parts are shared between tasks but for their scale, so that one dot product retrieves for every
    task (see `retrieval`).
    """

    def __init__(self, settings: ModelSettings, tasks: int, fields: int, dense: int, seed: int = 0) -> None:
        super().__init__(DeepFMScorer.shapes_of(settings, tasks, fields, dense))
        self.network = Layers(self.shapes, seed)

    def forward(self, rows: Tensor, dense: Tensor) -> Tensor:
        linear, pairwise, inputs = Interactions.apply(rows, dense)
        hidden: Tensor = self.network(inputs)
        wide = self.bias + self.scale[:, 0] * linear[:, None] + self.scale[:, 1] * pairwise[:, None]
        logits: Tensor = wide + nn.functional.linear(dense, self.dense_linear) + hidden
        return logits

    def named(self) -> dict[str, nn.Parameter]:
        return super().named() | self.network.named()
