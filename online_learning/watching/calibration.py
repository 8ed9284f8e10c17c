"""Calibration: does what is predicted happen as often as predicted, and are values as large as predicted?"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

HALF_LIFE: Final = 5_000
"""Predictions after which one counts half: recent enough to show a change, and 2.5% noise at a rate of 10%."""


class CalibrationState(msgspec.Struct, frozen=True):
    """Decayed sums per task: predictions per learner, and positives (of a value task the values)."""

    predicted: dict[str, dict[str, float]] = {}
    positives: dict[str, float] = {}


class Calibration:
    """Mean prediction over observed rate of every learner L on every task T, over about the last `HALF_LIFE`; of a
    value task (one in the columns `values`) mean prediction over mean value.

    A negative that was kept for others counts for all of them: predictions are of what is shown, not of what is kept.
    """

    def __init__(self, learners: Sequence[str], tasks: Sequence[str], values: Sequence[int] = ()) -> None:
        self._learners, self._tasks, self._values = tuple(learners), tuple(tasks), list(values)
        self._predicted = np.zeros((len(learners), len(tasks)))
        self._positives = np.zeros(len(tasks))

    def add(
        self,
        predictions: NDArray[np.float32],
        labels: NDArray[np.float32],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Counts predictions f32 [B, L, T] against labels f32 [B, T] (NaN: not now).

        `weights` f32 [B, T]: for how many examples each stands (None: for itself); a value stands for itself.
        """
        known = ~np.isnan(labels)
        each = np.ones(labels.shape) if weights is None else weights.astype(np.float64)
        decay = 0.5 ** (known.sum(axis=0) / HALF_LIFE)
        said = np.where(known[:, None], predictions * each[:, None], 0.0).sum(axis=0)
        self._predicted = self._predicted * decay + said
        happened = np.where(known & (labels >= 0.5), each, 0.0).sum(axis=0)
        happened[self._values] = np.nansum(labels[:, self._values], axis=0, dtype=np.float64)
        self._positives = self._positives * decay + happened

    def ratios(self) -> dict[tuple[str, str], float]:
        """Mean prediction over observed rate or mean value by (learner, task), 1 is calibrated; without positives there
        is none."""
        return {
            (learner, task): float(self._predicted[number, t] / self._positives[t])
            for t, task in enumerate(self._tasks)
            for number, learner in enumerate(self._learners)
            if self._positives[t] > 0
        }

    def state(self) -> CalibrationState:
        """The state to keep."""
        return CalibrationState(
            predicted={
                task: dict(zip(self._learners, self._predicted[:, t].tolist(), strict=True))
                for t, task in enumerate(self._tasks)
            },
            positives=dict(zip(self._tasks, self._positives.tolist(), strict=True)),
        )

    def restore(self, state: CalibrationState) -> None:
        """Takes over a kept state; a task whose learners are not all in it begins anew."""
        for t, task in enumerate(self._tasks):
            sums = state.predicted.get(task, {})
            if all(learner in sums for learner in self._learners):
                self._predicted[:, t] = [sums[learner] for learner in self._learners]
                self._positives[t] = state.positives.get(task, 0.0)
