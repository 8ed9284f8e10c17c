"""A replay that is killed with -9 again and again sends every event exactly once."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from streams.datasets import open_dataset
from streams.logs import read_list
from streams.replay import Replay
from streams.topics import EVENTS
from tests.logs import write_log
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import wait_committed

pytestmark = [pytest.mark.servers, pytest.mark.faults]

ROWS = 60_000


def _start(stack: RunningStack, data: Path) -> subprocess.Popen[bytes]:
    command = "import typer; from infra.inputs import replay; typer.run(replay)"
    argv = [sys.executable, "-c", command, "ml-100k", "--data", str(data), "--state", str(stack.state.folder)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _kill_after(process: subprocess.Popen[bytes], replay: Replay, row: int) -> None:
    def reached() -> bool:
        known = replay.progress()
        return (known is not None and known.row > row) or process.poll() is not None

    try:
        wait_until(reached, 120, f"row {row} is sent")
    finally:
        process.kill()
        process.communicate()


def test_kill_9_in_mid_replay_loses_and_doubles_nothing(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    data = write_log(tmp_path / "data", ROWS)
    replay = Replay(open_dataset("ml-100k", data), fresh_kafka.settings.kafka)
    chance, before = random.Random(0), 0
    for _ in range(4):
        _kill_after(_start(fresh_kafka, data), replay, min(ROWS - 1, before + chance.randrange(1, 12_000)))
        known = replay.progress()
        assert known is not None
        assert known.row > before
        before = known.row
    process = _start(fresh_kafka, data)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words.decode()
    wait_committed(fresh_kafka.settings.kafka)
    seen = Counter(event.event_id for event in read_list(fresh_kafka.settings.kafka, EVENTS))
    assert seen == Counter(f"ml-100k-{k}" for k in range(ROWS))
