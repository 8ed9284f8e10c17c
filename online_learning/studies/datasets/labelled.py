"""Rows of ids with a label each: what the studies of binary tasks learn from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.columns import Columns, keys_of


class Labelled:
    """n rows: ids i64 [n] by field (below 0: missing) and labels f32 [n] of 0 and 1."""

    def __init__(self, ids: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> None:
        self.ids = {name: np.asarray(column, dtype=np.int64) for name, column in ids.items()}
        self.labels = np.asarray(labels, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.ids)

    def take(self, rows: NDArray[np.integer] | slice) -> "Labelled":
        """The rows at `rows`, in that order."""
        return Labelled({name: column[rows] for name, column in self.ids.items()}, self.labels[rows])

    def with_field(self, name: str, ids: NDArray[Any]) -> "Labelled":
        """The same rows with one field more, or another instead of the one of that name."""
        return Labelled({**self.ids, name: ids}, self.labels)

    def columns(self) -> Columns:
        """The rows as keys, field by field."""
        return Columns(np.stack([keys_of(name, column) for name, column in self.ids.items()], axis=1))
