"""Address space that is reserved once and filled slab by slab, so that nothing in it ever moves."""

import ctypes
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from online_learning.table.atomics import atomic_load, touch
from online_learning.table.compiled import kernel
from online_learning.table.workers import Workers

# Linux, x86-64 and arm64; Python 3.11's mmap module does not name it yet. Pages not yet written cost nothing.
MAP_NORESERVE = 0x4000
HUGE_PAGE_BYTES = 2 << 20


USABLE = 0.75
"""A table's share of memory, at most: the rest is for its process, what it removed, and copies of what changed."""


@cache
def usable_bytes() -> int:
    """What a table may take in bytes: its share of the machine's memory, or of what the control groups allow."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        membership = Path("/proc/self/cgroup").read_text()
    except OSError:
        membership = ""
    return int(USABLE * min([physical, *cgroup_limits(membership, Path("/sys/fs/cgroup"))]))


def cgroup_limits(membership: str, mount: Path) -> list[int]:
    """Limits in bytes of the control groups (v1, v2) that hold a process and of those above them, as far as they show
    below `mount`. `membership`: its /proc/PID/cgroup."""
    limits = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = Path(path.lstrip("/"))
        # In a container, the path may be the host's, of which only the last part is to be seen: at the mount itself.
        for group in (inner, *inner.parents):
            try:
                limits.append(int((base / group / name).read_text()))
            except (OSError, ValueError):
                # There is no such group here, or it has no limit ("max").
                continue
    return limits


def reserve(length: int, dtype: Any) -> NDArray[Any]:
    """A zeroed array [length] of `dtype` whose pages take memory only once they are written.

    Addresses stay valid for the array's life, which is what "slabs never move" rests on: growing a table only
    writes further into the reservation. Raises OSError where the address space is refused.
    """
    kind = np.dtype(dtype)
    size_bytes = max(length, 1) * kind.itemsize
    # Begins at a huge page, hence at a cache line: an embedding of 32 floats then spans two lines, not three.
    mapped_bytes = size_bytes + HUGE_PAGE_BYTES
    try:
        region = mmap.mmap(-1, mapped_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{mapped_bytes / 2**30:.1f} GiB of address space were refused (vm.overcommit_memory = 2 or ulimit -v?): "
            "set the full policy evict or refuse and a lower `max_rows`",
        ) from error
    whole = np.frombuffer(region, dtype=np.uint8)
    skip = -whole.ctypes.data % HUGE_PAGE_BYTES
    return whole[skip : skip + size_bytes].view(kind)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_madvise: Any = types.ExternalFunction("madvise", types.int32(types.intp, types.intp, types.int32))
SMALL_PAGE_BYTES = mmap.PAGESIZE
HUGE = mmap.MADV_HUGEPAGE

# What is known of a writer, i64 [2]: how many units it has written, and how many it comes on while a page is made.
WRITTEN, STRIDE = 0, 1
WRITER_WORDS = 2


@kernel
def take_range(address, end_address, begin, end):  # type: ignore[no-untyped-def]
    """Touch what of [address, end_address) is in its huge pages [begin, end), counted from the first."""
    for page in range(address // HUGE_PAGE_BYTES + begin, address // HUGE_PAGE_BYTES + end):
        first = max(address, page * HUGE_PAGE_BYTES)
        for place in range(first, min(end_address, (page + 1) * HUGE_PAGE_BYTES), SMALL_PAGE_BYTES):
            touch(place)


@kernel
def take_before(address, end_address, origin, unit, near, writer):  # type: ignore[no-untyped-def]
    """Take [address, end_address) beside a writer, by huge pages: none that it may come to while it is made.

    The writer uses `unit` bytes at a time from `origin` on; writer[WRITTEN] says how many units, and it may be `near`
    units further. A huge page is declared just before it is touched: whoever writes to a declared one must wait for all
    of it, while one that is left alone comes in small pages, each a matter of microseconds.
    """
    for page in range(address // HUGE_PAGE_BYTES, (end_address - 1) // HUGE_PAGE_BYTES + 1):
        first = max(address, page * HUGE_PAGE_BYTES)
        last = min(end_address, (page + 1) * HUGE_PAGE_BYTES)
        written = atomic_load(writer, WRITTEN)
        # Twice as far as it came while one of the last pages was made: they do not all take the same time.
        if first < origin + (written + near + 2 * writer[STRIDE]) * unit:
            continue
        _madvise(first, last - first, HUGE)
        for place in range(first, last, SMALL_PAGE_BYTES):
            touch(place)
        writer[STRIDE] = max(atomic_load(writer, WRITTEN) - written, writer[STRIDE] - writer[STRIDE] // 8)


def _span(array: NDArray[Any], begin: int, end: int) -> tuple[int, int]:
    """The addresses [first, behind the last) of the small pages of elements [begin, end) of a reservation.

    The last huge page is taken whole: of a part the kernel would make small ones for good.
    """
    address, size = array.ctypes.data, array.itemsize
    first = address + begin * size & -SMALL_PAGE_BYTES
    return first, min(-(-(address + end * size) // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES, address + array.nbytes)


def populate(array: NDArray[Any], begin: int, end: int, workers: Workers) -> None:
    """Give memory to elements [begin, end) of a reservation now, in huge pages, without changing them.

    Huge pages matter for random access to gigabytes: without them nearly every row costs a page walk besides its
    cache miss. By touching them, which holds up nobody; MADV_POPULATE_WRITE has all of the process's mmap calls wait.
    """
    first, last = _span(array, begin, end)
    if last > first:
        _libc.madvise(first, last - first, HUGE)
        pages = -(-last // HUGE_PAGE_BYTES) - first // HUGE_PAGE_BYTES
        workers.run(take_range, pages, first, last, piece=1)


def take_ahead(array: NDArray[Any], begin: int, end: int, per_unit: int, near: int, writer: NDArray[np.int64]) -> None:
    """populate beside a writer, as in `take_before`, that uses `per_unit` elements at a time."""
    first, last = _span(array, begin, end)
    if last > first:
        take_before(first, last, array.ctypes.data, per_unit * array.itemsize, near, writer)


class Ahead:
    """Keeps the pages that growing arrays will need next in memory, by a thread of its own, in huge pages.

    The first write to a huge page waits for the kernel to find and zero 2 MiB, milliseconds on a busy or virtual
    machine: so they are made ahead of use only, and what a writer that is quicker reaches first stays in small pages.

    `add(array, per_row)`: an array of which a table takes `per_row` elements for every row. Small tables are left
    alone: for them a page is cheap, and memory ahead of use would be most of what they take.
    """

    SMALLEST = 1 << 16
    SHARE = 8
    AT_ONCE = 1 << 14
    NEAR = 1 << 14

    def __init__(self) -> None:
        self._arrays: list[tuple[NDArray[Any], int]] = []
        self._rows = 0
        self._writer = np.zeros(WRITER_WORDS, np.int64)
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0

    def add(self, array: NDArray[Any], per_row: int) -> None:
        """Have an array kept ahead, `per_row` elements a row."""
        if per_row:
            self._arrays.append((array, per_row))

    def prepared(self, rows: int) -> None:
        """So many rows have their memory already."""
        self._rows = max(self._rows, rows)

    def fill(self, rows: int, new: int, workers: Workers) -> None:
        """Have the memory of the table's first `rows` rows now, if `new` of them came at once: a thread of its own
        cannot keep up with that, and small pages would cost twice as much as all else about a new row."""
        if new >= self.AT_ONCE and rows > self._rows:
            for array, per_row in self._arrays:
                populate(array, self._rows * per_row, rows * per_row, workers)
            self._rows = rows

    def reached(self, rows: int, new: int) -> None:
        """The table now uses `rows` rows, of which `new` came at once; returns at once.

        Where many come at once `fill` goes before them: two that take memory would only hold each other up.
        """
        self._writer[WRITTEN] = max(self._writer[WRITTEN], rows)
        if rows < self.SMALLEST or new >= self.AT_ONCE:
            return
        step = max(self.SMALLEST, rows // self.SHARE)
        if rows + step // 2 > self._rows:
            begin, self._rows = max(rows, self._rows), rows + step
            # By so many rows at a time, so that no array waits until another has all of its memory.
            for first in range(begin, self._rows, self.SMALLEST):
                end = min(first + self.SMALLEST, self._rows)
                for array, per_row in self._arrays:
                    self.soon(array, first * per_row, end * per_row, per_row, self.NEAR, self._writer)

    def soon(
        self, array: NDArray[Any], begin: int, end: int, per_unit: int, near: int, writer: NDArray[np.int64]
    ) -> None:
        """`take_ahead` in the background."""
        if self._pool is None or self._owner != os.getpid():
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="table-memory")
            self._owner = os.getpid()
        self._pool.submit(take_ahead, array, begin, end, per_unit, near, writer)
