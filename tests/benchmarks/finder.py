"""Retrieval as serving does it, but from the trainer's own table."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from online_learning.learners import Learners
from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.retriever import new_retriever
from online_learning.settings import LearningSettings


class Finder:
    """Scores the items `names` by the retrieval of the settings."""

    def __init__(self, settings: LearningSettings, encoder: FieldEncoder, names: Sequence[str]) -> None:
        self._retriever = new_retriever(settings)
        self._items = self._retriever.side(encoder.encode_items(names))

    def scores(self, these: Learners, users: Sequence[Side]) -> NDArray[np.float32]:
        """f32 [B, N] of all items for the user and context fields of B users, one row each."""
        self._retriever.load(these.online.dense_parameters())
        items = self._retriever.item_vectors(self._pooled(these, self._items))
        queries = [self._retriever.query(self._pooled(these, self._retriever.side(user)), 0) for user in users]
        return np.stack(queries) @ items.T

    def _pooled(self, these: Learners, side: Side) -> NDArray[np.float32]:
        table = these.online.table
        return table.gather_pooled(table.find(side.keys), side.offsets, "mean").reshape(side.rows, side.fields, -1)
