"""The stack that is put under test: real processes under their own supervisor, in a folder and on ports of its own."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from infra import settings as settings_module
from infra.control import start, stop
from infra.local.ending import send
from infra.local.identity import Identity, alive
from infra.local.logs import tail
from infra.local.stack import install
from infra.local.state import ProcessStatus, State
from infra.settings import Settings, resolved
from infra.status import running
from streams.health import Value, read_health

NAMES: Final = ("kafka", "clickhouse", "worker", "trainer", "replica", "sink")
# Feast takes nine seconds of a core to begin.
FEAST: Final = ("redis", "features")
_POLL_S: Final = 0.02


class Failed(Exception):
    """Something did not come to pass in time; the message says what, and the last words of who should have done it."""


class Arena:
    """Starts on `start`, ends on `stop` or, whatever happens to us, when this process ends."""

    def __init__(self, folder: Path, config: str, names: tuple[str, ...] = NAMES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / settings_module.FILE
        self._config.write_text(config)
        self._names = names
        self._first = settings_module.load(self._config, folder / "state")
        self.state = State(self._first.state)
        self.state.create()

    @property
    def settings(self) -> Settings:
        """The complete settings, with the addresses of the servers."""
        return resolved(self.state.folder)

    def start(self) -> None:
        """Waits until everything answers; brings back what was fenced. Raises StackError."""
        install(self._first, self._names)
        start(self._first, self._names, self._config, os.getpid(), lambda _: None)

    def stop(self) -> None:
        """Ends everything in order."""
        stop(self._first, lambda _: None)

    def process(self, name: str) -> ProcessStatus:
        """How the supervisor sees a process. Raises Failed where no supervisor runs."""
        status = running(self.state)
        if status is None:
            raise Failed(f"the supervisor of {self.state.folder} is gone\n{self.words('supervisor')}")
        return next(process for process in status.processes if process.name == name)

    def identity(self, name: str) -> Identity | None:
        """The process that has this name now, if it lives."""
        found = next((record.identity for record in self.state.records() if record.name == name), None)
        return found if found is not None and alive(found) else None

    def kill(self, name: str) -> bool:
        """kill -9 of the process, where there is one at this moment; whether there was."""
        victim = self.identity(name)
        if victim is None:
            return False
        send(victim, signal.SIGKILL)
        return True

    def value(self, name: str, key: str) -> Value:
        """What a process says of itself; 0 before it has said anything."""
        report = read_health(self.state.health(name))
        return 0 if report is None else report.values.get(key, 0)

    def words(self, name: str, lines: int = 8) -> str:
        """The end of a log."""
        path = self.state.log(name)
        return f"--- {name}\n{tail(path, lines).decode(errors='replace') if path.exists() else ''}"

    def log_size(self, name: str) -> int:
        """How long the log is now, for `said_since`."""
        path = self.state.log(name)
        return path.stat().st_size if path.exists() else 0

    def said_since(self, name: str, size: int) -> str:
        """What a process logged since its log had this size."""
        with self.state.log(name).open("rb") as log:
            log.seek(size)
            return log.read().decode(errors="replace")

    def wait(self, condition: Callable[[], object], timeout_s: float, what: str, *blamed: str) -> None:
        """Waits until the condition holds. Raises Failed."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                words = "\n".join(self.words(name) for name in (*blamed, "supervisor"))
                raise Failed(f"not within {timeout_s:g} s: {what}\n{words}")
            time.sleep(_POLL_S)
