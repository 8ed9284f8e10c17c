"""One log file per process: appended by the process itself, kept from growing for ever, followed by `freshet logs`."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_CHUNK_BYTES = 64 * 1024


def rotate(path: Path, max_bytes: int) -> bool:
    """Moves a log of at least `max_bytes` aside as `.1` (one is kept); True where it did.

    The writer keeps its open file: what is in it is copied and the file is cut to nothing. Writers append, so they go
    on at its new end; lines written between the copy and the cut are lost.
    """
    try:
        if path.stat().st_size < max_bytes:
            return False
    except FileNotFoundError:
        return False
    shutil.copyfile(path, path.with_name(path.name + ".1"))
    with path.open("r+b") as file:
        file.truncate(0)
    return True


def tail(path: Path, lines: int) -> bytes:
    """The last `lines` lines, read from the end."""
    if lines <= 0:
        return b""
    try:
        with path.open("rb") as file:
            position = file.seek(0, 2)
            found = b""
            while position > 0 and found.count(b"\n") <= lines:
                step = min(_CHUNK_BYTES, position)
                position -= step
                file.seek(position)
                found = file.read(step) + found
    except FileNotFoundError:
        return b""
    return b"".join(found.splitlines(keepends=True)[-lines:])


def follow(path: Path, going: Callable[[], bool], poll_s: float = 0.2) -> Iterator[bytes]:
    """What is appended from now on, until `going()` is false; a log that was cut is read from its start."""
    position = path.stat().st_size if path.exists() else 0
    while going():
        size = path.stat().st_size if path.exists() else 0
        if size < position:
            position = 0
        if size == position:
            time.sleep(poll_s)
            continue
        with path.open("rb") as file:
            file.seek(position)
            found = file.read(_CHUNK_BYTES)
        position += len(found)
        yield found
