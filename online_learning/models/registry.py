"""The models by the name that the settings give: what learns (torch) and what serves (numpy)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from online_learning.models.parameters import Shapes
from online_learning.models.scorer import Scorer
from online_learning.models.scorers.dcn_v2 import DCNV2Scorer
from online_learning.models.scorers.deepfm import DeepFMScorer
from online_learning.models.scorers.logistic_regression import LogisticRegressionScorer
from online_learning.settings import ModelName, ModelSettings

if TYPE_CHECKING:
    from online_learning.models.ranking import RankingModel

SCORERS: Final[Mapping[ModelName, type[Scorer]]] = {
    "deepfm": DeepFMScorer,
    "logistic_regression": LogisticRegressionScorer,
    "dcn_v2": DCNV2Scorer,
}


def new_scorer(settings: ModelSettings, tasks: int, values: Sequence[int] = ()) -> Scorer:
    """The numpy scorer of the settings' model for T tasks, all parameters 0 until it is given some; `values`: the
    columns of the value tasks."""
    return SCORERS[settings.name](settings, tasks, values)


def scorer_shapes(settings: ModelSettings, tasks: int, values: Sequence[int] = ()) -> Shapes:
    """The shape of each dense parameter of the settings' model by name; makes none of them, however large."""
    return SCORERS[settings.name].all_shapes(settings, tasks, values)


def new_network(settings: ModelSettings, tasks: int, fields: int, dense: int, seed: int = 0) -> "RankingModel":
    """The torch module of the settings' model for T tasks, F fields and D dense features, drawn from `seed`."""
    # Serving imports this file too, and must not wait and pay for torch.
    from online_learning.models.networks.dcn_v2 import DCNV2
    from online_learning.models.networks.deepfm import DeepFM
    from online_learning.models.networks.logistic_regression import LogisticRegression

    networks: Mapping[ModelName, type[DeepFM | LogisticRegression | DCNV2]] = {
        "deepfm": DeepFM,
        "logistic_regression": LogisticRegression,
        "dcn_v2": DCNV2,
    }
    return networks[settings.name](settings, tasks, fields, dense, seed)
