"""Arrays to files and back, with checksums; files and folders to the disk for good."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from online_learning.checkpoint.checkpoint import ArrayEntry, CheckpointError, FileEntry

# Arrays begin at multiples of this, so that a reader may map them and use them in place.
ALIGNMENT = 64
# Bytes handed to the disk at once: large enough for its full speed, small enough to let other threads in between.
PIECE_BYTES = 8 << 20


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file and fsync it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _bytes_of(array: NDArray[Any]) -> memoryview:
    raw: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(raw)


@contextmanager
def local_sink(path: Path) -> Iterator[Callable[[memoryview], int]]:
    """Takes pieces of a file and says how many bytes it took; the file is on the disk for good afterwards."""
    with path.open("wb", buffering=0) as file:
        yield file.write
        os.fsync(file.fileno())


def write_arrays(name: str, arrays: Mapping[str, NDArray[np.generic]], write: Callable[[memoryview], int]) -> FileEntry:
    """Hand arrays one behind the other to `write`, in pieces, and say where each lies. Raises OSError."""
    checksum = xxhash.xxh3_128()
    entries: list[ArrayEntry] = []
    offset = 0

    def put(piece: memoryview) -> None:
        nonlocal offset
        while piece:
            written = write(piece[:PIECE_BYTES])
            checksum.update(piece[:written])
            offset += written
            piece = piece[written:]

    for array_name, array in arrays.items():
        put(memoryview(bytes(-offset % ALIGNMENT)))
        entries.append(ArrayEntry(array_name, array.dtype.str, array.shape, offset))
        if array.nbytes:
            put(_bytes_of(array))
    return FileEntry(name, offset, checksum.hexdigest(), tuple(entries))


def arrays_in(content: NDArray[np.uint8], entry: FileEntry) -> dict[str, NDArray[np.generic]]:
    """The arrays of a part's bytes, after their number and checksum have been compared.

    Raises CheckpointError where they differ.
    """
    if len(content) != entry.size_bytes:
        raise CheckpointError(f"{entry.name} has {len(content)} bytes, the manifest says {entry.size_bytes}")
    if xxhash.xxh3_128_hexdigest(_bytes_of(content)) != entry.xxh3_128:
        raise CheckpointError(f"{entry.name} does not match its checksum")
    arrays: dict[str, NDArray[np.generic]] = {}
    for array in entry.arrays:
        dtype = np.dtype(array.dtype)
        size = dtype.itemsize * int(np.prod(array.shape))
        arrays[array.name] = content[array.offset : array.offset + size].view(dtype).reshape(array.shape)
    return arrays
