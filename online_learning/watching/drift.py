"""Drift detection: does a learner's error, example by example, still come from where it came from?

ADWIN (Bifet and Gavalda 2007, from the library river) keeps a window of the newest log losses (of a value task: of
errors of its log) and cuts its older part off where the means of the two differ by more than chance explains. A cut
that leaves a higher error is an alarm; one that leaves a lower error is learning, and ends the alarm.

Beside all examples together, the first learner's are watched scene by scene: what goes wrong in one of many scenes is
hidden in their mean.
"""

import pickle
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from online_learning.watching.alarms import LOG_LOSS, Alarm, WatchState

LOG_ERROR: Final = "log error"
"""Of a value task: |log1p(prediction) - log1p(value)|, where being wrong by a factor is as wrong for large values."""
LOSS_CAP: Final = 4.0
"""Errors (nats) count at most this much: ADWIN's bound is one for values of a known range."""
DELTA: Final = 0.002
"""ADWIN's confidence: at most this share of its cuts of a stationary window is chance.

Measured on 40 streams of 20,000 losses that do not drift, independent or alike within groups of ten: no alarm.
"""
MAX_SCENES: Final = 32
"""Scenes watched per task. One more takes the place of the one unseen for longest, if that is unseen for long."""
SCENE_UNSEEN_EXAMPLES: Final = 20_000
"""So many examples of other scenes are long: scenes that take turns would otherwise drive each other out. What is gone
for so long ends its alarm, too: nobody is shown what went wrong any more."""
SCENE_DELTA: Final = DELTA / MAX_SCENES
"""So that all scenes together raise no more false alarms than one watch (Bonferroni)."""
QUIET_EXAMPLES: Final = 5_000
"""An alarm ends when the error falls, or when it has not risen any further over this many examples of its own; that of
a scene also after SCENE_UNSEEN_EXAMPLES of others."""
# Of a probability of 0 or 1; the cap is far nearer.
_LEAST: Final = 1e-7


