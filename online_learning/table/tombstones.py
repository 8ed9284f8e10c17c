"""Keys that had a row: what was removed, and when, until everybody who has to know does."""

from typing import Any

import numpy as np

from online_learning.table import admission
from online_learning.table.arguments import Keys, Slots
from online_learning.table.directory import Directory
from online_learning.table.headers import LIVE
from online_learning.table.workers import Workers

# Room for tombstones of even a small table's churn; address space only, until they are there.
SMALLEST = 1 << 20


def admit_all() -> tuple[Any, ...]:
    """The admission arguments of an insertion that every key passes."""
    sketch = np.zeros(admission.SKETCH_ROWS, np.uint16)
    return admission.ALWAYS, 1, np.uint64(0), sketch, np.zeros(2, np.int64)


class TombstonesFull(Exception):
    """No more removals can be remembered: forget those that every checkpoint and replica is past."""


class Tombstones:
    """Removed keys with their versions; `directory` tells which are touched, in flight or unsaved."""

    def __init__(self, reserved: int, seed: int) -> None:
        self.directory = Directory(max(reserved, SMALLEST), max(reserved, SMALLEST), seed)
        self.forgotten_before = 0

    def __len__(self) -> int:
        return len(self.directory)

    def bury(self, keys: Keys, now_s: int, version: int) -> int:
        """Leave a tombstone for every key u64 [n]; how many. Raises TombstonesFull."""
        graves, _ = self.directory.upsert(keys, np.zeros(len(keys), np.uint16), now_s, version, admit_all())
        self.directory.touch(graves[graves >= 0], version)
        if len(graves) and graves.min() < 0:
            raise TombstonesFull(f"{len(self)} tombstones are kept, all that fit")
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
