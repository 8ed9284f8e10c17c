"""Files in shared memory: made whole, then renamed into place; a mapped one is never cut or overwritten by another."""

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.failpoints import hit

Words = NDArray[np.uint64]

PAGE_BYTES: Final = 4096
LOCK: Final = "lock"


class SharedMemoryFull(RuntimeError):
    """The shared memory has no room for a file of `size_bytes`; nothing that was there has changed."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        super().__init__(f"{path.parent}: no room for {size_bytes:,} bytes of {path.name}")
        self.size_bytes = size_bytes


class AlreadyRunning(RuntimeError):
    """Another process writes this folder."""


# struct flock of 64-bit Linux: type, whence, start, length, process.
_FLOCK: Final = struct.Struct("hhqqi4x")


def lock_folder(folder: Path) -> int:
    """Makes this process the folder's only writer, for as long as the returned descriptor is open.

    The kernel drops the lock with the process, also after kill -9, and it holds across containers that share the
    folder. Raises AlreadyRunning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        os.close(held)
        raise AlreadyRunning(f"{folder}: another replica writes here") from error
    return held


def has_writer(folder: Path) -> bool:
    """Whether a process that called `lock_folder` lives."""
    try:
        asked = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # A reader that may not even write here cannot ask; better wait than take a live writer for a dead one.
        return (folder / LOCK).exists()
    try:
        answer = fcntl.fcntl(asked, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(asked)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


# A row is held for nanoseconds, or while a writer that holds it waits for a processor. A writer killed in the middle
# leaves it so until its successor has built the next generation: until then the row counts as absent, and is never
# read half written. A writer that lives but stands still (stopped, swapped out) is not waited for without end.
_ASK_AFTER_S: Final = 0.005
_GIVE_UP_S: Final = 1.0


def wait_for_writer(busy: Callable[[], int], folder: Path) -> None:
    """Calls `busy` until it finds nothing that is being written, or nobody is there to finish it."""
    begun_s = time.monotonic()
    while busy():
        waited_s = time.monotonic() - begun_s
        if waited_s > _GIVE_UP_S or (waited_s > _ASK_AFTER_S and not has_writer(folder)):
            return
        time.sleep(0)


class NewFile:
    """A file being made: write through `words` (u64, zeroed), then `publish` it under its name."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._temporary = path.with_name(path.name + ".new")
        size_bytes = -(-max(size_bytes, 1) // PAGE_BYTES) * PAGE_BYTES
        # Whoever mapped an older leftover keeps it; this one is a file of its own.
        self._temporary.unlink(missing_ok=True)
        handle = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            # Reserved now: a page that the kernel cannot give later would kill the process instead of raising.
            os.posix_fallocate(handle, 0, size_bytes)
            self.map = mmap.mmap(handle, size_bytes)
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise SharedMemoryFull(path, size_bytes) from error
            raise
        finally:
            os.close(handle)
        self.words: Words = np.frombuffer(self.map, np.uint64)

    def publish(self) -> None:
        """Gives the file its name; it stays mapped and writable here."""
        self._temporary.rename(self.path)


def map_read(path: Path) -> mmap.mmap:
    """Maps a file read-only. Raises FileNotFoundError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file so that a reader sees the old one or the new one. Raises SharedMemoryFull."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(data)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise SharedMemoryFull(path, len(data)) from error
        raise
    hit("replica.file-written")
    temporary.rename(path)
    hit("replica.file-renamed")


def has_room(folder: Path, size_bytes: int) -> bool:
    """Whether a file of that size fits where the folder lies."""
    return shutil.disk_usage(folder).free >= size_bytes


def drop_unfinished(folder: Path) -> None:
    """Removes what was begun and never got its name: by the folder's one writer, when it makes nothing."""
    for path in folder.glob("*.new"):
        path.unlink(missing_ok=True)


def generation_path(folder: Path, name: str, generation: int) -> Path:
    """Where a generation of a file is."""
    return folder / f"{name}.{generation}"


def drop_others(folder: Path, name: str, keep: int) -> None:
    """Removes all generations of a file but `keep`, and what was never finished; whoever mapped one keeps it."""
    kept = generation_path(folder, name, keep)
    for path in folder.glob(f"{name}.*"):
        if path != kept:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
