"""A ranking model's forward pass in numpy: what serving and progressive validation use.

numpy needs no 7 s import and no half a gigabyte in each serving process, and for the 200 candidates of a request its
forward pass is as quick as torch's. It equals the network that learns within 1e-6 (tested).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from online_learning.models.dense_features import dense_names
from online_learning.models.fields import FieldEncoder
from online_learning.models.parameters import Parameters, Shapes, check
from online_learning.models.values import VALUES, values_of
from online_learning.settings import ModelSettings


class Scorer(ABC):
    """Predictions of every task for rows that were looked up elsewhere; each model has its own (`registry`).

    A prediction is a probability, and of a value task (whose columns are `values`) in the value's units.
    """

    def __init__(self, settings: ModelSettings, tasks: int, values: Sequence[int] = ()) -> None:
        encoder = FieldEncoder(settings)
        self.dim = settings.dim
        self.shapes = self.all_shapes(settings, tasks, values)
        self._values = list(values)
        self._user_fields = len(encoder.user_fields)
        self._parameters: Parameters = {}
        self._layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self.load({name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()})

    @classmethod
    def all_shapes(cls, settings: ModelSettings, tasks: int, values: Sequence[int] = ()) -> Shapes:
        """Name -> shape of all dense parameters for T tasks, those of the value tasks' units among them."""
        shapes = cls.shapes_of(settings, tasks, FieldEncoder(settings).fields, len(dense_names(settings)))
        return {**shapes, VALUES: (len(values), 2)} if values else shapes

    @staticmethod
    @abstractmethod
    def shapes_of(settings: ModelSettings, tasks: int, fields: int, dense: int) -> Shapes:
        """Name -> shape of the dense parameters for T tasks, F fields of the settings' dim and D dense features."""

    @staticmethod
    @abstractmethod
    def retrieval_width(settings: ModelSettings) -> int:
        """W, the columns of a retrieval vector."""

    @staticmethod
    @abstractmethod
    def item_vectors(item_rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Retrieval vectors f32 [n, W] of pooled item rows f32 [n, Fi, 1 + dim].

        They hold no dense parameter, so that an item's vector changes only when a row of the item changes.
        """

    @abstractmethod
    def query(self, user_rows: NDArray[np.float32], task: int) -> NDArray[np.float32]:
        """The vector f32 [W] whose dot product with an item's vector retrieves for the task; user rows
        f32 [1, Fu, 1 + dim]."""

    @abstractmethod
    def logits(self, rows: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's outputs f32 [B, T], logits but for value tasks; arguments as `score`."""

    def load(self, parameters: Parameters) -> None:
        """Takes over dense parameters by name (they are not copied); raises ShapeMismatch."""
        check(parameters, self.shapes)
        self._layers = weights_and_biases(parameters, "layer")
        self._parameters = parameters

    def score(self, rows: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predictions f32 [B, T] of pooled rows f32 [B, F, 1 + dim] (user, context, then item fields) and dense
        features f32 [B, D]."""
        logits = self.logits(rows, dense)
        said = _sigmoid(logits)
        if self._values:
            said[:, self._values] = values_of(logits[:, self._values], self._parameters[VALUES])
        return said

    def score_request(
        self, user_rows: NDArray[np.float32], item_rows: NDArray[np.float32], dense: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Predictions f32 [n, T] of n items for one user: user rows f32 [1, Fu, 1 + dim], item rows
        f32 [n, Fi, 1 + dim], dense f32 [n, D]."""
        users = np.broadcast_to(
            user_rows.reshape(1, -1, self.dim + 1), (len(item_rows), self._user_fields, self.dim + 1)
        )
        return self.score(np.concatenate([users, item_rows], axis=1), dense)

    def _network(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """The layers' outputs f32 [B, T] of inputs f32 [B, n]."""
        return network(self._layers, hidden)


def network(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], hidden: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The last layer's outputs f32 [B, out] of inputs f32 [B, n]; layers are (weight, bias), ReLU between them."""
    for number, (weight, bias) in enumerate(layers):
        hidden = hidden @ weight.T + bias
        if number + 1 < len(layers):
            np.maximum(hidden, 0.0, out=hidden)
    return hidden


def weights_and_biases(parameters: Parameters, kind: str) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weight and bias of `KIND.0`, `KIND.1`, ..."""
    count = sum(name.startswith(f"{kind}.") and name.endswith(".weight") for name in parameters)
    return [(parameters[f"{kind}.{k}.weight"], parameters[f"{kind}.{k}.bias"]) for k in range(count)]


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp never overflows: its argument is never above 0."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), dtype=np.float32)
