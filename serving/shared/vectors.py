"""Retrieval vectors of all items as one matrix in shared memory, for BLAS; a sequence lock per 64 rows."""

import mmap
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from serving.shared import seqlock
from serving.shared.files import PAGE_BYTES, NewFile, Words, map_read
from serving.shared.head import File, HeadWriter

BLOCK: Final = 64
"""Rows under one lock."""

_PAGE_WORDS = PAGE_BYTES // 8
# A reader that met a writer this often takes what it has: a vector that is half of one step and half of the next only
# shifts one candidate's place among hundreds, and ranking reads the rows themselves.
_TRIES = 8


@njit(cache=True)
def _write(locks, matrix, slots, values):  # type: ignore[no-untyped-def]
    for i in range(slots.shape[0]):
        block = slots[i] // BLOCK
        seqlock.write_begin(locks, block)
        for column in range(values.shape[1]):
            matrix[slots[i], column] = values[i, column]
        seqlock.write_end(locks, block)


@njit(cache=True, nogil=True)
def _read_locks(locks, out):  # type: ignore[no-untyped-def]
    for block in range(out.shape[0]):
        out[block] = seqlock.load_acquire(locks, block)


def _words(rows: int, width: int) -> tuple[int, int]:
    """Words of (locks, matrix), each a whole number of pages so that the matrix is aligned."""
    locks = -(-rows // BLOCK)
    return -(-locks // _PAGE_WORDS) * _PAGE_WORDS, -(-(rows * width) // 2)


class VectorsWriter:
    """The replica's side; grows by new generations."""

    def __init__(self, head: HeadWriter, incarnation: int, width: int) -> None:
        self._head, self._incarnation, self.width = head, incarnation, width
        self._rows = 0
        self._locks: Words = np.empty(0, np.uint64)
        self._matrix: NDArray[np.float32] = np.empty((0, width), np.float32)
        self.make_room(1024)

    def make_room(self, rows: int) -> None:
        """Makes sure that `rows` items fit. Raises SharedMemoryFull."""
        if rows <= self._rows:
            return
        rows = -(-max(rows, 2 * self._rows) // BLOCK) * BLOCK
        locks, matrix = _words(rows, self.width)
        file = NewFile(self._head.next_path(File.VECTORS), (_PAGE_WORDS + locks + matrix) * 8)
        file.words[:3] = self._incarnation, rows, self.width
        view = _matrix(file.words, rows, self.width)
        view[: self._rows] = self._matrix
        file.publish()
        self._head.advance(File.VECTORS)
        self._rows, self._matrix = rows, view
        self._locks = file.words[_PAGE_WORDS : _PAGE_WORDS + locks]

    def write(self, slots: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Writes vectors f32 [n, width] of slots i64 [n]."""
        if len(slots):
            self.make_room(int(slots.max()) + 1)
            _write(self._locks, self._matrix, slots, np.require(values, np.float32, ("C", "W")))


class Vectors:
    """One mapped generation, for readers: `matrix` f32 [rows, width], as it is at each look."""

    def __init__(self, mapped: mmap.mmap) -> None:
        words: Words = np.frombuffer(mapped, np.uint64)
        self.incarnation, self.rows, self.width = (int(word) for word in words[:3])
        locks, _ = _words(self.rows, self.width)
        self._locks = words[_PAGE_WORDS : _PAGE_WORDS + locks]
        self.matrix = _matrix(words, self.rows, self.width)

    def scores(self, query: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """Dot products f32 [n] of the first n vectors with query f32 [width]; blocks that changed meanwhile again."""
        blocks = -(-n // BLOCK)
        before, after = np.empty(blocks, np.uint64), np.empty(blocks, np.uint64)
        _read_locks(self._locks, before)
        out = self.matrix[:n] @ query
        for _ in range(_TRIES):
            _read_locks(self._locks, after)
            torn = np.flatnonzero((before != after) | (after & np.uint64(1) != 0))
            if not len(torn):
                break
            before = after.copy()
            for block in torn.tolist():
                rows = slice(block * BLOCK, min(n, (block + 1) * BLOCK))
                out[rows] = self.matrix[rows] @ query
        return np.asarray(out, np.float32)


def map_vectors(path: Path) -> Vectors:
    """Maps a generation. Raises FileNotFoundError."""
    return Vectors(map_read(path))


def _matrix(words: Words, rows: int, width: int) -> NDArray[np.float32]:
    locks, matrix = _words(rows, width)
    start = _PAGE_WORDS + locks
    floats: NDArray[np.float32] = words[start : start + matrix].view(np.float32)
    return floats[: rows * width].reshape(rows, width)
