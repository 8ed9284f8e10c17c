"""A real gateway process for tests: started on a free port, ended with the test, killed on request."""

import contextlib
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect

from infra.local import clickhouse
from infra.local.launch import NotReady
from infra.local.ports import hold_free

READY_S = 60.0


class GatewayProcess:
    """One gateway over one folder; `start` again after `kill` opens the same data on the same port."""

    def __init__(self, state: Path, password: str = "") -> None:
        self.state = state
        self.password = password
        # Held until the first start, and never one that an outgoing connection is given.
        self._port = hold_free(None, random.Random())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._port.port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait for the answer to a real query."""
        assert self._process is None
        launch = clickhouse.launch(clickhouse.install(self.state), self.state, port=self.port, password=self.password)
        self._port.release()
        self._process = subprocess.Popen(launch.argv, env=launch.env, cwd=launch.cwd)
        deadline = time.monotonic() + READY_S
        while True:
            try:
                clickhouse.probe(self.address, 5.0, password=self.password)
                return
            except NotReady:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def client(self, **options: Any) -> Any:
        return clickhouse_connect.get_client(host="127.0.0.1", port=self.port, password=self.password, **options)


@contextlib.contextmanager
def running(password: str = "") -> Iterator[GatewayProcess]:
    """A started gateway over an empty folder."""
    state = Path(tempfile.mkdtemp(prefix="freshet-clickhouse-"))
    process = GatewayProcess(state, password)
    try:
        process.start()
        yield process
    finally:
        process.stop()
        shutil.rmtree(state, ignore_errors=True)
