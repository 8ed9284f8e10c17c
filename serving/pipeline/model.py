"""The online model at serving time: rows from shared memory, dense parameters from the newest bundle, numpy between."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from features.online import UserRow
from online_learning.models.dense_features import dense_features, item_features, raw_user, user_features
from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.parameters import ShapeMismatch
from online_learning.models.registry import new_scorer
from online_learning.models.retriever import new_retriever, of_ranking
from online_learning.models.values import value_columns
from online_learning.settings import LearningSettings
from online_learning.table.rows import gather_pooled_range
from serving.pipeline.request import Request
from serving.shared.dense_bundle import DenseBundle
from serving.shared.mirror import Mirror

_UNPUBLISHED = "no dense parameters have been published yet"


class UserSide(Struct, frozen=True):
    """A user in a request, as the model sees it: keys (one row), their pooled rows f32[1, Fu, 1 + dim], and the dense
    features f32[1, 9]."""

    keys: Side
    rows: NDArray[np.float32]
    dense: NDArray[np.float32]


class OnlineModel:
    """Predicts items for users with the newest rows and dense parameters that the mirror has; `values` are the columns
    of the value tasks."""

    def __init__(self, settings: LearningSettings, mirror: Mirror, position: int) -> None:
        self._mirror = mirror
        self._encoder = FieldEncoder(settings.model, lambda item: mirror.catalogue.item(item))
        self.values = value_columns(settings.tasks)
        self._scorer = new_scorer(settings.model, len(settings.tasks), self.values)
        self._retriever = new_retriever(settings)
        self._tasks = {task.name: column for column, task in enumerate(settings.tasks)}
        self._width = 1 + settings.model.dim
        self._position = position
        self._bundle = DenseBundle()
        self._missing = _UNPUBLISHED

    @property
    def version(self) -> int:
        """The sequence of the dense bundle that scores."""
        return self._bundle.version

    def task(self, name: str) -> int:
        """The column of a task; raises KeyError."""
        return self._tasks[name]

    def refresh(self) -> str:
        """Takes over the newest dense bundle; why the model cannot score, or "" where it can."""
        bundle = self._mirror.dense()
        if bundle is not self._bundle:
            self._bundle, self._missing = bundle, self._take(bundle)
        if not self._mirror.ready:
            return "the replica has published no rows yet"
        return self._missing

    def user(self, request: Request, row: UserRow | None) -> UserSide:
        """What the model knows of the user and the request's context."""
        stats = row.stats.values if row is not None and row.stats is not None else None
        recent = (stats or {}).get("recent_items") or []
        attributes = row.attributes if row is not None else None
        side = self._encoder.encode_user(request.user, attributes, recent, request.context.scene, request.features)
        dense = user_features(np.array([raw_user(stats)]), float(request.ts))
        return UserSide(keys=side, rows=self._rows(side), dense=dense)

    def query(self, user: UserSide, task: int) -> NDArray[np.float32]:
        """The user's vector f32[W] to be multiplied with the items' retrieval vectors."""
        side = self._retriever.side(user.keys)
        return self._retriever.query(user.rows if side is user.keys else self._rows(side), task)

    def predict(self, user: UserSide, items: Side, stats: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predictions f32[C, T] for the items' keys (C rows) with their stats of now, f32[C, 6]: probabilities, and of
        value tasks values in their units."""
        if not items.rows:
            return np.empty((0, len(self._tasks)), dtype=np.float32)
        positions, matches = np.full(items.rows, self._position), self._encoder.matches(user.keys, items)
        dense = dense_features(user.dense, item_features(stats), positions, matches)
        return self._scorer.score_request(user.rows, self._rows(items), dense)

    def _take(self, bundle: DenseBundle) -> str:
        if not bundle.parameters:
            return _UNPUBLISHED
        try:
            self._scorer.load(of_ranking(bundle.parameters))
            self._retriever.load(bundle.parameters)
        except ShapeMismatch as error:
            # A trainer with other settings, or of another version: whoever restarts it ends this.
            return f"the published parameters are of another model: {error}"
        return ""

    def _rows(self, side: Side) -> NDArray[np.float32]:
        """Pooled rows f32[rows, fields, 1 + dim]: the means of those keys that have a row, as in training."""
        found, there = self._mirror.table.lookup(side.keys)
        slots = np.where(there, np.arange(len(there)), -1)
        pooled = np.empty((side.rows, side.fields, self._width), dtype=np.float32)
        bags = side.rows * side.fields
        gather_pooled_range(found.reshape(-1), self._width, slots, side.offsets, True, pooled.reshape(-1), 0, bags)
        return pooled
