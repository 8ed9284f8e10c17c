"""`freshet verify` finds nothing on a stack of its own making, and names what somebody changed."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.evaluation.clickhouse import connect
from streams.admin import admin
from tests.stacks import running_stack

pytestmark = pytest.mark.servers


def verify(state: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "verify", "--state", str(state)],
        cwd=state,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_differs_is_named(tmp_path: Path) -> None:
    with running_stack(tmp_path / "state", "kafka", "clickhouse", "sink") as stack:
        assert verify(stack.state.folder) == (0, "topics and tables are as declared\n")

        with admin(stack.settings.kafka) as client:
            client.delete_topics(["signals"])
        database = connect(stack.settings.serving.clickhouse)
        database.command("ALTER TABLE actions DROP COLUMN session")
        database.close()

        code, words = verify(stack.state.folder)
        assert code == 1
        assert "topic signals: missing" in words
        assert "session" in words
