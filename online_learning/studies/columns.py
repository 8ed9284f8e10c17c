"""Tables of ids as batches for the learner: each column is a field of the model, each value a key of its own."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.batches import Batch
from online_learning.models.dense_features import dense_names
from online_learning.models.fields import Side
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings, TrainerSettings
from online_learning.table.keys import RESERVED_KEY, hash_keys
from streams.settings import TaskSettings

Keys = NDArray[np.uint64]


def keys_of(field: str, ids: NDArray[Any]) -> Keys:
    """The keys u64 [n] of a field's ids [n], as the live model makes them; an id below 0 is missing and has none."""
    distinct, place = np.unique(ids, return_inverse=True)
    keys = hash_keys(field, map(str, distinct.tolist()))
    keys[distinct < 0] = RESERVED_KEY
    return keys[place]


class Columns:
    """Keys u64 [n, F] of n rows over F fields; the reserved key means that the field is missing in that row."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._spaces = np.arange(1, keys.shape[1] + 1).astype(np.uint16)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: NDArray[np.integer] | slice) -> "Columns":
        """The rows at `rows`, in that order."""
        return Columns(self.keys[rows])

    def batch(self, start: int, stop: int, dense: int) -> Batch:
        """The rows from `start` to `stop` with `dense` dense features that are all 0."""
        keys = self.keys[start:stop]
        rows, fields = keys.shape
        there = keys != RESERVED_KEY
        offsets = np.zeros(rows * fields + 1, np.int64)
        np.cumsum(there.ravel(), out=offsets[1:])
        spaces = np.broadcast_to(self._spaces, keys.shape)
        side = Side(keys[there], spaces[there], offsets, rows, fields)
        return Batch(side, np.zeros((rows, dense), np.float32), [""] * rows)


def settings_of(
    fields: Sequence[str], model: ModelSettings, *, sparse_learning_rate: float, seed: int
) -> LearningSettings:
    """The live learner's settings for one task over columns of these names."""
    named = tuple(FieldSettings(name=name, side="context", source="context", attribute=name) for name in fields)
    return LearningSettings(
        tasks=(TaskSettings(name="click"),),
        model=msgspec.structs.replace(model, fields=named),
        trainer=TrainerSettings(seed=seed),
        sparse_learning_rate=sparse_learning_rate,
    )


def dense_width(settings: LearningSettings) -> int:
    """D, the dense features that the model of the settings takes."""
    return len(dense_names(settings.model))
