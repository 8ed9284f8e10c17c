"""Logistic regression in torch; see `scorers.logistic_regression` for the model."""

from torch import Tensor, nn

from online_learning.models.ranking import RankingModel
from online_learning.models.scorers.logistic_regression import LogisticRegressionScorer
from online_learning.settings import ModelSettings


class LogisticRegression(RankingModel):
    """One logit per task: `bias + scale * linear + dense_linear . dense`. Nothing is drawn: `seed` is not needed."""

    def __init__(self, settings: ModelSettings, tasks: int, fields: int, dense: int, seed: int = 0) -> None:
        super().__init__(LogisticRegressionScorer.shapes_of(settings, tasks, fields, dense))

    def forward(self, rows: Tensor, dense: Tensor) -> Tensor:
        linear = rows[:, :, 0].sum(dim=1)
        return self.bias + self.scale[:, 0] * linear[:, None] + nn.functional.linear(dense, self.dense_linear)
