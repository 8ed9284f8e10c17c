"""Keys that had a row: what was removed, and when, until everybody who has to know does."""

from typing import Any

import numpy as np

from online_learning.table import admission
from online_learning.table.arguments import Keys, Slots
from online_learning.table.directory import MOST_BYTES, Directory
from online_learning.table.export import TableFull
from online_learning.table.headers import LIVE
from online_learning.table.memory import usable_bytes
from online_learning.table.settings import MAX_ROWS
from online_learning.table.workers import Workers

# Where the address space for more is refused.
SMALLEST = 1 << 20


def admit_all() -> tuple[Any, ...]:
    """The admission arguments of an insertion that every key passes."""
    sketch = np.zeros(admission.SKETCH_ROWS, np.uint16)
    return admission.ALWAYS, 1, np.uint64(0), sketch, np.zeros(2, np.int64)


class TombstonesFull(TableFull):
    """No more removals can be remembered: forget those that every checkpoint and replica is past."""


class Tombstones:
    """Removed keys with their versions; `directory` tells which are touched, in flight or unsaved.

    Even a small table can lose any number of rows before the next checkpoint, so there is room for as many as memory
    holds: address space only, until they are there. Where that is refused, for a million or `reserved`.
    """

    def __init__(self, reserved: int, seed: int) -> None:
        smaller = max(reserved, SMALLEST)
        room = max(smaller, min(MAX_ROWS, usable_bytes() // MOST_BYTES))
        try:
            self.directory = Directory(room, room, seed)
        except OSError:
            self.directory = Directory(smaller, smaller, seed)
        self.forgotten_before = 0

    def __len__(self) -> int:
        return len(self.directory)

    def expect(self, count: int) -> None:
        """Raises TombstonesFull where so many more may not fit: to be asked before rows go."""
        if count > self.directory.room:
            raise TombstonesFull(f"{len(self)} removals are remembered: {count} more do not fit")

    def bury(self, keys: Keys, now_s: int, version: int) -> int:
        """Leave a tombstone for every key u64 [n]; how many. Raises TombstonesFull."""
        graves, _ = self.directory.upsert(keys, np.zeros(len(keys), np.uint16), now_s, version, admit_all())
        self.directory.touch(graves, version)
        if (graves < 0).any():
            raise TombstonesFull(f"{len(self)} removals are remembered, all that fit")
        return len(keys)

    def revive(self, keys: Keys) -> None:
        """These keys have rows again."""
        self.directory.drop(keys)

    def forget(self, before_version: int) -> int:
        """Forget removals before a version that are saved and acknowledged; how many."""
        directory = self.directory
        self.forgotten_before = max(self.forgotten_before, before_version)
        slots = directory.live()
        keys, versions, _ = directory.header(slots)
        settled = directory.flags[slots] == LIVE
        old = keys[settled & (versions < np.uint64(before_version))]
        directory.drop(old)
        return len(old)

    def versions_of(self, keys: Keys, workers: Workers) -> Keys:
        """Versions u64 [n] at which keys u64 [n] were removed; 0: not known any more."""
        graves: Slots = self.directory.find(keys, workers)
        versions = np.zeros(len(keys), np.uint64)
        versions[graves >= 0] = self.directory.header(graves[graves >= 0])[1]
        return versions
