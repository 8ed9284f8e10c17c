"""One of our own processes, as the supervisor starts it, beside a Kafka that is away."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.stack import OWN, Stack
from infra.settings import parse
from tests.stacks import wait_until


@pytest.mark.parametrize("name", sorted(set(OWN) - {"sink"}))
def test_a_process_that_waits_for_kafka_ends_in_order_when_it_is_told_to(name: str, tmp_path: Path) -> None:
    # Port 1 is reserved and has no listener: connections are refused at once.
    settings = parse('[kafka]\nbootstrap = "127.0.0.1:1"\n[features]\nredis = "127.0.0.1:1"', "test", tmp_path)
    stack = Stack(settings, (), {})
    stack.state.create()
    stack.write_resolved({})
    log = tmp_path / "log"
    argv = [sys.executable, "-m", "infra.process", name, "--settings", str(stack.state.resolved)]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        wait_until(lambda: "starting" in log.read_text(), 120, "it starts")
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
        stack.clean()
