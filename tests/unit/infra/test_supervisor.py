"""The supervisor with small real processes: order, restarts, silence, clashes, and one deadline for the stop."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from infra.local.identity import identify
from infra.local.launch import Broken, Launch, NotReady
from infra.local.managed import GATE
from infra.local.ports import is_free
from infra.local.service import Ports, Service
from infra.local.state import ProcessStatus, State
from infra.local.supervisor import AlreadyUp, Supervisor
from infra.settings import LocalSettings, SettingsError
from tests.stacks import gone, wait_until

_SERVER = """
import pathlib, signal, socket, sys, tempfile, time
name, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def leave(*_):
    with open("order", "a") as file:
        file.write(f"-{name}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "stubborn" else leave)
with open("order", "a") as file:
    file.write(f"+{name}\\n")
if how == "superseded" and not pathlib.Path("wanted").exists():
    print(f"ERROR {name}: fenced by epoch 2: another has taken over", flush=True)
    sys.exit(4)
if how == "broken":
    print("failed | Traceback | ValueError: no such arm", flush=True)
    sys.exit(7)
tempfile.mkdtemp()
server = socket.create_server(("127.0.0.1", port))
while True:
    connection, _ = server.accept()
    if pathlib.Path(f"{name}.deaf").exists():
        continue
    connection.sendall(b"1.0")
    connection.close()
"""

_SETTINGS = LocalSettings(restart_first_s=0.05, restart_max_s=0.2, stop_timeout_s=10.0)


def probe(ports: Ports, name: str) -> str:
    try:
        with socket.create_connection(("127.0.0.1", ports[name]), 1.0) as connection:
            connection.settimeout(0.3)
            if version := connection.recv(10).decode():
                return version
    except OSError as error:
        raise NotReady(str(error)) from error
    raise NotReady("closed without a word")


def server(folder: Path, name: str, *needs: str, how: str = "", silent_s: float | None = None) -> Service:
    def launch(ports: Ports) -> Launch:
        argv = (sys.executable, "-c", _SERVER, name, str(ports[name]), how)
        return Launch(name=name, argv=argv, env={}, cwd=folder, stop_grace_s=0.5)

    return Service(
        name=name,
        needs=needs,
        ports=(name,),
        launch=launch,
        probe=lambda ports, _, __: probe(ports, name),
        addresses=lambda ports: {name: f"127.0.0.1:{ports[name]}"},
        probe_interval_s=0.1,
        silent_s=silent_s,
    )


class Run:
    """A supervisor in a thread of this process."""

    def __init__(self, folder: Path, *services: Service, settings: LocalSettings = _SETTINGS) -> None:
        self.state = State(folder)
        self.resolved: list[dict[str, int]] = []
        write_resolved = lambda ports: self.resolved.append(dict(ports))  # noqa: E731
        self.supervisor = Supervisor(services, self.state, settings, write_resolved)
        self.thread = threading.Thread(target=self.supervisor.run)
        self.thread.start()

    def process(self, name: str) -> ProcessStatus:
        status = self.state.read_status()
        assert status is not None
        return next(process for process in status.processes if process.name == name)

    def wait(self, name: str, state: str, restarts: int = 0, after_ms: int = 0) -> ProcessStatus:
        """The process as it was seen in this state, which began after `after_ms`."""
        found: ProcessStatus | None = None

        def reached() -> bool:
            nonlocal found
            status = self.state.read_status()
            found = next((p for p in status.processes if p.name == name), None) if status is not None else None
            return found is not None and (
                found.state == state and found.restarts >= restarts and found.since_ms > after_ms
            )

        wait_until(reached, 60, f"{name} is {state}")
        assert found is not None
        return found

    def stop(self) -> None:
        self.supervisor.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextmanager
def supervised(folder: Path, *services: Service, settings: LocalSettings = _SETTINGS) -> Iterator[Run]:
    run = Run(folder, *services, settings=settings)
    try:
        yield run
    finally:
        run.stop()


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


def test_services_start_after_what_they_need_and_stop_before_it(tmp_path: Path) -> None:
    services = [server(tmp_path, "c", "b"), server(tmp_path, "a"), server(tmp_path, "b", "a")]
    with supervised(tmp_path, *services) as run:
        run.wait("c", "up")
        ports = run.resolved[-1]
    assert order(tmp_path) == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert all(is_free(port) for port in ports.values())
    assert run.state.records() == []
    assert {run.process(name).state for name in "abc"} == {"down"}


def test_a_process_whose_place_another_took_stays_away_until_somebody_asks_for_it(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a", how="superseded"), server(tmp_path, "b")) as run:
        run.wait("b", "up")
        fenced = run.wait("a", "fenced")
        assert fenced.reason == "fenced by epoch 2: another has taken over"
        # Long enough for a crash to have been followed by another start.
        run.supervisor.revive()
        wait_until(lambda: order(tmp_path).count("+a") == 2, 60, "it was started once more, by the word alone")
        assert run.wait("a", "fenced", after_ms=fenced.since_ms).restarts == 0
        (tmp_path / "wanted").touch()
        run.supervisor.revive()
        run.wait("a", "up")
    assert order(tmp_path).count("+a") == 3


def test_a_killed_process_is_started_again_on_its_port_and_counted(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a")) as run:
        first = run.wait("a", "up")
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        second = run.wait("a", "up", restarts=1)
        assert gone(first.pid)
        assert second.pid != first.pid
        assert second.addresses == first.addresses
        assert len(run.resolved) == 1


def test_temporary_files_of_a_killed_process_are_gone_when_it_runs_again_and_all_of_them_in_the_end(
    tmp_path: Path,
) -> None:
    scratch = tmp_path / "tmp" / "a"
    with supervised(tmp_path, server(tmp_path, "a")) as run:
        first = run.wait("a", "up")
        before = list(scratch.iterdir())
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        run.wait("a", "up", restarts=1)
        after = list(scratch.iterdir())
        assert len(before) == len(after) == 1
        assert before != after
    run.state.remove_scratch()
    assert not scratch.parent.exists()


def test_the_phase_and_the_processes_of_a_status_never_contradict_each_other(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a"), server(tmp_path, "b")) as run:
        run.wait("a", "up")
        run.wait("b", "up")
        for kills in range(1, 4):
            pid = run.wait("a", "up").pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

            def restarted(kills: int = kills) -> bool:
                status = run.state.read_status()
                assert status is not None
                assert (status.phase == "up") == all(process.state == "up" for process in status.processes)
                return run.process("a").restarts == kills

            wait_until(restarted, 20, "the kill is noticed")


def test_a_process_that_crashes_again_and_again_waits_longer_and_says_why(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a", how="broken"), server(tmp_path, "b", "a")) as run:
        broken = run.wait("a", "restarting", restarts=3)
        assert broken.reason == "ended with exit code 7: ValueError: no such arm"
        waiting = run.process("b")
        assert (waiting.state, waiting.reason, waiting.pid) == ("waiting", "for a", None)


def test_a_process_that_answers_no_more_is_killed_and_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a", silent_s=0.5)) as run:
        first = run.wait("a", "up")
        (tmp_path / "a.deaf").touch()
        wait_until(lambda: run.process("a").restarts > first.restarts, 60, "the silence is noticed")
        (tmp_path / "a.deaf").unlink()
        assert run.wait("a", "up", restarts=first.restarts + 1).pid != first.pid
        assert first.pid is not None and gone(first.pid)


def test_a_process_that_says_that_it_is_broken_is_started_again_at_once(tmp_path: Path) -> None:
    service = server(tmp_path, "a")

    def ask(ports: Ports, pid: int | None, timeout_s: float) -> str:
        if (tmp_path / "broken").exists():
            (tmp_path / "broken").unlink()
            raise Broken("its model died")
        return service.probe(ports, pid, timeout_s)

    with supervised(tmp_path, replace(service, probe=ask)) as run:
        pid = run.wait("a", "up").pid
        (tmp_path / "broken").touch()
        assert run.wait("a", "up", restarts=1).pid != pid


def test_a_busy_process_may_be_silent_where_nothing_is_said_about_silence(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a")) as run:
        pid = run.wait("a", "up").pid
        (tmp_path / "a.deaf").touch()
        wait_until(lambda: run.process("a").reason, 20, "the silence is shown")
        assert (run.process("a").state, run.process("a").pid) == ("up", pid)


def test_a_process_that_does_not_end_is_killed_within_the_deadline(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a", how="stubborn"), server(tmp_path, "b", "a")) as run:
        run.wait("b", "up")
        pid = run.process("a").pid
    assert pid is not None and gone(pid)
    assert order(tmp_path) == ["+a", "+b", "-b"]


def test_a_port_that_is_lost_before_the_first_answer_is_replaced(tmp_path: Path) -> None:
    thieves: list[socket.socket] = []
    honest = server(tmp_path, "a")
    assert honest.launch is not None
    launch = honest.launch

    def robbed(ports: Ports) -> Launch:
        if not thieves:
            # A launch is made while the port is still held; the thief comes first right after.
            port = ports["a"]
            thieves.append(socket.socket())
            thieves[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            steal = threading.Thread(target=take, args=(thieves[0], port))
            steal.start()
            argv = ("/bin/sh", "-c", "while ! test -f stolen; do :; done; exit 1")
            return Launch(name="a", argv=argv, env={}, cwd=tmp_path)
        return launch(ports)

    def take(thief: socket.socket, port: int) -> None:
        wait_until(lambda: bound(thief, port), 10, "the port is let go")
        (tmp_path / "stolen").touch()

    with supervised(tmp_path, replace(honest, launch=robbed)) as run:
        run.wait("a", "up")
        assert len(run.resolved) == 2
        assert run.resolved[0]["a"] == thieves[0].getsockname()[1] != run.resolved[1]["a"]
        assert run.state.read_ports() == run.resolved[1]
    thieves[0].close()


def bound(thief: socket.socket, port: int) -> bool:
    try:
        thief.bind(("127.0.0.1", port))
        thief.listen()
    except OSError:
        return False
    return True


def test_what_prepares_a_server_runs_before_anybody_uses_it_and_again_until_it_works(tmp_path: Path) -> None:
    calls: list[str] = []

    def prepare(_: Ports) -> None:
        calls.append("a")
        if len(calls) < 3:
            raise RuntimeError("no controller yet")
        assert not (tmp_path / "order").read_text().count("+b")

    with supervised(tmp_path, replace(server(tmp_path, "a"), prepare=prepare), server(tmp_path, "b", "a")) as run:
        run.wait("b", "up")
    assert len(calls) == 3


def test_settings_that_cannot_work_are_told_apart_from_a_server_that_is_not_ready(tmp_path: Path) -> None:
    def prepare(_: Ports) -> None:
        raise SettingsError("serving.experiments: 'a' differs from what runs")

    with supervised(tmp_path, replace(server(tmp_path, "a"), prepare=prepare)) as run:
        run.wait("a", "starting")
        wait_until(lambda: run.process("a").hopeless, 20, "it is said")
        assert "serving.experiments: 'a' differs" in run.process("a").reason


def test_an_outside_server_is_waited_for_and_never_started(tmp_path: Path) -> None:
    there = threading.Event()

    def ask(*_: object) -> str:
        if not there.is_set():
            raise NotReady("10.0.0.1:9092: no route")
        return "3.9"

    outside = Service(name="a", launch=None, probe=ask, addresses=lambda _: {"kafka": "10.0.0.1:9092"})
    with supervised(tmp_path, outside, server(tmp_path, "b", "a")) as run:
        run.wait("a", "starting")
        wait_until(lambda: run.process("a").reason, 20, "it is shown as away")
        assert run.process("b").state == "waiting"
        there.set()
        run.wait("b", "up")
        assert (run.process("a").version, run.process("a").pid) == ("3.9", None)


def test_a_second_supervisor_of_the_folder_is_refused(tmp_path: Path) -> None:
    with supervised(tmp_path, server(tmp_path, "a")) as run:
        run.wait("a", "up")
        with pytest.raises(AlreadyUp):
            Supervisor((), State(tmp_path), _SETTINGS, lambda _: None).run()


def test_a_stack_ends_with_the_process_that_it_runs_for(tmp_path: Path) -> None:
    owner = subprocess.Popen(["/bin/sleep", "600"])
    identity = identify(owner.pid)
    state = State(tmp_path)
    supervisor = Supervisor((server(tmp_path, "a"),), state, _SETTINGS, lambda _: None, identity)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:

        def up() -> bool:
            status = state.read_status()
            return status is not None and status.phase == "up"

        wait_until(up, 20, "it is up")
        owner.kill()
        owner.wait()
        thread.join(20)
        assert not thread.is_alive()
    finally:
        owner.kill()
        supervisor.stop()
        thread.join()
    assert state.records() == []


def test_a_process_waits_at_its_gate_until_its_record_is_written(tmp_path: Path) -> None:
    argv = [*GATE, "/bin/sh", "-c", "touch started"]
    # The end of its input without a word: its supervisor died before it wrote the record.
    assert subprocess.run(argv, stdin=subprocess.DEVNULL, cwd=tmp_path, check=False).returncode != 0
    assert not (tmp_path / "started").exists()
    subprocess.run(argv, input=b"go\n", cwd=tmp_path, check=True)
    assert (tmp_path / "started").exists()
