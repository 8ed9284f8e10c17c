"""Processes for tests to kill, each forked from one that has imported everything: torch alone takes seconds."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_CONTEXT: Final = multiprocessing.get_context("forkserver")
# What runs in such processes. The server imports them when the first process is started.
_CONTEXT.set_forkserver_preload(
    [
        "online_learning.backfill",
        "online_learning.trainer",
        "online_learning.updates.publisher",
        "serving.replica",
        "streams.worker",
        "tests.unit.online_learning.checkpoint.test_store",
    ]
)


class Forked:
    """`target(*arguments)` in a process of its own, begun at once; it ends with this one at the latest.

    `target`: a function of a module. `log`: a file to which what it says is appended.
    """

    def __init__(self, target: Callable[..., object], *arguments: Any, log: Path | None = None) -> None:
        self._process = _CONTEXT.Process(target=_run, args=(target, arguments, log), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, a signal's number below zero where one has ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, where it still runs."""
        if self.poll() is None:
            # It may end at this very moment.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        self._process.kill()
        self.wait(30)

    def wait(self, timeout_s: float) -> int:
        """Its exit code, once it has ended; fails where it does not in time."""
        self._process.join(timeout_s)
        code = self.poll()
        assert code is not None, f"process {self.pid} goes on after {timeout_s:g} s"
        return code


def event() -> Any:
    """An event that such a process can be told of."""
    return _CONTEXT.Event()


def _run(target: Callable[..., object], arguments: tuple[Any, ...], log: Path | None) -> None:
    if log is not None:
        with log.open("ab") as output:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(output.fileno(), stream.fileno())
    target(*arguments)
