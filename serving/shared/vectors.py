"""Retrieval vectors of all items as one matrix in shared memory, for BLAS; a sequence lock per 64 rows."""

import mmap
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from serving.shared import seqlock
from serving.shared.files import PAGE_BYTES, NewFile, Words, map_read, wait_for_writer
from serving.shared.head import File, HeadWriter

BLOCK: Final = 64
"""Rows under one lock."""

_PAGE_WORDS = PAGE_BYTES // 8
# A row is written in some 50 ns: a writer that is not through by then waits for a processor, or is dead.
_SPINS = 2_000


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


@njit(cache=True, nogil=True)
def _score_blocks(locks, matrix, query, blocks, out):  # type: ignore[no-untyped-def]
    """out of the rows of these blocks, each block from one moment; -inf for those that were busy all the time.

    The busy ones are left at the front of `blocks`; how many.
    """
    busy = 0
    for i in range(blocks.shape[0]):
        block = blocks[i]
        done = False
        for _ in range(_SPINS):
            before = seqlock.load_acquire(locks, block)
            if before & np.uint64(1):
                continue
            for row in range(block * BLOCK, min(out.shape[0], (block + 1) * BLOCK)):
                total = np.float32(0)
                for column in range(query.shape[0]):
                    total += matrix[row, column] * query[column]
                out[row] = total
            if seqlock.read_again(locks, block) == before:
                done = True
                break
        if not done:
            out[block * BLOCK : min(out.shape[0], (block + 1) * BLOCK)] = -np.inf
            blocks[busy] = block
            busy += 1
    return busy


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

    def __init__(self, mapped: mmap.mmap, folder: Path) -> None:
        self._folder = folder
        words: Words = np.frombuffer(mapped, np.uint64)
        self.incarnation, self.rows, self.width = (int(word) for word in words[:3])
        locks, _ = _words(self.rows, self.width)
        self._locks = words[_PAGE_WORDS : _PAGE_WORDS + locks]
        self.matrix = _matrix(words, self.rows, self.width)

    def scores(self, query: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """Dot products f32 [n] of the first n vectors with query f32 [width]; blocks that changed meanwhile again.

        -inf where the writer died in the middle of a block, until its successor is there.
        """
        blocks = -(-n // BLOCK)
        before, after = np.empty(blocks, np.uint64), np.empty(blocks, np.uint64)
        _read_locks(self._locks, before)
        plain = np.require(query, np.float32, ("C", "W"))
        out = np.asarray(self.matrix[:n] @ plain, np.float32)
        _read_locks(self._locks, after)
        torn = np.flatnonzero((before != after) | (after & np.uint64(1) != 0))
        if len(torn):
            wait_for_writer(lambda: self._again(plain, torn, out), self._folder)
        return out

    def _again(self, query: NDArray[np.float32], torn: NDArray[np.int64], out: NDArray[np.float32]) -> int:
        """Scores the blocks at the front of `torn` up to the first -1; how many are busy still."""
        left = torn[torn >= 0]
        busy = int(_score_blocks(self._locks, self.matrix, query, left, out))
        torn[:] = -1
        torn[:busy] = left[:busy]
        return busy


def map_vectors(path: Path) -> Vectors:
    """Maps a generation. Raises FileNotFoundError."""
    return Vectors(map_read(path), path.parent)


def _matrix(words: Words, rows: int, width: int) -> NDArray[np.float32]:
    locks, matrix = _words(rows, width)
    start = _PAGE_WORDS + locks
    floats: NDArray[np.float32] = words[start : start + matrix].view(np.float32)
    return floats[: rows * width].reshape(rows, width)
