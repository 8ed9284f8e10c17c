"""Drift detection: does a learner's error, example by example, still come from where it came from?

ADWIN (Bifet and Gavalda 2007, from the library river) keeps a window of the newest log losses and cuts its older part
off where the means of the two differ by more than chance explains. A cut that leaves a higher error is an alarm; one
that leaves a lower error is learning, and ends the alarm.
"""

import pickle
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

LOSS_CAP: Final = 4.0
"""Log losses (nats) count at most this much: ADWIN's bound is one for values of a known range."""
DELTA: Final = 0.002
"""ADWIN's confidence: at most this share of its cuts of a stationary window is chance.

Measured on 40 streams of 20,000 losses that do not drift, independent or alike within groups of ten: no alarm.
"""
QUIET_EXAMPLES: Final = 5_000
"""An alarm ends when the error falls, or when it has not risen any further over this many examples."""
# Of a probability of 0 or 1; the cap is far nearer.
_LEAST: Final = 1e-7


class Alarm(msgspec.Struct, frozen=True):
    """A learner's error of a task went up: mean (capped) log loss before and after, in nats; `at_ms` as handed in."""

    learner: str
    task: str
    at_ms: int
    before: float
    after: float


class WatchState(msgspec.Struct, frozen=True):
    """What is kept of one (learner, task): the pickled detector, the alarm that stands, examples since its last rise.

    `last_ms` is when the newest alarm began, 0 before the first.
    """

    learner: str
    task: str
    detector: bytes
    alarm: Alarm | None
    quiet: int
    last_ms: int


class _Watch:
    """The detector and the alarm of one (learner, task)."""

    __slots__ = ("alarm", "detector", "last_ms", "quiet")

    def __init__(self) -> None:
        self.detector: Any = ADWIN(delta=DELTA)  # type: ignore[no-untyped-call]
        self.alarm: Alarm | None = None
        self.quiet = 0
        self.last_ms = 0

    def add(self, losses: Sequence[float]) -> tuple[float, float] | None:
        """Takes losses in [0, 1] in order; the mean before and after the newest rise that begins an alarm, if any."""
        began: tuple[float, float] | None = None
        detector = self.detector
        for loss in losses:
            before = detector.estimation
            detector.update(loss)
            self.quiet += 1
            if not detector.drift_detected:
                continue
            after = detector.estimation
            if after <= before:
                self.alarm, began = None, None
                continue
            self.quiet = 0
            if self.alarm is None and began is None:
                began = before, after
        if self.quiet >= QUIET_EXAMPLES:
            self.alarm = None
        return began


class Drift:
    """Watches the error of every learner L on every task T, and says when it goes up."""

    def __init__(self, learners: Sequence[str], tasks: Sequence[str]) -> None:
        self.learners, self.tasks = tuple(learners), tuple(tasks)
        self._watches = {(learner, task): _Watch() for learner in learners for task in tasks}
        self._begun: list[Alarm] = []

    def add(self, probabilities: NDArray[np.float32], labels: NDArray[np.float32], now_ms: int) -> None:
        """Takes predictions f32 [B, L, T] and labels f32 [B, T] (NaN: not now) in order; `now_ms` dates alarms."""
        for t, task in enumerate(self.tasks):
            rows = np.flatnonzero(~np.isnan(labels[:, t]))
            if not len(rows):
                continue
            positive = labels[rows, t] >= 0.5
            p = np.clip(probabilities[rows, :, t].astype(np.float64), _LEAST, 1 - _LEAST)
            losses = np.minimum(-np.log(np.where(positive[:, None], p, 1 - p)), LOSS_CAP) / LOSS_CAP
            for number, learner in enumerate(self.learners):
                watch = self._watches[learner, task]
                rise = watch.add(losses[:, number].tolist())
                if rise is not None:
                    before, after = (LOSS_CAP * mean for mean in rise)
                    watch.alarm = Alarm(learner, task, now_ms, before, after)
                    watch.last_ms = now_ms
                    self._begun.append(watch.alarm)

    def take_begun(self) -> list[Alarm]:
        """The alarms that began since the last call."""
        begun, self._begun = self._begun, []
        return begun

    def standing(self) -> list[Alarm]:
        """The alarms that have not ended, by learner and task."""
        return [watch.alarm for watch in self._watches.values() if watch.alarm is not None]

    def last_ms(self, learner: str, task: str) -> int:
        """When the newest alarm of a learner's task began, 0 where there was none."""
        return self._watches[learner, task].last_ms

    def state(self) -> list[WatchState]:
        """The state to keep."""
        return [
            WatchState(*key, pickle.dumps(watch.detector, protocol=5), watch.alarm, watch.quiet, watch.last_ms)
            for key, watch in self._watches.items()
        ]

    def restore(self, states: Sequence[WatchState]) -> None:
        """Takes over a kept state; learners and tasks that are no longer there are left out."""
        self._begun = []
        for state in states:
            watch = self._watches.get((state.learner, state.task))
            if watch is not None:
                watch.detector = pickle.loads(state.detector)
                watch.alarm, watch.quiet, watch.last_ms = state.alarm, state.quiet, state.last_ms
