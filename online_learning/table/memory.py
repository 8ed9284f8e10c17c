"""Address space that is reserved once and filled slab by slab, so that nothing in it ever moves."""

import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Linux, x86-64 and arm64; Python 3.11's mmap module does not name it yet. Pages not yet written cost nothing.
MAP_NORESERVE = 0x4000
HUGE_PAGE_BYTES = 2 << 20


def physical_bytes() -> int:
    """Memory of this machine in bytes: no table can usefully reserve more."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def reserve(length: int, dtype: Any, *, huge_pages: bool = True) -> NDArray[Any]:
    """A zeroed array [length] of `dtype` whose pages take memory only once they are written.

    Addresses stay valid for the array's life, which is what "slabs never move" rests on: growing a table only
    writes further into the reservation. Huge pages matter for random access to gigabytes: without them nearly
    every row costs a page walk besides its cache miss. Raises OSError where the address space is refused.
    """
    kind = np.dtype(dtype)
    size_bytes = max(length, 1) * kind.itemsize
    mapped_bytes = size_bytes + HUGE_PAGE_BYTES
    region = mmap.mmap(-1, mapped_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    if huge_pages and size_bytes >= 2 * HUGE_PAGE_BYTES:
        region.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(region, dtype=np.uint8)
    # Cache-line (indeed huge-page) alignment: an embedding of 32 floats then spans two lines, not three.
    skip = -whole.ctypes.data % HUGE_PAGE_BYTES
    return whole[skip : skip + max(length, 1) * kind.itemsize].view(kind)
