"""One service under supervision: its state machine, advanced by `step` with the time handed in."""

import logging
import os
import signal
import subprocess
import time
from concurrent.futures import Executor, Future
from typing import IO

from infra.local import logs
from infra.local.backoff import Backoff
from infra.local.ending import kill_session, send
from infra.local.identity import Identity, alive, identify
from infra.local.launch import SUPERSEDED, Broken, NotReady
from infra.local.ports import PortBook
from infra.local.service import Ports, Service
from infra.local.state import MARK, ProcessStatus, Record, State
from infra.settings import SettingsError

log = logging.getLogger("supervisor")

# The shell waits for a line before it becomes the server. The line comes when the record is written: a supervisor
# killed in between leaves a shell that reads the end of its input and goes.
GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")
_PROBE_WHILE_STARTING_S = 0.1
_LAST_WORD = 300


class Managed:
    """States: waiting -> starting -> up, and from both of these restarting -> starting; in the end down.

    A process that ends because another has taken its place is fenced: only `revive` has it start again.
    """

    def __init__(self, service: Service, state: State, backoff: Backoff, executor: Executor, log_max_bytes: int):
        self.service = service
        self.state = "waiting"
        self.reason = ""
        self.version = ""
        self.restarts = 0
        self.ever_up = False
        self.clashed = False
        self.hopeless = False
        self._folder = state
        self._backoff = backoff
        self._executor = executor
        self._log_max_bytes = log_max_bytes
        self._since_ms = time.time_ns() // 1_000_000
        self._process: subprocess.Popen[bytes] | None = None
        self._record: Record | None = None
        self._probe: Future[str] | None = None
        self._next_s = 0.0
        self._up_since_s = 0.0
        self._answered_s = 0.0
        self._kill_at_s: float | None = None
        self._grace_s = 10.0
        self._stop_signal: int = signal.SIGTERM

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return None if self._process is None else self._process.pid

    def status(self, ports: Ports) -> ProcessStatus:
        """What `freshet status` is told."""
        return ProcessStatus(
            name=self.name,
            state=self.state,
            since_ms=self._since_ms,
            outside=self.service.launch is None,
            pid=self.pid,
            addresses=self.service.addresses(ports),
            version=self.version,
            restarts=self.restarts,
            reason=self.reason,
            hopeless=self.hopeless,
        )

    def step(self, now_s: float, ports: PortBook, needs_up: bool) -> None:
        """Looks once at the process and does what is due."""
        if self.state == "waiting":
            if needs_up:
                self._start(now_s, ports)
        elif self.state == "restarting":
            if now_s >= self._next_s:
                self._start(now_s, ports)
        elif self.state in ("starting", "up"):
            if self._process is not None and (code := self._process.poll()) is not None:
                if code == SUPERSEDED:
                    self._fenced()
                else:
                    self._crashed(now_s, ended(code, self._last_word()), ports)
            else:
                self._look(now_s, ports)

    def _start(self, now_s: float, ports: PortBook) -> None:
        self._probe = None
        self._next_s = now_s
        self._answered_s = now_s
        self._enter("starting")
        if self.service.launch is None:
            return
        try:
            launch = self.service.launch(ports.numbers)
            ports.release(self.service.ports)
            self._spawn(launch.argv, launch.env, str(launch.cwd), launch.shm_prefix)
        except OSError as error:
            self._crashed(now_s, f"could not be started: {error}", ports)
            return
        self._grace_s = launch.stop_grace_s
        self._stop_signal = launch.stop_signal

    def _spawn(self, argv: tuple[str, ...], env: dict[str, str], cwd: str, shm_prefix: str) -> None:
        path = self._folder.log(self.name)
        logs.rotate(path, self._log_max_bytes)
        scratch = self._folder.fresh_scratch(self.name)
        with path.open("ab") as output:
            process = subprocess.Popen(
                (*GATE, *argv),
                env={**env, MARK: str(self._folder.folder), "TMPDIR": str(scratch)},
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        gate: IO[bytes] | None = process.stdin
        assert gate is not None
        identity = identify(process.pid)
        self._process = process
        if identity is None:  # killed already; the next step sees its exit
            return
        self._record = Record(name=self.name, identity=identity, shm_prefix=shm_prefix)
        self._folder.write_record(self._record)
        try:
            with gate:
                gate.write(b"go\n")
        except BrokenPipeError:
            pass  # killed at its gate; the next step sees its exit
        log.info("started %s as process %d", self.name, process.pid)

    def _look(self, now_s: float, ports: PortBook) -> None:
        if self._probe is None:
            if now_s >= self._next_s:
                first = not self.version
                self._probe = self._executor.submit(self._ask, ports, self.pid, first)
            return
        if not self._probe.done():
            return
        probe, self._probe = self._probe, None
        error = probe.exception()
        self._next_s = now_s + (self.service.probe_interval_s if self.state == "up" else _PROBE_WHILE_STARTING_S)
        if error is None:
            self.version = probe.result()
            self._answered_s = now_s
            self.reason = ""
            self.hopeless = False
            if self.state != "up":
                self._up_since_s = now_s
                self.ever_up = True
                self._next_s = now_s + self.service.probe_interval_s
                self._enter("up")
                log.info("%s is up (version %s)", self.name, self.version)
            return
        reason = str(error) if isinstance(error, NotReady) else f"{type(error).__name__}: {error}"
        if reason != self.reason:
            log.log(logging.WARNING if self.state == "up" else logging.DEBUG, "%s: %s", self.name, reason)
        self.reason = reason
        self.hopeless = isinstance(error, SettingsError)
        if not isinstance(error, NotReady) and self.state == "starting":
            # It answers, but what prepares it failed: a short while may help, a tenth of a second will not.
            self._next_s = now_s + 1.0
        if self.service.launch is None and self.state == "starting":
            self._next_s = now_s + 1.0
        if self.state == "up" and isinstance(error, Broken):
            self._crashed(now_s, f"is broken ({reason})", ports)
            return
        silent_s = self.service.silent_s
        if self.state == "up" and silent_s is not None and now_s - self._answered_s > silent_s:
            self._crashed(now_s, f"no answer for {now_s - self._answered_s:.0f} s ({reason})", ports)

    def _ask(self, ports: PortBook, pid: int | None, first: bool) -> str:
        version = self.service.probe(ports.numbers, pid, self.service.probe_timeout_s)
        if first and self.service.prepare is not None:
            self.service.prepare(ports.numbers)
        return version

    def _crashed(self, now_s: float, reason: str, ports: PortBook) -> None:
        self._clear()
        if taken := ports.taken(self.service.ports):
            reason += f" (somebody else has port {', '.join(map(str, taken))})"
            # Before its first answer nobody knows the address: another port will do.
            self.clashed = not self.ever_up
        up_for_s = now_s - self._up_since_s if self.state == "up" else 0.0
        wait_s = self._backoff.crashed(up_for_s)
        self.restarts += 1
        self.reason = reason
        self._next_s = now_s + wait_s
        log.warning("%s %s; starting it again in %.1f s", self.name, reason, wait_s)
        self._enter("restarting")

    def _fenced(self) -> None:
        self._clear()
        self.reason = self._last_word().rsplit(f" {self.name}: ", 1)[-1]
        log.warning("%s is %s; it is not started again by itself", self.name, self.reason)
        self._enter("fenced")

    def revive(self) -> None:
        """Lets a fenced process start again: somebody has decided that it is the one."""
        if self.state == "fenced":
            self._enter("waiting")

    def _last_word(self) -> str:
        """The end of the log's last line: of a traceback, the exception."""
        lines = logs.tail(self._folder.log(self.name), 1).decode(errors="replace").rstrip()
        return lines.rsplit(" | ", 1)[-1][:_LAST_WORD]

    def _clear(self) -> None:
        """Ends what is left of the process (its children too) and forgets it."""
        if self._record is not None:
            kill_session(self._record, self._folder)
            self._folder.remove_record(self.name)
            self._record = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def stop(self, now_s: float, deadline_s: float) -> None:
        """Asks the process to end; it has its own grace, but never longer than the common deadline."""
        if self.state in ("stopping", "down"):
            return
        self._probe = None
        if self._record is None:
            self._clear()
            self._enter("down")
            return
        self._kill_at_s = min(now_s + self._grace_s, deadline_s)
        self._enter("stopping")
        send(self._record.identity, self._stop_signal)

    def step_down(self, now_s: float, deadline_s: float) -> None:
        """Sees whether a stopped process is gone, and kills it when its time is over."""
        if self.state != "stopping":
            return
        assert self._process is not None and self._kill_at_s is not None
        if self._process.poll() is None and now_s < min(self._kill_at_s, deadline_s):
            return
        if self._process.poll() is None:
            log.warning("%s did not end in time and is killed", self.name)
        self._clear()
        self._enter("down")

    def _enter(self, state: str) -> None:
        self.state = state
        self._since_ms = time.time_ns() // 1_000_000


def ended(code: int, last_word: str) -> str:
    """How a process ended, in words, by its exit code (below 0: the signal) and what it said last."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" + (f": {last_word}" if last_word else "")


def supervisor_identity() -> Identity:
    """This process, for the status file."""
    identity = identify(os.getpid())
    assert identity is not None and alive(identity)
    return identity
