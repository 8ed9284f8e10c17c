"""DeepFM in torch; see `scorers.deepfm` for the model."""

from torch import Tensor, nn

from online_learning.models.networks.interactions import Interactions
from online_learning.models.ranking import Layers, RankingModel
from online_learning.models.scorers.deepfm import DeepFMScorer
from online_learning.settings import ModelSettings


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
