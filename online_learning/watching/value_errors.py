"""How wrong predictions of a value are: sums that merge, and what they come to."""

import math
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

NEWEST: Final = 500
"""Few enough to say how it is of late, enough that a few large values do not decide."""


class ValueErrors(msgspec.Struct, frozen=True):
    """Sums over `n` predictions of a value, in its units (and their squares); those of several windows add up.

    `reference`: the squared errors that the running mean of all values before each would have made. It knows a little
    more than who predicted at first sight: what was told between that and the label.
    """

    n: int = 0
    labels: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    reference: float = 0.0

    @classmethod
    def of(
        cls, predictions: NDArray[np.float64], labels: NDArray[np.float64], running_means: NDArray[np.float64]
    ) -> Self:
        """Of predictions, labels and what the running mean was before each, all [B]."""
        errors = predictions - labels
        return cls(
            n=len(labels),
            labels=float(labels.sum()),
            absolute=float(np.abs(errors).sum()),
            squared=float(errors @ errors),
            reference=float(((running_means - labels) ** 2).sum()),
        )

    def __add__(self, other: "ValueErrors") -> "ValueErrors":
        return ValueErrors(
            self.n + other.n,
            self.labels + other.labels,
            self.absolute + other.absolute,
            self.squared + other.squared,
            self.reference + other.reference,
        )

    @property
    def mae(self) -> float:
        """The mean absolute error; NaN without predictions."""
        return self.absolute / self.n if self.n else math.nan

    @property
    def rmse(self) -> float:
        """The root of the mean squared error; NaN without predictions."""
        return math.sqrt(self.squared / self.n) if self.n else math.nan

    @property
    def r2(self) -> float:
        """The share of the running mean's squared error that is gone: 1 is perfect, 0 as good as that mean, below 0
        worse; NaN where the mean is never wrong."""
        return 1.0 - self.squared / self.reference if self.reference > 0 else math.nan


class NewestErrors(msgspec.Struct):
    """The errors of the newest predictions: at least `NEWEST` of them, where there are so many, and up to twice."""

    older: ValueErrors = ValueErrors()
    newer: ValueErrors = ValueErrors()

    def add(self, errors: ValueErrors) -> None:
        """Takes the errors of a batch."""
        self.newer += errors
        if self.newer.n >= NEWEST:
            self.older, self.newer = self.newer, ValueErrors()

    @property
    def sum(self) -> ValueErrors:
        """All of them."""
        return self.older + self.newer


def running_means(labels: NDArray[np.float64], before: ValueErrors) -> NDArray[np.float64]:
    """The mean of all labels before each of `labels` [B], those of `before` included; 0 where there are none."""
    counts = before.n + np.arange(len(labels))
    sums = before.labels + np.concatenate([[0.0], np.cumsum(labels)[:-1]])
    return np.asarray(sums / np.maximum(counts, 1))