class _Watch:
    """The detector and the alarm of one (learner, task, scene or all)."""

    __slots__ = ("alarm", "detector", "last_ms", "quiet", "seen")

    def __init__(self, delta: float) -> None:
        self.detector: Any = ADWIN(delta=delta)  # type: ignore[no-untyped-call]
        self.seen = 0
        self.alarm: Alarm | None = None
        self.quiet = 0
        self.last_ms: int = 0

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
    """Watches the error of every learner L on every task T, and the first one's by scene; says when it goes up."""

    def __init__(self, learners: Sequence[str], tasks: Sequence[str], values: Sequence[int] = ()) -> None:
        """`values`: the columns of the value tasks."""
        self.learners, self.tasks = tuple(learners), tuple(tasks)
        self._value_tasks = frozenset(tasks[column] for column in values)
        self._watches = {(learner, task): _Watch(DELTA) for learner in learners for task in tasks}
        self._scenes: dict[str, dict[str, _Watch]] = {task: {} for task in tasks}
        self._seen = dict.fromkeys(tasks, 0)
        self._begun: list[Alarm] = []

    def add(
        self,
        predictions: NDArray[np.float32],
        labels: NDArray[np.float32],
        now_ms: int,
        scenes: Sequence[str] | None = None,
    ) -> None:
        """Takes predictions f32 [B, L, T], labels f32 [B, T] (NaN: not now) and scenes [B] (None: they are not told
        apart) in order; `now_ms` dates alarms."""
        for t, task in enumerate(self.tasks):
            rows = np.flatnonzero(~np.isnan(labels[:, t]))
            if not len(rows):
                continue
            said, known = predictions[rows, :, t].astype(np.float64), labels[rows, t, None]
            losses = _log_errors(said, known) if task in self._value_tasks else _log_losses(said, known)
            losses = np.minimum(losses, LOSS_CAP) / LOSS_CAP
            for number, learner in enumerate(self.learners):
                self._look(self._watches[learner, task], losses[:, number].tolist(), learner, task, now_ms, None)
            if scenes is not None:
                self._look_by_scene(losses[:, 0].tolist(), [scenes[row] for row in rows.tolist()], task, now_ms)

    def take_begun(self) -> list[Alarm]:
        """The alarms that began since the last call."""
        begun, self._begun = self._begun, []
        return begun

    def standing(self) -> list[Alarm]:
        """The alarms that have not ended, by learner and task, then by scene."""
        by_scene = (watch for of_task in self._scenes.values() for watch in of_task.values())
        return [watch.alarm for watch in (*self._watches.values(), *by_scene) if watch.alarm is not None]

    def last_ms(self, learner: str, task: str) -> int:
        """When the newest alarm of a learner's task began, whatever the scene, 0 where there was none."""
        newest = self._watches[learner, task].last_ms
        if learner == self.learners[0]:
            newest = max([newest, *(watch.last_ms for watch in self._scenes[task].values())])
        return newest

    def state(self) -> list[WatchState]:
        """The state to keep."""
        all_together = [(*key, None, watch) for key, watch in self._watches.items()]
        by_scene = [
            (self.learners[0], task, scene, watch)
            for task, of_task in self._scenes.items()
            for scene, watch in of_task.items()
        ]
        return [
            WatchState(
                learner=learner,
                task=task,
                detector=pickle.dumps(watch.detector, protocol=5),
                alarm=watch.alarm,
                quiet=watch.quiet,
                last_ms=watch.last_ms,
                scene=scene,
                seen=watch.seen if scene is not None else self._seen[task],
            )
            for learner, task, scene, watch in (*all_together, *by_scene)
        ]

    def restore(self, states: Sequence[WatchState]) -> None:
        """Takes over a kept state; learners and tasks that are no longer there are left out."""
        self._begun = []
        for state in states:
            watch = self._watches.get((state.learner, state.task))
            if watch is None:
                continue
            if state.scene is None:
                self._seen[state.task] = state.seen
            elif state.learner == self.learners[0]:
                watch = self._scenes[state.task][state.scene] = _Watch(SCENE_DELTA)
            watch.detector = pickle.loads(state.detector)
            watch.alarm, watch.quiet, watch.last_ms, watch.seen = state.alarm, state.quiet, state.last_ms, state.seen

    # --- inner -----------------------------------------------------------------------------------------------------

    def _look(
        self, watch: _Watch, losses: Sequence[float], learner: str, task: str, now_ms: int, scene: str | None
    ) -> None:
        rise = watch.add(losses)
        if rise is not None:
            before, after = (LOSS_CAP * mean for mean in rise)
            error = LOG_ERROR if task in self._value_tasks else LOG_LOSS
            watch.alarm = Alarm(learner, task, now_ms, before, after, scene, error)
            watch.last_ms = now_ms
            self._begun.append(watch.alarm)

    def _look_by_scene(self, losses: list[float], scenes: list[str], task: str, now_ms: int) -> None:
        found: dict[str, list[float]] = {}
        for loss, scene in zip(losses, scenes, strict=True):
            found.setdefault(scene, []).append(loss)
        self._seen[task] += len(losses)
        for scene, of_scene in found.items():
            watch = self._scenes[task].get(scene) or self._new_scene(task, scene)
            if watch is not None:
                watch.seen = self._seen[task]
                self._look(watch, of_scene, self.learners[0], task, now_ms, scene)
        for watch in self._scenes[task].values():
            if self._seen[task] - watch.seen >= SCENE_UNSEEN_EXAMPLES:
                watch.alarm = None

    def _new_scene(self, task: str, scene: str) -> _Watch | None:
        """A watch for another scene; None where there is no room."""
        known = self._scenes[task]
        if len(known) >= MAX_SCENES:
            oldest = min(known, key=lambda name: known[name].seen)
            if self._seen[task] - known[oldest].seen < SCENE_UNSEEN_EXAMPLES:
                return None
            del known[oldest]
        watch = known[scene] = _Watch(SCENE_DELTA)
        return watch


def _log_losses(said: NDArray[np.float64], known: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of probabilities [B, L] and labels [B, 1]."""
    p = np.clip(said, _LEAST, 1 - _LEAST)
    return np.asarray(-np.log(np.where(known >= 0.5, p, 1 - p)))


def _log_errors(said: NDArray[np.float64], known: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of predictions [B, L] and values [B, 1]."""
    return np.asarray(np.abs(np.log1p(said) - np.log1p(known.astype(np.float64))))
