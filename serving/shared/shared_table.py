"""The sparse table in shared memory: one writer (the replica), any number of readers that never wait for it.

A file never changes its size: a table that outgrows its file is copied into a larger one, the next generation, while
readers go on with the old. The file's first page says how to read the rest.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.table.digest import Encoding, digest_rows
from serving.shared import table_kernels as kernels
from serving.shared.files import PAGE_BYTES, NewFile, Words, map_read, wait_for_writer
from serving.shared.head import File, HeadReader, HeadWriter, Lineage
from streams.failpoints import hit

Keys = NDArray[np.uint64]
Rows = NDArray[np.float32]

SMALLEST_ROWS: Final = 4096
# Linear probing stays short to about this load.
_MAX_LOAD: Final = 0.6
_PAGE_WORDS = PAGE_BYTES // 8
_CHUNK = 1 << 14


class _Shape(msgspec.Struct, frozen=True):
    """How a file is laid out: index pairs, rows, columns."""

    slots: int
    rows: int
    width: int

    @classmethod
    def for_rows(cls, rows: int, width: int) -> "_Shape":
        rows = max(rows, SMALLEST_ROWS)
        return cls(1 << int(np.ceil(np.log2(rows / _MAX_LOAD))), rows, width)

    @property
    def stride(self) -> int:
        """Words from one row to the next."""
        return kernels.ROW_HEADER + (self.width + 1) // 2

    @property
    def words(self) -> int:
        return _PAGE_WORDS + 2 * self.slots + self.rows * self.stride


class _Views:
    """A mapped file as arrays."""

    def __init__(self, words: Words, shape: _Shape) -> None:
        self.shape = shape
        self.stride, self.mask = shape.stride, shape.slots - 1
        self.index = words[_PAGE_WORDS : _PAGE_WORDS + 2 * shape.slots]
        self.rows = words[_PAGE_WORDS + 2 * shape.slots : shape.words]
        self.floats: Rows = self.rows.view(np.float32)


class SharedTableWriter:
    """Owns the table of a folder. `width`: columns of a row (f32).

    A new writer starts an empty table beside the one that readers use; `publish` makes it theirs.
    """

    def __init__(self, head: HeadWriter, width: int, rows: int = SMALLEST_ROWS) -> None:
        self._head = head
        self._published = False
        self._begin(_Shape.for_rows(rows, width))

    def __len__(self) -> int:
        return int(self._state[kernels.USED_ROWS] - self._state[kernels.FREE_ROWS])

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self._views.shape.width

    @property
    def size_bytes(self) -> int:
        """Bytes of the current file."""
        return self._views.shape.words * 8

    def apply(self, keys: Keys, spaces: NDArray[np.uint16], values: Rows) -> None:
        """Writes rows f32 [n, width] of keys u64 [n] (0 is no key); of equal keys the last. Raises SharedMemoryFull."""
        if values.shape != (len(keys), self.width):
            raise ValueError(f"rows have shape {values.shape}, must be {(len(keys), self.width)}")
        self._make_room(len(keys))
        view = self._views
        kernels.upsert(
            view.index, view.mask, view.rows, view.floats, view.stride, self._state, self._free,
            _owned(keys, np.uint64), _owned(spaces, np.uint16), _owned(values, np.float32),
        )  # fmt: skip

    def remove(self, keys: Keys) -> int:
        """Takes the rows of keys u64 [n] away; how many there were."""
        view = self._views
        plain = _owned(keys, np.uint64)
        return int(kernels.remove(view.index, view.mask, view.rows, view.stride, self._state, self._free, plain))

    def tear(self, keys: Keys) -> None:
        """Leaves the first of these rows u64 [n] that is there half written, as a writer does that dies in it: for
        failpoints, since a kernel cannot be interrupted from outside."""
        view = self._views
        kernels.tear(view.index, view.mask, view.rows, view.floats, view.stride, self.width, _owned(keys, np.uint64))

    def publish(self) -> None:
        """Makes the table that was begun here the one that readers see."""
        if not self._published:
            self._file.publish()
            hit("replica.table-renamed")
            self._head.advance(File.TABLE)
            self._published = True

    def digest(self, encoding: Encoding = Encoding.FP32) -> int:
        """As `Table.digest` of the trainer's."""
        return _digest(self._views, int(self._state[kernels.USED_ROWS]), encoding)

    def lookup(self, keys: Keys) -> tuple[Rows, NDArray[np.bool_]]:
        """As the reader's."""
        return _lookup(self._views, keys, self._head.folder)

    def _begin(self, shape: _Shape) -> None:
        self._file = NewFile(self._head.next_path(File.TABLE), shape.words * 8)
        self._file.words[:3] = shape.slots, shape.rows, shape.width
        self._views = _Views(self._file.words, shape)
        self._state = np.zeros(3, np.int64)
        self._free = np.zeros(shape.rows, np.int64)

    def _make_room(self, more: int) -> None:
        shape = self._views.shape
        rows = len(self) + more
        slots = int(self._state[kernels.USED_SLOTS]) + more
        if int(self._state[kernels.USED_ROWS]) + more <= shape.rows and slots <= _MAX_LOAD * shape.slots:
            return
        if rows <= shape.rows and slots <= _MAX_LOAD * shape.slots and more <= int(self._state[kernels.FREE_ROWS]):
            return
        old, used, seen = self._views, int(self._state[kernels.USED_ROWS]), self._published
        before = (self._file, self._state, self._free)
        try:
            self._begin(_Shape.for_rows(2 * rows, shape.width))
        except Exception:
            self._file, self._state, self._free = before
            raise
        for keys, spaces, values in _chunks(old, used):
            view = self._views
            kernels.upsert(
                view.index, view.mask, view.rows, view.floats, view.stride, self._state, self._free,
                keys, spaces, values,
            )  # fmt: skip
        hit("replica.table-grown")
        self._published = False
        if seen:
            self.publish()


