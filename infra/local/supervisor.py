"""Starts the services of a stack in order, starts again what crashes, and stops all of it under one deadline."""

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from infra.local import logs
from infra.local.backoff import Backoff
from infra.local.ending import end_orphans
from infra.local.identity import Identity, alive
from infra.local.managed import Managed, supervisor_identity
from infra.local.ports import PortBook
from infra.local.service import Ports, Service, in_order
from infra.local.state import StackStatus, State, write_json
from infra.settings import LocalSettings

log = logging.getLogger("supervisor")

_TICK_S = 0.05
_STATUS_S = 1.0
_LOGS_S = 10.0
# Kept back from the stop deadline for killing what did not end.
_KILL_S = 2.0


class AlreadyUp(Exception):
    """Another supervisor has this state folder."""


class Supervisor:
    """Runs the services in one state folder from `run` until `stop` is called (or `owner` ends).

    `write_resolved(ports)` is called whenever the ports are known anew, before anything is started with them.
    `owner`: a process whose end stops the stack, so that a killed test leaves nothing behind.
    """

    def __init__(
        self,
        services: tuple[Service, ...],
        state: State,
        settings: LocalSettings,
        write_resolved: Callable[[dict[str, int]], None],
        owner: Identity | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._services = in_order(services)
        self._state = state
        self._settings = settings
        self._write_resolved = write_resolved
        self._owner = owner
        self._rng = rng or random.Random()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._revive = threading.Event()
        self._managed: list[Managed] = []
        self._started_ms = time.time_ns() // 1_000_000
        self._status_s = 0.0
        self._logs_s = 0.0
        self._shown: tuple[object, ...] = ()

    def stop(self) -> None:
        """Begins the ordered stop; a second call kills what is still there."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def revive(self) -> None:
        """Starts again what was fenced."""
        self._revive.set()

    def install_signal_handlers(self) -> None:
        """SIGTERM and SIGINT stop the stack, SIGUSR1 starts again what was fenced. Only in the main thread."""
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self.revive())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.stop())

    def run(self) -> None:
        """Blocks until the stack was stopped. Raises AlreadyUp."""
        if not self._state.lock():
            raise AlreadyUp(str(self._state.folder))
        try:
            self._write_status({}, float("-inf"), "starting")
            for name in end_orphans(self._state, timeout_s=10.0):
                log.warning("ended %s, which a killed supervisor had left", name)
            names = [port for service in self._services for port in service.ports]
            ports = PortBook(names, self._state.read_ports(), self._rng)
            self._settle(ports)
            self._supervise(ports)
        finally:
            self._state.unlock()

    def _supervise(self, ports: PortBook) -> None:
        settings = self._settings
        with ThreadPoolExecutor(max_workers=len(self._services) + 1, thread_name_prefix="probe") as executor:
            self._managed = [
                Managed(
                    service,
                    self._state,
                    Backoff(settings.restart_first_s, settings.restart_max_s, settings.steady_s),
                    executor,
                    settings.log_max_mb * 1024 * 1024,
                )
                for service in self._services
            ]
            try:
                while not self._stop.wait(_TICK_S):
                    self._tick(ports, time.monotonic())
                    if self._owner is not None and not alive(self._owner):
                        log.warning("process %d, for which this stack ran, has ended", self._owner.pid)
                        self._stop.set()
            finally:
                self._stop_all(ports, time.monotonic() + settings.stop_timeout_s)

    def _tick(self, ports: PortBook, now_s: float) -> None:
        up = {managed.name for managed in self._managed if managed.state == "up"}
        names = {managed.name for managed in self._managed}
        if self._revive.is_set():
            self._revive.clear()
            for managed in self._managed:
                managed.revive()
        for managed in self._managed:
            needs = [need for need in managed.service.needs if need in names and need not in up]
            if managed.state == "waiting":
                managed.reason = f"for {', '.join(needs)}" if needs else ""
            managed.step(now_s, ports, needs_up=not needs)
            if managed.clashed:
                managed.clashed = False
                ports.replace(managed.service.ports)
                self._settle(ports)
        # Of what the steps just found: the states before them may be out of date.
        states = {managed.state for managed in self._managed}
        phase = "up" if states <= {"up"} else "fenced" if "fenced" in states else "starting"
        self._write_status(ports.numbers, now_s, phase)
        if now_s - self._logs_s >= _LOGS_S:
            self._logs_s = now_s
            for path in self._state.logs.glob("*.log"):
                logs.rotate(path, self._settings.log_max_mb * 1024 * 1024)

    def _settle(self, ports: PortBook) -> None:
        # Ports of services that do not run this time are kept for when they do.
        self._state.write_ports({**self._state.read_ports(), **ports.numbers})
        self._write_resolved(ports.numbers)

    def _stop_all(self, ports: PortBook, deadline_s: float) -> None:
        """1. asks whoever nobody (left) needs; 2. kills who overstays; 3. until all are down or time is up."""
        needs = {managed.name: set(managed.service.needs) for managed in self._managed}
        while not all(managed.state == "down" for managed in self._managed):
            now_s = time.monotonic()
            hurry = self._hurry.is_set() or now_s >= deadline_s - _KILL_S
            last_s = now_s if hurry else deadline_s - _KILL_S
            for managed in self._managed:
                needed = any(managed.name in needs[other.name] for other in self._managed if other.state != "down")
                if hurry or not needed:
                    managed.stop(now_s, last_s)
                managed.step_down(now_s, last_s)
            self._write_status(ports.numbers, now_s, "stopping")
            time.sleep(_TICK_S)
        self._write_status(ports.numbers, float("inf"), "down")

    def _write_status(self, ports: Ports, now_s: float, phase: str) -> None:
        processes = tuple(managed.status(ports) for managed in self._managed)
        shown = (phase, *((p.state, p.reason, p.pid) for p in processes))
        if shown == self._shown and now_s - self._status_s < _STATUS_S:
            return
        self._shown, self._status_s = shown, now_s
        status = StackStatus(
            supervisor=supervisor_identity(),
            started_ms=self._started_ms,
            at_ms=time.time_ns() // 1_000_000,
            phase=phase,
            processes=processes,
        )
        write_json(self._state.status, status)
