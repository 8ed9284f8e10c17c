"""Progressive validation: every learner predicts before it learns, and windows of the results merge with others.

Predictions are counted in bins of their logit per class, so that the area under the ROC curve can be had over any set
of windows by adding their bins. Of value tasks the errors are summed (`value_errors`). Blum, Kalai and Langford 1999
call it progressive validation; Gama et al. 2013 argue for it on streams (prequential evaluation).

Where only a share of the negatives is kept, each counts in the sums for those that were not. Bins count what came: the
area does not change where all negatives weigh the same.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.watching.value_errors import NewestErrors, ValueErrors, running_means
from streams.records import Validation
from streams.settings import Target

BINS: Final = 128
LOGIT_RANGE: Final = 8.0
"""Bins divide logits [-8, 8] evenly; what lies outside is counted in the first and last bin.

A bin is 0.125 wide. Two predictions in one bin count as tied; on ml-100k that moves the AUC by less than 0.0005.
"""
MAX_SCENES: Final = 125
"""Scenes with windows of their own: scenes are free text of whoever sends events."""
OTHER_SCENES: Final = "(other scenes)"
"""Under this name all further scenes are counted."""
# A probability of 0 or 1 would make one wrong answer infinitely bad.
_LEAST: Final = 1e-7


def logit_bins(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin in [0, BINS) of each probability."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), _LEAST, 1 - _LEAST)
    scaled = (np.log(p / (1 - p)) + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))
    return np.clip(scaled.astype(np.int64), 0, BINS - 1)


def auc(positives: Sequence[int] | NDArray[np.integer], negatives: Sequence[int] | NDArray[np.integer]) -> float:
    """Area under the ROC curve of two histograms over the same bins, ties counted half; NaN without both classes."""
    pos, neg = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    pairs = pos.sum() * neg.sum()
    if pairs == 0:
        return math.nan
    below = np.cumsum(neg) - neg
    return float((pos * (below + neg / 2)).sum() / pairs)


class Tally(msgspec.Struct):
    """The open window of one (learner, task, scene), and the window's number since the start of the log.

    `n` predictions stand for `weight_sum`; `log_loss_sum` and `prediction_sum` are weighted.
    """

    window: int = 0
    n: int = 0
    positives: int = 0
    weight_sum: float = 0.0
    log_loss_sum: float = 0.0
    prediction_sum: float = 0.0
    first_ts: int = 0
    last_ts: int = 0
    changed: bool = False
    bins_positive: list[int] = msgspec.field(default_factory=lambda: [0] * BINS)
    bins_negative: list[int] = msgspec.field(default_factory=lambda: [0] * BINS)
    errors: ValueErrors = ValueErrors()

    def add(self, hits: "Hits") -> None:
        """Counts predictions and their labels."""
        self.first_ts = hits.first_ts if self.n == 0 else min(self.first_ts, hits.first_ts)
        self.last_ts = hits.last_ts if self.n == 0 else max(self.last_ts, hits.last_ts)
        self.n += len(hits.positive) + len(hits.negative) + hits.errors.n
        self.changed = True
        self.positives += len(hits.positive)
        self.weight_sum += hits.weight_sum
        self.prediction_sum += hits.prediction_sum
        self.log_loss_sum += hits.log_loss_sum
        self.errors += hits.errors
        for where in hits.positive:
            self.bins_positive[where] += 1
        for where in hits.negative:
            self.bins_negative[where] += 1


class Hits(NamedTuple):
    """Predictions of one learner and task: the bins of those labelled 1 and of those labelled 0, and their weighted
    sums; of a value task the errors instead."""

    positive: list[int]
    negative: list[int]
    weight_sum: float
    prediction_sum: float
    log_loss_sum: float
    first_ts: int
    last_ts: int
    errors: ValueErrors = ValueErrors()


class _Scored(NamedTuple):
    """Predictions of B examples by L learners for one task, as windows count them: all of them at once, because most
    windows get but a few examples of a batch. said, losses (both weighted), bins: [B, L]; positive, weights, times_ms:
    [B]."""

    said: NDArray[np.float64]
    bins: NDArray[np.int64]
    losses: NDArray[np.float64]
    positive: NDArray[np.bool_]
    weights: NDArray[np.float64]
    times_ms: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.floating],
        positive: NDArray[np.bool_],
        weights: NDArray[np.float64],
        times_ms: NDArray[np.int64],
    ) -> Self:
        """Of predictions [B, L]; whether each label is 1, the examples' weights and their times, all [B]."""
        p = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST)
        losses = -np.log(np.where(positive[:, None], p, 1 - p))
        by_row = weights[:, None]
        return cls(p * by_row, logit_bins(p), losses * by_row, positive, weights, times_ms)

    def take(self, rows: NDArray[np.intp] | slice) -> "_Scored":
        """The examples at `rows`."""
        return _Scored(
            self.said[rows],
            self.bins[rows],
            self.losses[rows],
            self.positive[rows],
            self.weights[rows],
            self.times_ms[rows],
        )

    def hits(self, number: int) -> Hits:
        """Of one learner; there must be an example."""
        bins = self.bins[:, number]
        return Hits(
            positive=bins[self.positive].tolist(),
            negative=bins[~self.positive].tolist(),
            weight_sum=float(self.weights.sum()),
            prediction_sum=float(self.said[:, number].sum()),
            log_loss_sum=float(self.losses[:, number].sum()),
            first_ts=int(self.times_ms.min()),
            last_ts=int(self.times_ms.max()),
        )


