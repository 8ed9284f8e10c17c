"""How the nearest items are found, by the name that the settings give: vectors, and dot products between them.

Only numpy: serving and the replica use it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from online_learning.models.fields import Side
from online_learning.models.parameters import Parameters, Shapes
from online_learning.models.registry import new_scorer, scorer_shapes
from online_learning.models.scorers.two_tower import PREFIX, TwoTowerScorer, tower_keys, tower_shapes, tower_side
from online_learning.models.values import value_columns
from online_learning.settings import LearningSettings


class Retriever(ABC):
    """Vectors from rows that were looked up elsewhere.

    `width`: W, columns of a vector. `layered`: whether an item's vector holds dense parameters too, and so changes when
    they do.
    """

    width: int
    layered: bool

    @abstractmethod
    def keys(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The keys u64 [n] whose rows are read for those of the ranking model."""

    @abstractmethod
    def side(self, side: Side) -> Side:
        """The same of a whole side; the same object where the keys are the ranking model's own."""

    @abstractmethod
    def load(self, parameters: Parameters) -> None:
        """Takes over what it needs of a dense bundle (not copied); raises ShapeMismatch."""

    @abstractmethod
    def item_vectors(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors f32 [n, W] of pooled item rows f32 [n, Fi, 1 + dim]."""

    @abstractmethod
    def query(self, rows: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        """The vector f32 [W] of pooled user rows f32 [1, Fu, 1 + dim]; `task` is the column of the task that ranks."""


class RankingRetriever(Retriever):
    """What the ranking model itself knows in the form of a dot product."""

    layered = False

    def __init__(self, settings: LearningSettings) -> None:
        self._scorer = new_scorer(settings.model, len(settings.tasks), value_columns(settings.tasks))
        self.width = self._scorer.retrieval_width(settings.model)

    def keys(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return keys

    def side(self, side: Side) -> Side:
        return side

    def load(self, parameters: Parameters) -> None:
        self._scorer.load(of_ranking(parameters))

    def item_vectors(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._scorer.item_vectors(rows)

    def query(self, rows: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        return self._scorer.query(rows, task)


class TwoTowerRetriever(Retriever):
    """Towers with rows of their own; they retrieve alike for every task."""

    def __init__(self, settings: LearningSettings) -> None:
        self._scorer = TwoTowerScorer(settings)
        self.width = 1 + settings.model.dim
        self.layered = bool(self._scorer.shapes)

    def keys(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return tower_keys(keys)

    def side(self, side: Side) -> Side:
        return tower_side(side)

    def load(self, parameters: Parameters) -> None:
        self._scorer.load(of_retrieval(parameters))

    def item_vectors(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._scorer.item_vectors(rows)

    def query(self, rows: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        return self._scorer.query(rows)


def new_retriever(settings: LearningSettings) -> Retriever:
    """The retriever of the settings, all its dense parameters 0 until it is given some."""
    return TwoTowerRetriever(settings) if settings.retrieval.name == "two_tower" else RankingRetriever(settings)


def dense_shapes(settings: LearningSettings) -> Shapes:
    """The shape of every dense parameter of the settings' models by the name under which it travels."""
    towers = tower_shapes(settings) if settings.retrieval.name == "two_tower" else {}
    ranking = scorer_shapes(settings.model, len(settings.tasks), value_columns(settings.tasks))
    return {**ranking, **{f"{PREFIX}{name}": shape for name, shape in towers.items()}}


def of_ranking(parameters: Parameters) -> dict[str, NDArray[np.float32]]:
    """The ranking model's own among all dense parameters of a bundle or checkpoint."""
    return {name: value for name, value in parameters.items() if not name.startswith(PREFIX)}


def of_retrieval(parameters: Parameters) -> dict[str, NDArray[np.float32]]:
    """The towers' own among all dense parameters, under their names in `tower_shapes`."""
    return {name.removeprefix(PREFIX): value for name, value in parameters.items() if name.startswith(PREFIX)}


def together(ranking: Mapping[str, NDArray[np.float32]], retrieval: Mapping[str, NDArray[np.float32]]) -> Parameters:
    """All dense parameters as they travel together."""
    return {**ranking, **{f"{PREFIX}{name}": value for name, value in retrieval.items()}}
