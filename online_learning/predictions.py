"""What was predicted for every example at first sight, and which of its labels have been learned since.

An impression is predicted when it is seen; its examples come one by one, later, and in revisions. The memory is bounded
and forgets the oldest first; it is part of the checkpoint.
"""

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray


class Remembered(msgspec.Struct, array_like=True):
    """`probabilities`: predictions f32 [L, T] as bytes, of value tasks in their units. `labels`: per task the label
    that an example said and was learned, None until one was. `fake`: it was learned as a negative when it was shown.
    `weights`: per task what the label, or the fake negative, weighed.

    `number` counts the examples in the order in which they were first seen; `ts`: ms, when it was shown.
    """

    number: int
    probabilities: bytes
    labels: list[float | None]
    ts: int = 0
    fake: bool = False
    weights: list[float] = []

    @property
    def awaited(self) -> bool:
        """Whether it was learned as a negative, and no example has said yet whether it is one."""
        return self.fake and all(label is None for label in self.labels)


class Predictions:
    """Example id -> Remembered, for at most `capacity` examples."""

    def __init__(self, capacity: int, learners: int, tasks: int) -> None:
        self._capacity, self._shape = capacity, (learners, tasks)
        self._known: dict[str, Remembered] = {}
        self._next = 0
        self._newest_matched = 0

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, example_id: str) -> bool:
        return example_id in self._known

    @property
    def ahead(self) -> int:
        """How many examples were predicted after the newest one that an example has asked for."""
        return self._next - self._newest_matched

    def put(self, example_id: str, probabilities: NDArray[np.float32], ts: int, awaited_ms: int) -> Remembered | None:
        """Remembers predictions f32 [L, T] of an example that is not known yet, shown at `ts` (ms).

        None where the memory is full, and the oldest is a fake negative from after `awaited_ms` whose example is still
        awaited: forgotten, it would be learned twice.
        """
        while len(self._known) >= self._capacity:
            name, oldest = next(iter(self._known.items()))
            if oldest.awaited and oldest.ts > awaited_ms:
                return None
            del self._known[name]
        tasks = self._shape[1]
        entry = Remembered(self._next, probabilities.tobytes(), [None] * tasks, ts, False, [1.0] * tasks)
        self._known[example_id] = entry
        self._next += 1
        return entry

    def get(self, example_id: str) -> Remembered | None:
        """What is remembered of an example for which a label came."""
        entry = self._known.get(example_id)
        if entry is not None:
            self._newest_matched = max(self._newest_matched, entry.number)
        return entry

    def probabilities(self, entry: Remembered) -> NDArray[np.float32]:
        """f32 [L, T]."""
        return np.frombuffer(entry.probabilities, dtype=np.float32).reshape(self._shape)

    def items(self) -> Iterator[tuple[str, Remembered]]:
        """All that is remembered, oldest first."""
        return iter(self._known.items())

    def restore(self, kept: list[tuple[str, Remembered]]) -> None:
        """Takes over what a checkpoint kept; predictions of other learners or tasks are left out."""
        size = 4 * self._shape[0] * self._shape[1]
        self._known = {name: entry for name, entry in kept if len(entry.probabilities) == size}
        for entry in self._known.values():
            # Older checkpoints do not say what weighed how much.
            entry.weights = entry.weights or [1.0] * self._shape[1]
        self._next = 1 + max((entry.number for _, entry in kept), default=-1)
        self._newest_matched = max((e.number for _, e in kept if any(v is not None for v in e.labels)), default=0)
