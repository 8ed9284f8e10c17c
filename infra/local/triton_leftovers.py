"""What Triton's Python backend leaves in /tmp when it is killed: an empty folder a life, whose path is fixed.

Whose it is a folder does not say. It is nobody's where every living process that has the backend in memory began after
it was made: all processes of this user count, whichever stack they belong to. (Of a container that shares /tmp and not
its processes nothing is seen; what its Triton has unpacked there is not empty, and stays.)
"""

import contextlib
import logging
import os
import stat
from pathlib import Path
from typing import Final

from infra.local.identity import started_s

logger = logging.getLogger(__name__)

_FOLDERS: Final = "python_env_??????"
_BACKEND: Final = b"/libtriton_python.so"
# Starts of processes are known to the second, and by another clock than times of files.
_SLACK_S: Final = 2.0


def remove_leftovers(folder: Path = Path("/tmp")) -> None:
    """Removes the empty folders of this user in `folder` that no living process can have made. What holds something,
    and what a living one may have made, stays."""
    found = [(path, status.st_ctime) for path in folder.glob(_FOLDERS) if _is_own_folder(status := path.lstat())]
    if not found:
        return
    oldest_s = min(_backends_began_s(), default=float("inf"))
    kept = 0
    for path, made_s in found:
        if made_s + _SLACK_S >= oldest_s:
            kept += 1
            continue
        with contextlib.suppress(OSError):  # not empty, or somebody else was faster
            path.rmdir()
    if kept:
        logger.info("%d folders %s/%s stay: a living Triton may have made them", kept, folder, _FOLDERS)


def _is_own_folder(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _backends_began_s() -> list[float]:
    """When every living process of this user began that has the backend in memory."""
    began = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != os.getuid() or not _has_backend(entry):
                continue
            began.append(started_s(int(entry.name)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return began


def _has_backend(process: Path) -> bool:
    try:
        return _BACKEND in (process / "maps").read_bytes()
    except PermissionError:
        # It may do more than we may, as a container's first process: its command is all that it shows.
        return b"triton" in (process / "cmdline").read_bytes()
