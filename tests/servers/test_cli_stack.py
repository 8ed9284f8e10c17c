"""The command line's stack: up, status, logs, down, as a user types them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.identity import alive
from infra.local.ports import is_free
from infra.local.state import State
from infra.status import running
from tests.stacks import gone, wait_until

pytestmark = pytest.mark.servers


class Freshet:
    """The command, in a folder of its own with a settings file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = State(folder / "run")
        (folder / "freshet.toml").write_text('state_dir = "run"\n')

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "infra.cli", *words]

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            self.argv(*words), cwd=self.folder, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def pids(self) -> dict[str, int]:
        status = running(self.state)
        assert status is not None
        return {process.name: process.pid for process in status.processes if process.pid is not None}


@pytest.fixture
def freshet(tmp_path: Path) -> Iterator[Freshet]:
    command = Freshet(tmp_path)
    yield command
    command("down", "--erase")
    assert not command.state.folder.exists()


def test_up_status_logs_down(freshet: Freshet) -> None:
    freshet("up", "--only", "redis,clickhouse")
    pids = freshet.pids()
    assert set(pids) == {"redis", "clickhouse"}

    assert "already up" in freshet("up", "--only", "redis,clickhouse")
    assert freshet.pids() == pids

    report = json.loads(freshet("status", "--json"))
    assert report["phase"] == "up"
    rows = {row["name"]: row for row in report["processes"]}
    assert {row["state"] for row in rows.values()} == {"up"}
    assert rows["redis"]["health"] == {"keys": 0}
    assert rows["redis"]["version"].startswith("6.2")
    assert rows["clickhouse"]["pid"] == pids["clickhouse"]

    assert "Ready to accept connections" in freshet("logs", "redis", "-n", "1")
    assert "is unknown: must be one of kafka, redis," in freshet("logs", "postgres", code=1)

    ports = freshet.state.read_ports()
    assert "ended redis, clickhouse" in freshet("down")
    assert all(gone(pid) for pid in pids.values())
    assert all(is_free(port) for port in ports.values())
    assert "nothing was running" in freshet("down")
    freshet("status", code=3)


def test_the_data_outlives_down_but_not_erase(freshet: Freshet) -> None:
    freshet("up", "--only", "redis")
    redis_says(freshet, "SET", "kept", "1")
    freshet("down")
    freshet("up", "--only", "redis")
    assert redis_says(freshet, "GET", "kept") == b"$1\r\n1\r\n"
    freshet("down", "--erase")
    freshet("up", "--only", "redis")
    assert redis_says(freshet, "GET", "kept") == b"$-1\r\n"


def redis_says(freshet: Freshet, *words: str) -> bytes:
    import socket

    with socket.create_connection(("127.0.0.1", freshet.state.read_ports()["redis"]), 5) as connection:
        connection.sendall((" ".join(words) + "\r\n").encode())
        return connection.recv(1_000)


def test_down_ends_what_killed_supervisors_left(freshet: Freshet) -> None:
    freshet("up", "--only", "redis,clickhouse")
    pids = freshet.pids()
    status = running(freshet.state)
    assert status is not None
    os.kill(status.supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not alive(status.supervisor), 60, "the supervisor is dead")
    assert not any(gone(pid) for pid in pids.values())
    assert "ended clickhouse, redis" in freshet("down")
    assert all(gone(pid) for pid in pids.values())


def test_ctrl_c_ends_a_stack_in_the_foreground(freshet: Freshet) -> None:
    foreground = subprocess.Popen(
        freshet.argv("up", "--only", "redis", "--foreground"),
        cwd=freshet.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:

        def up() -> bool:
            status = running(freshet.state)
            return status is not None and status.phase == "up"

        wait_until(up, 60, "it is up")
        pids = freshet.pids()
        assert "already up" in freshet("up", "--foreground", "--only", "redis", code=1)
        foreground.send_signal(signal.SIGINT)
        assert foreground.wait(60) == 0
        assert all(gone(pid) for pid in pids.values())
    finally:
        foreground.kill()
        foreground.wait()


def test_ctrl_c_during_up_leaves_nothing(freshet: Freshet) -> None:
    starting = subprocess.Popen(
        freshet.argv("up", "--only", "kafka,redis"),
        cwd=freshet.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        # A test run in the background of a shell ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: len(freshet.state.records()) == 2, 60, "the servers are being started")
        records = freshet.state.records()
        starting.send_signal(signal.SIGINT)
        assert starting.wait(60) == 130
        assert not any(alive(record.identity) for record in records)
        assert running(freshet.state) is None
    finally:
        starting.kill()
        starting.wait()


def test_a_mistake_in_the_settings_is_named_before_anything_starts(freshet: Freshet) -> None:
    (freshet.folder / "freshet.toml").write_text('state_dir = "run"\n[kafka]\npartitions = 0\n')
    assert "kafka.partitions = 0" in freshet("up", code=1)
    assert not freshet.state.folder.exists()
    (freshet.folder / "freshet.toml").write_text('state_dir = "run"\n')


def test_an_outside_server_is_used_and_not_started(freshet: Freshet, redis: str) -> None:
    (freshet.folder / "freshet.toml").write_text(f'state_dir = "run"\n[features]\nredis = "{redis}"\n')
    freshet("up", "--only", "redis,clickhouse")
    assert set(freshet.pids()) == {"clickhouse"}
    rows = {row["name"]: row for row in json.loads(freshet("status", "--json"))["processes"]}
    assert (rows["redis"]["state"], rows["redis"]["outside"]) == ("up", True)
    assert rows["redis"]["addresses"] == {"redis": redis}
    freshet("down")
    rows = {row["name"]: row for row in json.loads(freshet("status", "--json", code=3))["processes"]}
    assert rows["redis"]["state"] == "up", "it is not ours to stop, and status still asks it"


def test_an_outside_server_that_is_away_is_named(freshet: Freshet) -> None:
    (freshet.folder / "freshet.toml").write_text(
        'state_dir = "run"\n[features]\nredis = "127.0.0.1:1"\n[local]\nstart_timeout_s = 10.0\n'
    )
    told = freshet("up", "--only", "redis", code=1)
    assert "redis is starting: 127.0.0.1:1" in told
    assert running(freshet.state) is None
