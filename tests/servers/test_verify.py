"""`freshet verify` finds nothing on a stack of its own making, and names what somebody changed or sent in vain."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from kafka.admin import ConfigResource

from serving.evaluation.clickhouse import connect
from streams.admin import admin
from streams.kafka import producer
from streams.records import DeadLetter
from streams.topics import DEAD_LETTERS, EXPERIMENTS
from tests.emptied import stack_on
from tests.stacks import RunningStack, wait_until

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


def until_said(words: str, state: Path) -> None:
    wait_until(lambda: words in " ".join(verify(state)[1].split()), 60.0, words)


def test_what_differs_is_named(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    with stack_on(fresh_kafka, tmp_path / "state", "clickhouse", "sink") as stack:
        assert verify(stack.state.folder) == (0, "topics, tables and experiments are as declared\n")

        gone = msgspec.structs.replace(stack.settings.serving.experiments[0], name="gone", version=3)
        with producer(stack.settings.kafka) as sender:
            sender.send(EXPERIMENTS, gone, gone.name)
            letter = DeadLetter(topic="events", partition=0, offset=0, reason="not-json", detail="", at=1)
            sender.send(DEAD_LETTERS, letter, "events-0")
            sender.flush(30)
        until_said("dead letters: 1 not-json", stack.state.folder)
        code, words = verify(stack.state.folder)
        assert code == 1
        assert "experiment gone: runs as version 3" in words and "`version = 4`" in words

        with admin(stack.settings.kafka) as client:
            client.delete_topics(["signals"])
            # As freshet declared it once.
            client.alter_configs([ConfigResource("topic", "impressions", {"message.timestamp.type": "CreateTime"})])
        database = connect(stack.settings.serving.clickhouse)
        database.command("ALTER TABLE actions DROP COLUMN session")
        database.close()

        code, words = verify(stack.state.folder)
        assert code == 1
        assert "topic signals: missing" in words
        named = "topic impressions: message.timestamp.type == CreateTime, declared is LogAppendTime"
        assert named in " ".join(words.split())
        assert "session" in words
