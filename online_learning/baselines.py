"""The learners that the online model has to beat, fed with the same examples at the same moments.

`river`: logistic regression by AdaGrad from the library river, over the model's own fields (one weight per value) and
dense features; of a value task linear regression on its log. `popularity`: the share of positives of the item so far;
of a value task the mean of the item's values.
"""

import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import linear_model, optim, preprocessing

from online_learning.batches import Batch
from online_learning.models.ranking import Undone
from online_learning.models.values import of_logs

# Weights of the regression are bounded in number by hashing keys into this many; ml-100k has about 5,000.
_BUCKETS: Final = 1 << 20
MAX_ITEMS: Final = 200_000
"""Items that popularity remembers: a checkpoint writes all of them, which then takes some hundredths of a second."""
# An item's rate is shrunk towards the rate of all items as if seen this often; the best of 2, 5, 10, 20 on ml-100k.
_PRIOR_WEIGHT: Final = 10.0


class Lesson(NamedTuple):
    """What was learned of B examples: labels f32 [B, T] (NaN: none) with weights f32 [B, T]; a value weighs 1.
    `undone`: 0 or 1 that was learned of the same examples before, which each learner takes back by what it predicts
    itself."""

    batch: Batch
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    undone: Undone | None = None

    def take(self, rows: NDArray[np.int64]) -> "Lesson":
        """That of some rows."""
        undone = None if self.undone is None else self.undone.take(rows)
        return Lesson(self.batch.take(rows), self.labels[rows], self.weights[rows], undone)

    def taken_back(self) -> Iterator[tuple[int, int, float, float]]:
        """What is undone one by one: row, task's column, label and weight."""
        if self.undone is not None:
            labels, weights = self.undone
            for row, t in np.argwhere(weights > 0.0).tolist():
                yield row, t, float(labels[row, t]), float(weights[row, t])


class Baseline(Protocol):
    """A learner beside the model."""

    name: str

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Probabilities, and of value tasks values, f32 [B, T]."""
        ...

    def learn(self, lesson: Lesson) -> None: ...

    def state(self) -> bytes: ...
    def restore(self, state: bytes) -> None: ...


class RiverLinear:
    """One `river.linear_model.LogisticRegression` per binary task; of a value task a `LinearRegression` by the Huber
    loss on standard scores of `log1p(value)`, as the model's."""

    name = "river"

    def __init__(self, tasks: int, values: Sequence[int] = (), learning_rate: float = 0.1) -> None:
        self._values = frozenset(values)
        self._models: list[Any] = [
            preprocessing.TargetStandardScaler(
                linear_model.LinearRegression(optim.AdaGrad(learning_rate), optim.losses.Huber(1.0))
            )
            if t in self._values
            else linear_model.LogisticRegression(optimizer=optim.AdaGrad(learning_rate))
            for t in range(tasks)
        ]
        # What is learned has often just been predicted.
        self._newest: tuple[Batch | None, list[dict[int, float]]] = (None, [])

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        out = np.empty((batch.rows, len(self._models)), dtype=np.float32)
        for row, x in enumerate(self._inputs(batch)):
            out[row] = [
                model.predict_one(x) if t in self._values else model.predict_proba_one(x)[True]
                for t, model in enumerate(self._models)
            ]
        for t in self._values:
            out[:, t] = of_logs(out[:, t])
        return out

    def learn(self, lesson: Lesson) -> None:
        batch, labels, weights, _ = lesson
        inputs = self._inputs(batch)
        for row, t, old, weighed in lesson.taken_back():
            self._models[t].learn_one(inputs[row], old >= 0.5, w=-weighed)
        for x, label, weight in zip(inputs, labels.tolist(), weights.tolist(), strict=True):
            for t, (model, y, w) in enumerate(zip(self._models, label, weight, strict=True)):
                if y != y:
                    continue
                if t in self._values:
                    model.learn_one(x, math.log1p(y))
                else:
                    model.learn_one(x, y >= 0.5, w=w)

    def state(self) -> bytes:
        return pickle.dumps(self._models, protocol=5)

    def restore(self, state: bytes) -> None:
        self._models = pickle.loads(state)

    def _inputs(self, batch: Batch) -> list[dict[int, float]]:
        if batch is not self._newest[0]:
            self._newest = (batch, _inputs(batch))
        return self._newest[1]


