"""Starting and stopping a stack from outside its supervisor: what `freshet up` and `freshet down` do."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from infra.local.__main__ import ALREADY_UP
from infra.local.ending import end_orphans, send, wait_gone
from infra.local.identity import alive
from infra.local.logs import rotate, tail
from infra.local.stack import Stack
from infra.local.state import StackStatus, State
from infra.settings import Settings
from infra.status import running

_POLL_S = 0.1
# So many crashes before the first answer mean that another attempt will not help.
_HOPELESS = 4

Show = Callable[[StackStatus | None], None]


class StackError(Exception):
    """The stack could not be brought up or down; the message says which process, why, and its last words."""


def start(settings: Settings, names: Iterable[str], config: Path | None, owner: int | None, show: Show) -> StackStatus:
    """Starts a supervisor in the background and waits until everything answers.

    Where one runs already, has it start again what was fenced, and waits. On failure (or an interrupt) the stack that
    was started is stopped. Raises StackError.
    """
    state = State(settings.state)
    state.create()
    deadline_s = time.monotonic() + settings.local.start_timeout_s
    supervisor = None
    asked_ms = time.time_ns() // 1_000_000
    try:
        if (there := running(state)) is not None:
            send(there.supervisor, signal.SIGUSR1)
        else:
            supervisor = _spawn(settings, state, names, config, owner)
        return _wait_up(state, supervisor, deadline_s, show, asked_ms)
    except BaseException:
        # A stack that somebody else started is not ours to stop.
        if supervisor is not None:
            stop(settings, show)
        raise


def _spawn(
    settings: Settings, state: State, names: Iterable[str], config: Path | None, owner: int | None
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "infra.local", "--state", str(state.folder), "--only", ",".join(names)]
    argv += ["--config", str(config.absolute())] if config else []
    argv += ["--while", str(owner)] if owner else []
    log = state.log("supervisor")
    rotate(log, settings.local.log_max_mb * 1024 * 1024)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            cwd=Path.cwd(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_up(
    state: State, supervisor: subprocess.Popen[bytes] | None, deadline_s: float, show: Show, asked_ms: int
) -> StackStatus:
    while True:
        status = running(state)
        show(status)
        if status is not None and status.phase == "up":
            return status
        if supervisor is not None and (code := supervisor.poll()) is not None:
            if code != ALREADY_UP:
                raise StackError(f"the supervisor ended with exit code {code}\n{_words(state, 'supervisor')}")
            supervisor = None  # another `up` was faster
        if status is not None:
            for process in status.processes:
                if process.hopeless:
                    raise StackError(process.reason)
                if process.state == "fenced" and process.since_ms >= asked_ms:
                    raise StackError(f"{process.name} was {process.reason}")
                if process.restarts >= _HOPELESS and not process.version:
                    raise StackError(f"{process.name} {process.reason}\n{_words(state, process.name)}")
        if time.monotonic() > deadline_s:
            raise StackError(_too_late(state, status))
        time.sleep(_POLL_S)


def _too_late(state: State, status: StackStatus | None) -> str:
    late = [process for process in status.processes if process.state != "up"] if status else []
    lines = [f"{process.name} is {process.state}: {process.reason}" for process in late]
    blamed = next((process.name for process in late if process.pid is not None), "supervisor")
    return "\n".join(["not up in time (`local.start_timeout_s`)", *lines, _words(state, blamed)])


def _words(state: State, name: str) -> str:
    log = state.log(name)
    return f"the end of {log}:\n{tail(log, 15).decode(errors='replace').rstrip()}"


def check_erasable(state: State, *others: Path) -> None:
    """Raises StackError where erasing the folder would take more with it than what a stack wrote: where it is none of
    ours, or holds the working folder, the home folder or one of `others`."""
    for other in (Path.cwd(), Path.home(), *others):
        if other.resolve().is_relative_to(state.folder.resolve()):
            raise StackError(f"{state.folder} holds {other}: it is not erased; give the stack a folder of its own")
    if not state.is_ours():
        raise StackError(f"{state.folder} holds what no stack wrote: it is not erased")


def stop(settings: Settings, show: Show) -> list[str]:
    """Stops the stack in order, or ends what a killed supervisor left; returns the names of what ran.

    Raises StackError where something could not be ended.
    """
    state = State(settings.state)
    if not state.folder.is_dir():
        return []
    status = running(state)
    ran = [process.name for process in status.processes if process.pid is not None] if status else []
    if status is not None:
        send(status.supervisor, signal.SIGTERM)
        deadline_s = time.monotonic() + settings.local.stop_timeout_s + 5.0
        while alive(status.supervisor) and time.monotonic() < deadline_s:
            show(running(state))
            time.sleep(_POLL_S)
        send(status.supervisor, signal.SIGKILL)
        wait_gone([status.supervisor], 5.0)
    if not state.lock():
        raise StackError(f"another process holds {state.folder}: it is being started right now")
    try:
        ran += [name for name in end_orphans(state, timeout_s=10.0) if name not in ran]
        Stack(settings, (), {}).clean()
    finally:
        state.unlock()
    return ran
