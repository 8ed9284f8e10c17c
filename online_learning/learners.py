"""The online model and its baselines side by side: all predict before any learns.

An impression of ours is predicted whole when it is first seen; then its items are learned as negatives, until somebody
clicks (`labels`). An example is scored by that prediction, or, where there was no impression, by one made now; then it
is learned. Nothing here does I/O or knows the wall clock.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_learning.baselines import Baselines, Lesson
from online_learning.batches import Batch, Batcher
from online_learning.catalogue import Catalogue
from online_learning.labels import Targets, is_learned, negative_weight, targets
from online_learning.learner import OnlineLearner
from online_learning.models.fields import FieldEncoder
from online_learning.models.scorers.two_tower import tower_keys
from online_learning.models.values import value_columns
from online_learning.predictions import Predictions, Remembered
from online_learning.sampling.negatives import Negatives
from online_learning.settings import LearningSettings
from online_learning.state import Counters, TrainerState
from online_learning.watching.calibration import Calibration
from online_learning.watching.drift import Drift
from online_learning.watching.progressive import Progressive
from streams.labels import negative_kept
from streams.records import Example, Impression


class _Shown(NamedTuple):
    """Items shown that are to be learned as negatives unless an example comes before, and what is remembered of each
    row."""

    batch: Batch
    entries: list[Remembered]


class _Strangers(NamedTuple):
    """Which rows (i64 [m], ascending) of some examples had to be predicted with them, and the batch of these."""

    rows: NDArray[np.int64]
    batch: Batch | None

    def at(self, rows: NDArray[np.int64]) -> Batch | None:
        """The batch of the examples at `rows`, where all of them are among these: most need none."""
        if self.batch is None or not np.isin(rows, self.rows).all():
            return None
        return self.batch if len(rows) == self.batch.rows else self.batch.take(np.searchsorted(self.rows, rows))


class Learners:
    """All learners, what they predicted, and how good it was."""

    def __init__(self, settings: LearningSettings, catalogue: Catalogue) -> None:
        self.tasks = tuple(task.name for task in settings.tasks)
        self.online = OnlineLearner(settings)
        self._arm, self._join, self._fakes = settings.trainer.arm, settings.join, settings.trainer.fake_negatives
        self._max_batch = settings.trainer.max_batch
        self._shown_is_negative = np.array([task.shown_is_negative for task in settings.tasks])
        self._shown_tasks = tuple(np.flatnonzero(self._shown_is_negative).tolist())
        self._shown: list[_Shown] = []
        self.value_tasks = tuple(task.name for task in settings.tasks if task.is_value)
        self._values = value_columns(settings.tasks)
        self._binary = np.array([not task.is_value for task in settings.tasks])
        self._encoder = FieldEncoder(settings.model, catalogue.item)
        self._batcher = Batcher(self._encoder, catalogue)
        self._negatives = Negatives(settings, self._encoder, self._batcher)
        self.baselines = Baselines(len(self.tasks), self._values)
        names = (self.online.name, *self.baselines.names)
        self.predictions = Predictions(settings.trainer.remembered_examples, len(names), len(self.tasks))
        self.progressive = Progressive(names, self.tasks, settings.trainer.validation_window, values=self._values)
        self.drift = Drift(names, self.tasks, self._values)
        self.calibration = Calibration(names, self.tasks, self._values)
        self.counters = Counters()
        self.clock_ms = 0
        self.refused_at_ms = 0

    def see(self, impressions: Sequence[Impression], now_ms: int) -> None:
        """Predicts all items of impressions that are learned from, and remembers it; `now_ms` is the wall clock.

        They are learned as negatives by the next call of `learn_rest`.
        """
        self.counters.impressions += len(impressions)
        ours = [seen for seen in impressions if seen.items and is_learned(seen.arms, organic=False, arm=self._arm)]
        if not ours:
            return
        batch = self._batcher.of_impressions(ours)
        said = self._predict(batch)
        entries, rows, row = [], [], -1
        for seen in ours:
            fakes = self._is_open(seen, now_ms)
            for shown in seen.items:
                row += 1
                name = f"{seen.request_id}/{shown.position}"
                if name in self.predictions:
                    continue
                # A serving host's fast clock must not have it remembered for longer than others.
                entry = self.predictions.put(name, said[row], min(seen.ts, now_ms), self._awaited_ms)
                if entry is not None and fakes and negative_kept(name, self._join.negative_rate):
                    entries.append(entry)
                    rows.append(row)
        if rows:
            self._shown.append(_Shown(batch if len(rows) == batch.rows else batch.take(np.array(rows)), entries))

    @property
    def waiting(self) -> bool:
        """Whether `learn_rest` has something to learn."""
        return bool(self._shown) or self.baselines.behind

    def unseen(self, examples: Sequence[Example]) -> bool:
        """Whether an example is of an impression that should have been predicted and was not."""
        return any(
            not example.organic and example.revision == 0 and example.example_id not in self.predictions
            for example in examples
            if is_learned(example.arms, organic=example.organic, arm=self._arm)
        )

    def learn(self, examples: Sequence[Example], now_ms: int, version: int) -> bool:
        """Scores what was predicted, then learns; whether there was anything that was not learned already.

        The baselines learn it with the next call of `learn_rest`, or before anything else is predicted. `version`
        stamps the rows, `now_ms` the alarms.

        Rows are last seen, and expire, by the newest event time read so far: an outage longer than their time to live,
        or a wall clock that jumps, forgets nothing. An event from after `now_ms` counts as one of now: somebody's fast
        clock must not let the rows of all others expire.
        """
        newest = max((one.ts for one in examples), default=0)
        self.clock_ms = max(self.clock_ms, min(newest, now_ms))
        ours = [one for one in examples if is_learned(one.arms, organic=one.organic, arm=self._arm)]
        if not ours:
            return False
        known, said, strangers = self._first_sight(ours)
        found = targets(ours, known, self.tasks, self._values, self._shown_tasks)
        # What the window's end made a negative has been validated as one; a late positive does not validate again, nor
        # does a value that is said anew. And organic positives of a task whose negatives are the items shown have no
        # negatives to be told from.
        alone = np.array([one.organic for one in ours])[:, None] & self._shown_is_negative
        unfit = alone | np.isnan(said).any(axis=1) | np.isnan(found.weights)
        fresh = np.where(unfit, np.nan, found.fresh).astype(np.float32)
        self.progressive.add(said, fresh, [one.ts for one in ours], [one.scene for one in ours], found.weights)
        self.drift.add(said, fresh, now_ms, [one.scene for one in ours])
        self.calibration.add(said, fresh, found.weights)
        told = np.where(np.isnan(found.labels), found.fresh, found.labels)
        rows = np.flatnonzero(~np.isnan(found.labels).all(axis=1))
        if len(rows):
            batch = strangers.at(rows) or self._batcher.of_examples([ours[row] for row in rows.tolist()])
            sound = self._learn_found(ours, batch, found, rows, version)
            if not sound.all():
                self.counters.refused += int((~sound).sum())
                self.refused_at_ms = now_ms
                told[rows[~sound]] = np.nan
        self._count(told, ~np.isnan(told) & np.isnan(found.fresh))
        return bool(len(rows))

    def learn_rest(self, version: int) -> bool:
        """Learns what nobody waits for; whether the online model learned anything.

        What was seen since the last call is learned as negatives of the tasks whose negatives are the items shown,
        where no example has said a label since. Then the baselines learn what the online model has.
        """
        shown, self._shown = self._shown, []
        for batch, entries in shown:
            for first in range(0, batch.rows, self._max_batch):
                self._learn_negatives(
                    batch.take(np.arange(first, min(first + self._max_batch, batch.rows))),
                    entries[first : first + self._max_batch],
                    version,
                )
        self.baselines.catch_up()
        return bool(shown)

    def evict(self, version: int) -> int:
        """Removes rows by the policy; how many, a limited number at a time. They become tombstones."""
        return self.online.table.evict(self.clock_ms, version)

    def forget_user(self, user: str, version: int) -> None:
        """Removes the rows of a user's id, the tower's too; they become tombstones."""
        keys = self._encoder.id_keys("user", user)
        self.online.table.remove(np.concatenate([keys, tower_keys(keys)]), self.clock_ms, version)

    # --- keeping ---------------------------------------------------------------------------------------------------

    def state(self) -> TrainerState:
        """What a checkpoint keeps of all this beside rows and parameters; encode it before going on."""
        return TrainerState(
            optimizer=self.online.optimizer_state(),
            baselines=self.baselines.state(),
            validation=self.progressive.state(),
            predictions=list(self.predictions.items()),
            drift=self.drift.state(),
            calibration=self.calibration.state(),
            towers=b"" if self.online.towers is None else self.online.towers.optimizer_state(),
            items=self._negatives.items.state(),
            clock_ms=self.clock_ms,
        )

    def restore(self, state: TrainerState, counters: Counters) -> None:
        """Takes over a kept state; rows and parameters are restored by the online learner itself."""
        self.baselines.restore(state.baselines)
        self.progressive.restore(state.validation)
        self.predictions.restore(state.predictions)
        self.drift.restore(state.drift)
        self.calibration.restore(state.calibration)
        self._negatives.items.restore(state.items)
        self.clock_ms = state.clock_ms
        self.counters = counters

    # --- inner -----------------------------------------------------------------------------------------------------

    @property
    def _awaited_ms(self) -> int:
        """The time (ms) from which on the examples of what was shown may still come: those of a window's end come a
        window later and more."""
        return self.clock_ms - 2 * self._join.window_ms

    def _is_open(self, seen: Impression, now_ms: int) -> bool:
        """Whether the items of an impression may be learned as negatives now: the join takes it, and its window has not
        ended by the examples' clock, so that these are still to come."""
        begun = (self.clock_ms or now_ms) - self._join.window_ms
        return self._fakes and begun < seen.ts <= now_ms + self._join.future_ms

    def _learn_negatives(self, batch: Batch, entries: Sequence[Remembered], version: int) -> None:
        """Learns rows as fake negatives, and notes that in what is remembered of them."""
        unknown = np.array([[label is None for label in entry.labels] for entry in entries], dtype=np.bool_)
        labels = np.where(unknown & self._shown_is_negative, np.float32(0.0), np.float32(np.nan))
        rows = np.flatnonzero(~np.isnan(labels).all(axis=1))
        if not len(rows):
            return
        if len(rows) < batch.rows:
            batch, labels = batch.take(rows), labels[rows]
        weight = negative_weight(self._join.negative_rate)
        weights = np.full_like(labels, weight)
        sound = self.online.learn(batch, labels, weights, self.clock_ms, version)
        for row in rows[sound].tolist():
            entry = entries[row]
            entry.fake = True
            for t in self._shown_tasks:
                if entry.labels[t] is None:
                    entry.weights[t] = weight
        self.counters.fake_negatives += int(sound.sum())
        self._teach_others(Lesson(batch, labels, weights), sound)

    def _learn_found(
        self, examples: Sequence[Example], batch: Batch, found: Targets, rows: NDArray[np.int64], version: int
    ) -> NDArray[np.bool_]:
        """Learns the labels found of these rows of the examples, which are those of the batch; which were learned."""
        mine = found.take(rows)
        sound = self._learn([examples[row] for row in rows.tolist()], batch, mine, version)
        # The others cannot take back a value, so they keep the first.
        labels = np.where(np.isnan(mine.revised), mine.labels, np.nan)
        self._teach_others(Lesson(batch, labels, mine.weights, mine.undone), sound)
        return sound

    def _teach_others(self, lesson: Lesson, sound: NDArray[np.bool_]) -> None:
        """Has the baselines learn later what the online model could."""
        if not sound.any():
            return
        if not sound.all():
            lesson = lesson.take(np.flatnonzero(sound))
        self.baselines.put(lesson)

    def _learn(self, examples: Sequence[Example], batch: Batch, found: Targets, version: int) -> NDArray[np.bool_]:
        """One step of ranking model and towers by B examples and what is drawn for them; which were learned, [B]."""
        labels, weights, undone, revised, _ = found
        taken = ((labels == 1.0) & self._binary).any(axis=1)
        self._negatives.items.add([batch.items[row] for row in np.flatnonzero(taken).tolist()])
        drawn, both, offsets = self._negatives.of_organic(examples, batch, labels), batch, None
        if drawn is not None:
            both, offsets, more = batch.followed_by(drawn.batch), drawn.offsets, drawn.batch.rows
            labels = np.concatenate([labels, drawn.labels])
            weights = np.concatenate([weights, np.ones_like(drawn.labels)]) * drawn.shares
            revised = np.concatenate([revised, np.full_like(drawn.labels, np.nan)])
            undone = undone.padded(more)
            self.counters.sampled += more
        told = self.online.learn(both, labels, weights, self.clock_ms, version, offsets, revised, undone)
        sound = told[: batch.rows]
        positives = np.flatnonzero(taken & sound)
        if self.online.towers is not None and len(positives):
            users, items = self._encoder.sides(batch.side.take(positives))
            names = [batch.items[row] for row in positives.tolist()]
            candidates = self._negatives.of_towers(items, names, [examples[row].user for row in positives.tolist()])
            self.online.towers.learn(self.online.table, users, candidates, self.clock_ms, version)
        return sound

    def _predict(self, batch: Batch) -> NDArray[np.float32]:
        """Predictions f32 [B, L, T] of all learners, the online model first."""
        return np.stack([self.online.predict(batch), *self.baselines.predict(batch)], axis=1)

    def _first_sight(
        self, examples: Sequence[Example]
    ) -> tuple[list[Remembered | None], NDArray[np.float32], "_Strangers"]:
        """What is remembered of each example, the predictions f32 [B, L, T] that it is scored by, and those of which
        nothing was remembered.

        An example whose impression was not predicted is predicted now, and remembered. One of a later revision that is
        forgotten has NaN: a prediction made now would know its labels.
        """
        known = [None if one.organic else self.predictions.get(one.example_id) for one in examples]
        missing = [row for row, one in enumerate(examples) if known[row] is None and (one.organic or one.revision == 0)]
        said = np.full((len(examples), 1 + len(self.baselines.all), len(self.tasks)), np.nan, dtype=np.float32)
        batch = self._batcher.of_examples([examples[row] for row in missing]) if missing else None
        strangers = _Strangers(np.array(missing, dtype=np.int64), batch)
        if batch is not None:
            said[strangers.rows] = self._predict(batch)
        for row in missing:
            one = examples[row]
            if not one.organic:
                self.counters.late_predictions += 1
                if one.example_id not in self.predictions:
                    self.predictions.put(one.example_id, said[row], one.ts, self._awaited_ms)
        for row, one in enumerate(examples):
            if known[row] is None and not one.organic:
                known[row] = self.predictions.get(one.example_id)
            memory = known[row]
            if memory is not None:
                said[row] = self.predictions.probabilities(memory)
        return known, said, strangers

    def _count(self, labels: NDArray[np.float32], again: NDArray[np.bool_]) -> None:
        """Counts labels f32 [B, T] that examples said (NaN: none), and those that replace another one."""
        counters = self.counters
        counters.learned += int((~np.isnan(labels)).any(axis=1).sum())
        counters.corrections += int(again.sum())
        for task, count in zip(self.tasks, (~np.isnan(labels)).sum(axis=0).tolist(), strict=True):
            counters.labels[task] = counters.labels.get(task, 0) + count