class Popularity:
    """Positives per label of the item so far, or its values' mean, shrunk towards that of all items.

    Of more than `MAX_ITEMS` items the one learned of longest ago is forgotten.
    """

    name = "popularity"

    def __init__(self, tasks: int, values: Sequence[int] = ()) -> None:
        self._tasks = tasks
        # Of a value nothing is known beforehand; its first label has no one to share with.
        self._all = np.array([[0.0, 1e-6] if t in values else [1.0, 2.0] for t in range(tasks)])
        self._items: dict[str, list[list[float]]] = {}

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        rates = (self._all[:, 0] / self._all[:, 1]).tolist()
        unknown = [[0.0, 0.0]] * self._tasks
        return np.array(
            [
                [
                    (positives + _PRIOR_WEIGHT * rate) / (n + _PRIOR_WEIGHT)
                    for (positives, n), rate in zip(self._items.get(item, unknown), rates, strict=True)
                ]
                for item in batch.items
            ],
            dtype=np.float32,
        ).reshape(batch.rows, self._tasks)

    def learn(self, lesson: Lesson) -> None:
        batch, labels, weights, _ = lesson
        for row, t, old, weighed in lesson.taken_back():
            self._take_back(batch.items[row], t, old, weighed)
        for item, label, weight in zip(batch.items, labels.tolist(), weights.tolist(), strict=True):
            counts = self._items.pop(item, None) or [[0.0, 0.0] for _ in range(self._tasks)]
            if len(self._items) >= MAX_ITEMS:
                del self._items[next(iter(self._items))]
            self._items[item] = counts
            for t, (y, w) in enumerate(zip(label, weight, strict=True)):
                if y == y:
                    counts[t][0] += y * w
                    counts[t][1] += w
                    self._all[t] += (y * w, w)

    def _take_back(self, item: str, t: int, label: float, weight: float) -> None:
        # Of an item that was forgotten meanwhile there is nothing to take it from.
        if (counts := self._items.get(item)) is not None:
            counts[t][0] = max(counts[t][0] - label * weight, 0.0)
            counts[t][1] = max(counts[t][1] - weight, 0.0)
        self._all[t] -= (label * weight, weight)

    def state(self) -> bytes:
        return msgspec.msgpack.encode((self._all.tolist(), self._items))

    def restore(self, state: bytes) -> None:
        everything, self._items = msgspec.msgpack.decode(
            state, type=tuple[list[list[float]], dict[str, list[list[float]]]]
        )
        self._all = np.array(everything)


class Baselines:
    """Those that run beside every model; `values`: the columns of the value tasks.

    They learn behind the model: what was `put` with the next `catch_up`, or before anything else is predicted.
    """

    def __init__(self, tasks: int, values: Sequence[int] = ()) -> None:
        self.all: tuple[Baseline, ...] = (RiverLinear(tasks, values), Popularity(tasks, values))
        self._lessons: list[Lesson] = []

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of their predictions."""
        return tuple(one.name for one in self.all)

    @property
    def behind(self) -> bool:
        """Whether there is something to catch up with."""
        return bool(self._lessons)

    def predict(self, batch: Batch) -> list[NDArray[np.float32]]:
        """What each predicts, f32 [B, T]."""
        self.catch_up()
        return [one.predict(batch) for one in self.all]

    def put(self, lesson: Lesson) -> None:
        """Adds what the model has learned."""
        self._lessons.append(lesson)

    def catch_up(self) -> None:
        """Learns all that was added, in its order."""
        lessons, self._lessons = self._lessons, []
        for lesson in lessons:
            for one in self.all:
                one.learn(lesson)

    def state(self) -> dict[str, bytes]:
        """What they know by their names, all that was added included."""
        self.catch_up()
        return {one.name: one.state() for one in self.all}

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Takes over a state; whom it does not know begins anew."""
        for one in self.all:
            if one.name in state:
                one.restore(state[one.name])


def _inputs(batch: Batch) -> list[dict[int, float]]:
    """Each row as river takes it: every key of a field weighs one over the number of the field's keys (the mean).

    The dense features follow under negative numbers, which no key has.
    """
    side = batch.side
    counts = np.diff(side.offsets)
    weights = np.repeat(1.0 / np.maximum(counts, 1), counts).tolist()
    keys = (side.keys % np.uint64(_BUCKETS)).tolist()
    ends = side.offsets[:: side.fields].tolist()
    dense = batch.dense.tolist()
    rows = []
    for row in range(side.rows):
        first, last = ends[row], ends[row + 1]
        x: dict[int, float] = dict(zip(keys[first:last], weights[first:last], strict=True))
        x.update((column, value) for column, value in enumerate(dense[row], start=-len(dense[row])) if value)
        rows.append(x)
    return rows