class SharedTableReader:
    """Looks rows up, from any process of the host and without ever blocking the writer. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        self._head = HeadReader(folder)
        self._generation = 0
        self._views: _Views | None = None
        self.refresh()

    def refresh(self) -> None:
        """Maps the current generation; `lookup` does so by itself, this also finds a folder that was made anew."""
        if self._head.refresh():
            self._generation = 0
        self._map()

    def lookup(self, keys: Keys) -> tuple[Rows, NDArray[np.bool_]]:
        """(rows f32 [n, width], found bool [n]) of keys u64 [n]; zeros where there is no row.

        Without any table yet, width is 0.
        """
        self._map()
        if self._views is None:
            return np.zeros((len(keys), 0), np.float32), np.zeros(len(keys), np.bool_)
        return _lookup(self._views, keys, self._head.folder)

    def lineage(self) -> Lineage:
        """What the rows contain; read it before the lookup, which then contains at least this."""
        return self._head.lineage()

    @property
    def width(self) -> int:
        """Columns of a row, 0 without a table."""
        return 0 if self._views is None else self._views.shape.width

    def export(self) -> tuple[Keys, Rows]:
        """All keys u64 [n] and rows f32 [n, width], for checks; consistent only while the writer rests."""
        self._map()
        if self._views is None:
            return np.empty(0, np.uint64), np.empty((0, 0), np.float32)
        parts = list(_chunks(self._views, self._views.shape.rows))
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[2] for part in parts])

    def digest(self, encoding: Encoding = Encoding.FP32) -> int:
        """As `Table.digest` of the trainer's: equal where all rows are, byte for byte."""
        self._map()
        return 0 if self._views is None else _digest(self._views, self._views.shape.rows, encoding)

    def _map(self) -> None:
        while (current := self._head.generation(File.TABLE)) != self._generation:
            try:
                words: Words = np.frombuffer(map_read(self._head.path(File.TABLE, current)), np.uint64)
            except FileNotFoundError:
                # It was replaced between the two looks.
                self._head.refresh()
                if self._head.generation(File.TABLE) == current:
                    return
                continue
            self._views = _Views(words, _Shape(*(int(word) for word in words[:3])))
            self._generation = current


def _lookup(view: _Views, keys: Keys, folder: Path) -> tuple[Rows, NDArray[np.bool_]]:
    plain = _owned(keys, np.uint64)
    out = np.empty((len(plain), view.shape.width), np.float32)
    found = np.empty(len(plain), np.uint8)

    def look(only_busy: bool) -> int:
        index, rows, floats, width = view.index, view.rows, view.floats, view.shape.width
        args = (index, view.mask, rows, floats, view.stride, width, plain, out, found, only_busy)
        return int(kernels.lookup(*args))

    if look(False):
        wait_for_writer(lambda: look(True), folder)
    return out, found == kernels.PRESENT


def _chunks(view: _Views, used: int):  # type: ignore[no-untyped-def]
    for first in range(0, used, _CHUNK):
        size = min(_CHUNK, used - first)
        keys, spaces = np.empty(size, np.uint64), np.empty(size, np.uint16)
        values = np.empty((size, view.shape.width), np.float32)
        kernels.read_rows(view.rows, view.floats, view.stride, view.shape.width, first, keys, spaces, values)
        live = keys != 0
        yield keys[live], spaces[live], values[live]


def _digest(view: _Views, used: int, encoding: Encoding) -> int:
    total = sum(digest_rows(keys, encoding.encode_rows(values)) for keys, _, values in _chunks(view, used))
    return int(total) & 0xFFFF_FFFF_FFFF_FFFF


def _owned(array: NDArray[np.generic], dtype: type[np.generic]):  # type: ignore[no-untyped-def]
    # Writable, because numba compiles everything a second time for read-only arrays.
    return np.require(array, dtype, ("C", "W"))
