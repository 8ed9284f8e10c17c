"""The online model and its baselines side by side: all predict before any learns.

An impression of ours is predicted whole when it is first seen. An example is scored by that prediction, or, where there
was no impression, by one made now; then it is learned. Nothing here does I/O or knows the wall clock.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from online_learning.baselines import baselines
from online_learning.batches import Batch, Batcher
from online_learning.catalogue import Catalogue
from online_learning.labels import correction_weights, is_learned, negative_rates, targets
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
from streams.records import Example, Impression


class Learners:
    """All learners, what they predicted, and how good it was."""

    def __init__(self, settings: LearningSettings, catalogue: Catalogue) -> None:
        self.tasks = tuple(task.name for task in settings.tasks)
        self.online = OnlineLearner(settings)
        self._arm = settings.trainer.arm
        self._shown_is_negative = np.array([task.shown_is_negative for task in settings.tasks])
        self.value_tasks = tuple(task.name for task in settings.tasks if task.is_value)
        self._values = value_columns(settings.tasks)
        self._binary = np.array([not task.is_value for task in settings.tasks])
        self._encoder = FieldEncoder(settings.model, catalogue.item)
        self._batcher = Batcher(self._encoder, catalogue)
        self._negatives = Negatives(settings, self._encoder, self._batcher)
        self._baselines = baselines(len(self.tasks), self._values)
        names = (self.online.name, *(other.name for other in self._baselines))
        self.predictions = Predictions(settings.trainer.remembered_examples, len(names), len(self.tasks))
        self.progressive = Progressive(names, self.tasks, settings.trainer.validation_window, values=self._values)
        self.drift = Drift(names, self.tasks, self._values)
        self.calibration = Calibration(names, self.tasks, self._values)
        self.counters = Counters()
        self.clock_ms = 0
        self.refused_at_ms = 0

    def see(self, impressions: Sequence[Impression]) -> None:
        """Predicts all items of impressions that are learned from, and remembers it."""
        self.counters.impressions += len(impressions)
        ours = [seen for seen in impressions if seen.items and is_learned(seen.arms, organic=False, arm=self._arm)]
        if not ours:
            return
        said = self._predict(self._batcher.of_impressions(ours))
        names = [f"{seen.request_id}/{shown.position}" for seen in ours for shown in seen.items]
        for name, predictions in zip(names, said, strict=True):
            if name not in self.predictions:
                self.predictions.put(name, predictions)

    def unseen(self, examples: Sequence[Example]) -> bool:
        """Whether an example is of an impression that should have been predicted and was not."""
        return any(
            not example.organic and example.revision == 0 and example.example_id not in self.predictions
            for example in examples
            if is_learned(example.arms, organic=example.organic, arm=self._arm)
        )

    def learn(self, examples: Sequence[Example], now_ms: int, version: int) -> None:
        """Scores what was predicted, then learns; `version` stamps the rows, `now_ms` the alarms.

        Rows are last seen, and expire, by the newest event time read so far: an outage longer than their time to live,
        or a wall clock that jumps, forgets nothing. An event from after `now_ms` counts as one of now: somebody's fast
        clock must not let the rows of all others expire.
        """
        newest = max((one.ts for one in examples), default=0)
        self.clock_ms = max(self.clock_ms, min(newest, now_ms))
        ours = [one for one in examples if is_learned(one.arms, organic=one.organic, arm=self._arm)]
        if not ours:
            return
        batch = self._batcher.of_examples(ours)
        known, said = self._first_sight(ours, batch)
        found = targets(ours, known, self.tasks, self._values)
        # What was learned as a negative has been validated as one; a late positive does not validate again, nor does a
        # value that is said anew. And organic positives of a task whose negatives are the items shown have no negatives
        # to be told from.
        alone = np.array([one.organic for one in ours])[:, None] & self._shown_is_negative
        unfit = found.again | alone | np.isnan(said).any(axis=1) | np.isnan(found.weights)
        fresh = np.where(unfit, np.nan, found.labels).astype(np.float32)
        self.progressive.add(said, fresh, [one.ts for one in ours], [one.scene for one in ours], found.weights)
        self.drift.add(said, fresh, now_ms, [one.scene for one in ours])
        self.calibration.add(said, fresh, found.weights)
        rows = np.flatnonzero(~np.isnan(found.labels).all(axis=1))
        if not len(rows):
            return
        if len(rows) < batch.rows:
            batch = batch.take(rows)
        if found.corrects.any():
            rates = negative_rates(ours, self._shown_is_negative)
            p = np.zeros(found.labels.shape, dtype=np.float32)
            p[rows] = self.online.predict(batch)
            correction_weights(found, p, rates)
        labels, weights, again = found.labels[rows], found.weights[rows], found.again[rows]
        revised = found.revised[rows]
        taught = [ours[row] for row in rows.tolist()]
        sound = self._learn(taught, batch, labels, weights, revised, version)
        if not sound.all():
            self.counters.refused += int((~sound).sum())
            self.refused_at_ms = now_ms
            if not sound.any():
                return
            batch, labels, weights = batch.take(np.flatnonzero(sound)), labels[sound], weights[sound]
            again, revised = again[sound], revised[sound]
        # They cannot take back a value, so they keep the first.
        kept = np.where(np.isnan(revised), labels, np.nan)
        for other in self._baselines:
            other.learn(batch, kept, weights)
        self._count(labels, again)

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
            baselines={other.name: other.state() for other in self._baselines},
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
        for other in self._baselines:
            if other.name in state.baselines:
                other.restore(state.baselines[other.name])
        self.progressive.restore(state.validation)
        self.predictions.restore(state.predictions)
        self.drift.restore(state.drift)
        self.calibration.restore(state.calibration)
        self._negatives.items.restore(state.items)
        self.clock_ms = state.clock_ms
        self.counters = counters

    # --- inner -----------------------------------------------------------------------------------------------------

    def _learn(
        self,
        examples: Sequence[Example],
        batch: Batch,
        labels: NDArray[np.float32],
        weights: NDArray[np.float32],
        revised: NDArray[np.float32],
        version: int,
    ) -> NDArray[np.bool_]:
        """One step of ranking model and towers by B examples and what is drawn for them; which were learned, [B]."""
        taken = ((labels == 1.0) & self._binary).any(axis=1)
        self._negatives.items.add([batch.items[row] for row in np.flatnonzero(taken).tolist()])
        drawn = self._negatives.of_organic(examples, batch, labels)
        if drawn is None:
            sound = self.online.learn(batch, labels, weights, self.clock_ms, version, revised=revised)
        else:
            labels = np.concatenate([labels, drawn.labels])
            weights = np.concatenate([weights, np.ones_like(drawn.labels)]) * drawn.shares
            revised = np.concatenate([revised, np.full_like(drawn.labels, np.nan)])
            both = batch.followed_by(drawn.batch)
            told = self.online.learn(both, labels, weights, self.clock_ms, version, drawn.offsets, revised)
            sound = told[: batch.rows]
            self.counters.sampled += drawn.batch.rows
        positives = np.flatnonzero(taken & sound)
        if self.online.towers is not None and len(positives):
            users, items = self._encoder.sides(batch.side.take(positives))
            names = [batch.items[row] for row in positives.tolist()]
            candidates = self._negatives.of_towers(items, names, [examples[row].user for row in positives.tolist()])
            self.online.towers.learn(self.online.table, users, candidates, self.clock_ms, version)
        return sound

    def _predict(self, batch: Batch) -> NDArray[np.float32]:
        """Predictions f32 [B, L, T] of all learners, the online model first."""
        everyone = [self.online.predict(batch), *(other.predict(batch) for other in self._baselines)]
        return np.stack(everyone, axis=1)

    def _first_sight(
        self, examples: Sequence[Example], batch: Batch
    ) -> tuple[list[Remembered | None], NDArray[np.float32]]:
        """What is remembered of each example, and the predictions f32 [B, L, T] that it is scored by.

        An example whose impression was not predicted is predicted now, and remembered. One of a later revision that is
        forgotten has NaN: a prediction made now would know its labels.
        """
        known = [None if one.organic else self.predictions.get(one.example_id) for one in examples]
        missing = [row for row, one in enumerate(examples) if known[row] is None and (one.organic or one.revision == 0)]
        said = np.full((len(examples), 1 + len(self._baselines), len(self.tasks)), np.nan, dtype=np.float32)
        if missing:
            rows = np.array(missing)
            said[rows] = self._predict(batch if len(missing) == len(examples) else batch.take(rows))
        for row in missing:
            one = examples[row]
            if not one.organic:
                self.counters.late_predictions += 1
                if one.example_id not in self.predictions:
                    self.predictions.put(one.example_id, said[row])
        for row, one in enumerate(examples):
            if known[row] is None and not one.organic:
                known[row] = self.predictions.get(one.example_id)
            memory = known[row]
            if memory is not None:
                said[row] = self.predictions.probabilities(memory)
        return known, said

    def _count(self, labels: NDArray[np.float32], again: NDArray[np.bool_]) -> None:
        counters = self.counters
        counters.learned += len(labels)
        counters.corrections += int(again.sum())
        for task, count in zip(self.tasks, (~np.isnan(labels)).sum(axis=0).tolist(), strict=True):
            counters.labels[task] = counters.labels.get(task, 0) + count
