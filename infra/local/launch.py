"""What the supervisor needs to know to start one process."""

import signal
from pathlib import Path
from typing import Final

import msgspec

SUPERSEDED: Final = 4
"""The exit code of a process whose place another has taken: it is not started again unless somebody asks for it."""


class NotReady(Exception):
    """A server does not answer a real request yet; the message says what it answered instead."""


class Broken(NotReady):
    """A server answers that it is broken: waiting will not help, starting it again will."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One process to start: nothing of the caller's environment is inherited.

    The supervisor adds TMPDIR, a folder of the process's own that is emptied when it starts and removed at the end.
    `shm_prefix`: files under /dev/shm whose names begin so belong to the process and are removed when it is gone
    (a server killed with -9 leaves its regions there).
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    stop_signal: int = signal.SIGTERM
    stop_grace_s: float = 10.0
    shm_prefix: str = ""
