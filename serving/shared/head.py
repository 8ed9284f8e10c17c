"""The head page: which generation of every file is current, and how far the replica has applied the update log."""

from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numba import njit

from serving.shared import seqlock
from serving.shared.files import PAGE_BYTES, NewFile, Words, drop_others, generation_path, map_read
from streams.failpoints import hit
from streams.settings import MOST_PARTITIONS

HEAD = "head"
_MAGIC: Final = 0x6672_6573_6865_7401
LAYOUT: Final = 2
"""The version of all layouts in the folder: a reader of another one refuses."""


class File(IntEnum):
    """The files of the folder; the value is the word of the head that holds the current generation (0: none yet)."""

    TABLE = 8
    DENSE = 9
    CATALOGUE = 10
    ITEM_STATS = 11
    VECTORS = 12
    EXPERIMENTS = 13

    @property
    def stem(self) -> str:
        """The file's name without its generation."""
        return self.name.lower()


_LINEAGE_LOCK, _LINEAGE = 2, 16
_EPOCH, _SEQUENCE, _CREATED_AT, _APPLIED_AT, _LEARNED = 0, 1, 2, 3, 4
_LINEAGE_WORDS = _LEARNED + 1 + 2 * MOST_PARTITIONS

# A writer holds the lineage for far less than a microsecond; one that died in it is repaired when it starts again.
_SPINS = 100_000


class Unreadable(RuntimeError):
    """The folder was written by another version of freshet."""


class Lineage(msgspec.Struct, frozen=True):
    """What the shared tables contain.

    `epoch` and `sequence`: the last sparse frame applied (0, 0: none). `learned`: for each examples partition the next
    offset such that all examples before it are completely in. `created_at` (ms): when the trainer made that frame;
    `applied_at` (ms): when it was applied here.
    """

    epoch: int = 0
    sequence: int = 0
    learned: dict[int, int] = {}
    created_at: int = 0
    applied_at: int = 0


@njit(cache=True)
def _write_block(words, lock, start, values):  # type: ignore[no-untyped-def]
    seqlock.write_begin(words, lock)
    for i in range(values.shape[0]):
        words[start + i] = values[i]
    seqlock.write_end(words, lock)


@njit(cache=True)
def _read_block(words, lock, start, out, spins):  # type: ignore[no-untyped-def]
    for _ in range(spins):
        before = seqlock.load_acquire(words, lock)
        if before & np.uint64(1):
            continue
        for i in range(out.shape[0]):
            out[i] = words[start + i]
        if seqlock.read_again(words, lock) == before:
            return True
    return False


class HeadWriter:
    """The replica's side. A head that is there is taken over, so that readers that mapped it go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._words: Words
        path = folder / HEAD
        if not (path.exists() and self._take_over(path)):
            new = NewFile(path, PAGE_BYTES)
            new.words[0], new.words[1] = _MAGIC, LAYOUT
            new.publish()
            self._words = new.words
        if int(self._words[_LINEAGE_LOCK]) & 1:
            # A writer died in the middle: say "nothing" until the first frame is applied.
            self.write_lineage(Lineage())

    def _take_over(self, path: Path) -> bool:
        import mmap

        with path.open("r+b") as handle:
            if handle.seek(0, 2) != PAGE_BYTES:
                return False
            words: Words = np.frombuffer(mmap.mmap(handle.fileno(), PAGE_BYTES), np.uint64)
        if int(words[0]) != _MAGIC or int(words[1]) != LAYOUT:
            return False
        self._words = words
        return True

    def next_path(self, file: File) -> Path:
        """Where the next generation of a file is to be made."""
        return generation_path(self.folder, file.stem, int(self._words[file]) + 1)

    def advance(self, file: File) -> int:
        """Makes the generation at `next_path` current and removes the others; returns it."""
        generation = int(self._words[file]) + 1
        seqlock.store(self._words, int(file), generation)
        hit("replica.head-advanced")
        # A reader that had read the older number finds no file, and reads the number again.
        drop_others(self.folder, file.stem, generation)
        return generation

    def write_lineage(self, lineage: Lineage) -> None:
        """Publishes the lineage, after everything that it speaks of was written."""
        if len(lineage.learned) > MOST_PARTITIONS:
            raise ValueError(f"{len(lineage.learned)} examples partitions, at most {MOST_PARTITIONS} fit the head")
        values = np.zeros(_LEARNED + 1 + 2 * len(lineage.learned), np.uint64)
        values[:_LEARNED] = lineage.epoch, lineage.sequence, lineage.created_at, lineage.applied_at
        values[_LEARNED] = len(lineage.learned)
        values[_LEARNED + 1 :] = [word for pair in sorted(lineage.learned.items()) for word in pair]
        hit(
            "replica.lineage-odd",
            lambda: seqlock.store(self._words, _LINEAGE_LOCK, int(self._words[_LINEAGE_LOCK]) | 1),
        )
        _write_block(self._words, _LINEAGE_LOCK, _LINEAGE, values)


class HeadReader:
    """Serving's side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last = Lineage()
        self._words: Words | None = None
        self._identity: tuple[int, int] | None = None

    def refresh(self) -> bool:
        """Maps the head if it is there and not the one that is mapped; whether it did. Raises Unreadable."""
        try:
            status = (self.folder / HEAD).stat()
        except FileNotFoundError:
            return False
        if self._identity == (status.st_dev, status.st_ino):
            return False
        words: Words = np.frombuffer(map_read(self.folder / HEAD), np.uint64)
        if int(words[0]) != _MAGIC or int(words[1]) != LAYOUT:
            raise Unreadable(f"{self.folder}: layout {int(words[1])}, this reader knows {LAYOUT}")
        self._words, self._identity = words, (status.st_dev, status.st_ino)
        return True

    def generation(self, file: File) -> int:
        """The current generation of a file, 0 where there is none."""
        return 0 if self._words is None else int(seqlock.load(self._words, int(file)))

    def path(self, file: File, generation: int) -> Path:
        """Where a generation of a file is."""
        return generation_path(self.folder, file.stem, generation)

    def lineage(self) -> Lineage:
        """The lineage as one; read it before the rows, which then contain at least what it says."""
        if self._words is None:
            return Lineage()
        out: Any = np.empty(_LINEAGE_WORDS, np.uint64)
        if not _read_block(self._words, _LINEAGE_LOCK, _LINEAGE, out, _SPINS):
            # Only a writer killed within these few stores leaves it so, until it is started again; what was said
            # before still holds.
            return self._last
        epoch, sequence, created_at, applied_at, count = (int(word) for word in out[: _LEARNED + 1])
        pairs = out[_LEARNED + 1 : _LEARNED + 1 + 2 * count].tolist()
        learned = dict(zip(pairs[::2], pairs[1::2], strict=True))
        self._last = Lineage(epoch, sequence, learned, created_at, applied_at)
        return self._last
