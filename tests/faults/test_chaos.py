"""`freshet chaos` in its shortest form: everything is killed, torn, filled and fenced once, and nothing is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from infra.chaos.plan import PARTS
from infra.chaos.points import ON_THE_WAY
from infra.chaos.report import Report
from infra.local.state import MARK
from streams.failpoints import CATALOGUE
from tests.stacks import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.faults]


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "infra.cli", "chaos", "--keep", str(folder), *options]
    return subprocess.Popen(argv, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def left_of(folder: Path) -> list[str]:
    """The processes that carry the mark of a stack in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(folder)):
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found


def assert_nothing_left(folder: Path) -> None:
    assert left_of(folder) == []
    assert str(folder) not in Path("/proc/mounts").read_text()


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_doubled_whatever_is_killed(tmp_path: Path) -> None:
    folder, file = tmp_path / "chaos", tmp_path / "report.json"
    process = start(folder, "--quick", "--json", str(file))
    words, _ = process.communicate()
    assert process.returncode == 0, words
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert report.ok
    assert report.plan.parts == PARTS
    # Every process was struck at every kind of step that it takes, and died of kills from outside.
    struck = {(name.split(".")[0], CATALOGUE[name].kind) for name, times in report.points.items() if times}
    places = {name: place for name, place in CATALOGUE.items() if not name.startswith("features.")}
    assert struck == {(name.split(".")[0], place.kind) for name, place in places.items()}
    assert sum(len(kill.strip("!").split("+")) for kill in report.schedule) == report.plan.kills
    assert {*ON_THE_WAY, "kafka"} <= report.killed.keys()
    compared = [check.name for check in report.checks]
    assert len(compared) == len(set(compared)) == 15
    assert_nothing_left(folder)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_interrupts_it_finds_nothing_left_running(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "chaos"
    process = start(folder, "--only", "kills", "--kills", "50")
    wait_until((folder / "state" / "processes" / "kafka.json").exists, 120, "something runs")
    process.send_signal(number)
    words, _ = process.communicate()
    assert process.returncode == 130, words
    assert_nothing_left(folder)
    assert not os.listdir(folder / "state" / "processes")  # noqa: PTH208