class _ScoredValues(NamedTuple):
    """The same of a value task. said: [B, L]; labels, means (running, before each) and times_ms: [B]."""

    said: NDArray[np.float64]
    labels: NDArray[np.float64]
    means: NDArray[np.float64]
    times_ms: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp] | slice) -> "_ScoredValues":
        """The examples at `rows`."""
        return _ScoredValues(self.said[rows], self.labels[rows], self.means[rows], self.times_ms[rows])

    def hits(self, number: int) -> Hits:
        """Of one learner; there must be an example."""
        return Hits(
            positive=[],
            negative=[],
            weight_sum=float(len(self.labels)),
            prediction_sum=float(self.said[:, number].sum()),
            log_loss_sum=0.0,
            first_ts=int(self.times_ms.min()),
            last_ts=int(self.times_ms.max()),
            errors=ValueErrors.of(self.said[:, number], self.labels, self.means),
        )


class ProgressiveState(msgspec.Struct):
    """What a checkpoint keeps: the open windows, the sums since the start of the log, and values' newest errors."""

    tallies: list[tuple[str, str, str, Tally]] = []
    totals: list[tuple[str, str, Tally]] = []
    newest: list[tuple[str, str, NewestErrors]] = []


class Progressive:
    """Open windows per (learner, task, scene) of `window` predictions each, and totals per (learner, task).

    The first `MAX_SCENES` scenes are told apart. `values`: the columns of the value tasks.
    """

    def __init__(
        self,
        learners: Sequence[str],
        tasks: Sequence[str],
        window: int,
        process: str = "trainer",
        values: Sequence[int] = (),
    ) -> None:
        self.learners, self.tasks = tuple(learners), tuple(tasks)
        self._value_tasks = frozenset(tasks[column] for column in values)
        self._window, self._process = window, process
        self._open: dict[tuple[str, str, str], Tally] = {}
        self._scenes: set[str] = set()
        self._totals = {(learner, task): Tally() for learner in learners for task in tasks}
        self._newest = {(learner, tasks[column]): NewestErrors() for learner in learners for column in values}
        self._closed: list[tuple[tuple[str, str, str], Tally]] = []

    def add(
        self,
        predictions: NDArray[np.float32],
        labels: NDArray[np.float32],
        times_ms: Sequence[int],
        scenes: Sequence[str],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Counts predictions f32 [B, L, T] against labels f32 [B, T] (NaN: not now).

        `weights` f32 [B, T]: for how many examples each stands (None: for itself); a value stands for itself.
        """
        times = np.asarray(times_ms, dtype=np.int64)
        each = np.ones(labels.shape) if weights is None else weights.astype(np.float64)
        told_apart = [self._told_apart(scene) for scene in scenes]
        for t, task in enumerate(self.tasks):
            rows = np.flatnonzero(~np.isnan(labels[:, t]))
            if not len(rows):
                continue
            scored = self._scored(task, predictions[rows, :, t], labels[rows, t], each[rows, t], times[rows])
            for number, learner in enumerate(self.learners):
                hits = scored.hits(number)
                self._totals[learner, task].add(hits)
                if task in self._value_tasks:
                    self._newest[learner, task].add(hits.errors)
            for scene, of_scene in _by_scene(rows, told_apart):
                self._add_open(task, scene, scored.take(of_scene))

    def take_closed(self, now_ms: int, epoch: int) -> list[Validation]:
        """Windows that were filled since the last call."""
        closed, self._closed = self._closed, []
        return [self._record(key, tally, now_ms, epoch) for key, tally in closed]

    def drop_closed(self) -> None:
        """Forgets the windows that were filled, where nobody is told of them: those that are open become the first."""
        self._closed = []
        for tally in self._open.values():
            tally.window = 0

    def take_open(self, now_ms: int, epoch: int) -> list[Validation]:
        """Windows that are not full yet and changed since the last call; the full one replaces them by its number."""
        changed = [(key, tally) for key, tally in self._open.items() if tally.changed]
        for _, tally in changed:
            tally.changed = False
        return [self._record(key, tally, now_ms, epoch) for key, tally in changed]

    def figures(self) -> dict[str, float]:
        """`auc_TASK_LEARNER`, `log_loss_TASK_LEARNER` and `validated_TASK` since the start of the log; of a value task
        `mae_`, `rmse_` and `r2_TASK_LEARNER` instead of the first two, and `r2_newest_TASK_LEARNER` without how they
        all began."""
        figures: dict[str, float] = {}
        for (learner, task), tally in self._totals.items():
            figures[f"validated_{task}"] = float(tally.n)
            if task in self._value_tasks:
                errors = {"mae": tally.errors.mae, "rmse": tally.errors.rmse, "r2": tally.errors.r2}
                errors["r2_newest"] = self._newest[learner, task].sum.r2
                known = {name: value for name, value in errors.items() if not math.isnan(value)}
                figures.update((f"{name}_{task}_{learner}", value) for name, value in known.items())
                continue
            area = auc(tally.bins_positive, tally.bins_negative)
            if not math.isnan(area):
                figures[f"auc_{task}_{learner}"] = area
                figures[f"log_loss_{task}_{learner}"] = tally.log_loss_sum / tally.weight_sum
        return figures

    def state(self) -> ProgressiveState:
        """The state to keep; it shares the tallies, so encode it before going on."""
        return ProgressiveState(
            tallies=[(*key, tally) for key, tally in self._open.items()],
            totals=[(*key, tally) for key, tally in self._totals.items()],
            newest=[(*key, newest) for key, newest in self._newest.items()],
        )

    def restore(self, state: ProgressiveState) -> None:
        """Takes over a kept state; learners and tasks that are no longer there are left out."""
        self._closed = []
        known = {(learner, task, scene): tally for learner, task, scene, tally in state.tallies}
        self._open = {key: tally for key, tally in known.items() if key[:2] in self._totals}
        self._scenes = {scene for _, _, scene in self._open}
        for learner, task, tally in state.totals:
            if (learner, task) in self._totals:
                self._totals[learner, task] = tally
        for learner, task, newest in state.newest:
            if (learner, task) in self._newest:
                self._newest[learner, task] = newest

    def _told_apart(self, scene: str) -> str:
        """The scene, or where there are too many, what stands for all others."""
        if scene not in self._scenes:
            if len(self._scenes) >= MAX_SCENES:
                return OTHER_SCENES
            self._scenes.add(scene)
        return scene

    def _scored(
        self,
        task: str,
        said: NDArray[np.float32],
        labels: NDArray[np.float32],
        weights: NDArray[np.float64],
        times_ms: NDArray[np.int64],
    ) -> _Scored | _ScoredValues:
        if task not in self._value_tasks:
            return _Scored.of(said, labels >= 0.5, weights, times_ms)
        values = labels.astype(np.float64)
        # Every learner has seen the same labels.
        before = self._totals[self.learners[0], task].errors
        return _ScoredValues(said.astype(np.float64), values, running_means(values, before), times_ms)

    def _add_open(self, task: str, scene: str, scored: _Scored | _ScoredValues) -> None:
        """Fills the open windows, and as many behind them as it takes."""
        for number, learner in enumerate(self.learners):
            key, rest = (learner, task, scene), scored
            while len(rest.times_ms):
                tally = self._open.setdefault(key, Tally())
                room = max(1, self._window - tally.n)
                tally.add(rest.take(slice(room)).hits(number))
                rest = rest.take(slice(room, None))
                if tally.n >= self._window:
                    self._closed.append((key, tally))
                    self._open[key] = Tally(window=tally.window + 1)

    def _record(self, key: tuple[str, str, str], tally: Tally, now_ms: int, epoch: int) -> Validation:
        learner, task, scene = key
        of_value = task in self._value_tasks
        return Validation(
            process=self._process,
            learner=learner,
            task=task,
            scene=scene,
            window=tally.window,
            ts=now_ms,
            first_ts=tally.first_ts,
            last_ts=tally.last_ts,
            n=tally.n,
            positives=tally.positives,
            weight_sum=tally.weight_sum,
            log_loss_sum=tally.log_loss_sum,
            bins_positive=[] if of_value else list(tally.bins_positive),
            bins_negative=[] if of_value else list(tally.bins_negative),
            prediction_sum=tally.prediction_sum,
            epoch=epoch,
            target=Target.VALUE if of_value else Target.BINARY,
            label_sum=tally.errors.labels,
            absolute_error_sum=tally.errors.absolute,
            squared_error_sum=tally.errors.squared,
            reference_error_sum=tally.errors.reference,
        )


def _by_scene(rows: NDArray[np.intp], scenes: Sequence[str]) -> list[tuple[str, NDArray[np.intp]]]:
    """The places in `rows` of each scene, in order; mostly there is one."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        found.setdefault(scenes[row], []).append(place)
    return [(scene, np.array(of_scene)) for scene, of_scene in found.items()]
