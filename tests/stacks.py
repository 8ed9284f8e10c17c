"""Real servers for tests: a stack of its own in a temporary folder, on free ports, gone when the test run is gone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local.ending import end_orphans, wait_gone
from infra.local.identity import alive, identify
from infra.local.logs import tail
from infra.local.state import ProcessStatus, StackStatus, State
from infra.settings import Settings, resolved

START_S = 240.0


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Waits until the condition holds; fails, saying what was waited for, when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


class RunningStack:
    """A supervisor in a process of its own and what it runs; it ends by itself when this process ends."""

    def __init__(self, folder: Path, *names: str, config: Path | None = None) -> None:
        self.state = State(folder)
        self.state.create()
        argv = [sys.executable, "-m", "infra.local", "--state", str(folder), "--while", str(os.getpid())]
        argv += ["--only", ",".join(names)] if names else []
        argv += ["--config", str(config)] if config else []
        with self.state.log("supervisor").open("ab") as output:
            self.supervisor = subprocess.Popen(
                argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self.wait_up()
        except BaseException:
            self.stop()
            raise

    @property
    def settings(self) -> Settings:
        """The complete settings, with the addresses of the running servers."""
        return resolved(self.state.folder)

    @property
    def status(self) -> StackStatus | None:
        """The word of this supervisor, once it has spoken."""
        status = self.state.read_status()
        return status if status is not None and status.supervisor.pid == self.supervisor.pid else None

    def process(self, name: str) -> ProcessStatus:
        """The process of that name, as the supervisor sees it: what is asked of it together is of one moment."""
        status = self.status
        assert status is not None
        return next(process for process in status.processes if process.name == name)

    def pid(self, name: str) -> int:
        """The process's id."""
        pid = self.process(name).pid
        assert pid is not None, f"{name} has no process"
        return pid

    def restarts(self, name: str) -> int:
        """How often the process was started again."""
        return self.process(name).restarts

    def kill(self, name: str) -> int:
        """kill -9; how often the process had been started again until then."""
        process = self.process(name)
        assert process.pid is not None, f"{name} has no process"
        os.kill(process.pid, signal.SIGKILL)
        return process.restarts

    def is_back(self, name: str, restarts: int) -> bool:
        """Whether a process that had been started again so often when it was killed answers again."""
        process = self.process(name)
        return process.state == "up" and process.restarts > restarts

    def wait_back(self, name: str, restarts: int) -> None:
        """Waits until `is_back`."""
        wait_until(lambda: self.is_back(name, restarts), START_S, f"{name} is back")

    def wait_up(self, timeout_s: float = START_S) -> None:
        """Waits until every process answers."""

        def up() -> bool:
            assert self.supervisor.poll() is None, self.words()
            status = self.status
            return status is not None and status.phase == "up"

        try:
            wait_until(up, timeout_s, f"the stack in {self.state.folder} is up")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status}\n{self.words()}") from None

    def words(self) -> str:
        """The last lines of every log."""
        logs = sorted(self.state.logs.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{tail(log, 15).decode(errors='replace')}" for log in logs)

    def stop(self) -> None:
        """Stops everything in order; nothing is left also where the supervisor was killed."""
        if self.supervisor.poll() is None:
            self.supervisor.terminate()
            try:
                self.supervisor.wait(60)
            except subprocess.TimeoutExpired:
                self.supervisor.kill()
        self.supervisor.wait()
        leaders = [record.identity for record in self.state.records()]
        end_orphans(self.state, timeout_s=5.0)
        assert wait_gone(leaders, 5.0) == []


@contextmanager
def running_stack(folder: Path, *names: str, config: Path | None = None) -> Iterator[RunningStack]:
    """A stack of these servers and processes (all, without names) while the block runs."""
    stack = RunningStack(folder, *names, config=config)
    try:
        yield stack
    finally:
        stack.stop()


def gone(pid: int) -> bool:
    """Whether no process has this number."""
    identity = identify(pid)
    return identity is None or not alive(identity)
