"""How a process of ours says how it is: one small JSON file that `freshet status` reads."""

import os
import threading
import time
from pathlib import Path

import msgspec

Value = float | int | str


class HealthReport(msgspec.Struct, frozen=True):
    """What a process said last: `at_ms` is the wall clock of that word, `pid` says which incarnation spoke."""

    pid: int
    at_ms: int
    values: dict[str, Value]


class Health:
    """Writes the newest values of a process to `path`, at most every `interval_s`; without a path it only remembers.

    The first report means "ready": the supervisor waits for it. Values are merged, so that each part of a process
    reports its own. The last word is never lost: one that comes too early is written when the interval is over.
    """

    def __init__(self, path: Path | None, interval_s: float = 0.5) -> None:
        self._path = path
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._values: dict[str, Value] = {}
        self._at_ms = 0
        self._written_s = float("-inf")
        self._timer: threading.Timer | None = None

    @property
    def values(self) -> dict[str, Value]:
        """The values as reported so far."""
        with self._lock:
            return dict(self._values)

    def report(self, **values: Value) -> None:
        """Merges `values` into what is known; cheap enough for every batch; safe from any thread."""
        with self._lock:
            self._values.update(values)
            self._at_ms = time.time_ns() // 1_000_000
            if self._path is None or self._timer is not None:
                return
            wait_s = self._written_s + self._interval_s - time.monotonic()
            if wait_s <= 0:
                self._write()
                return
            self._timer = threading.Timer(wait_s, self._flush)
            self._timer.daemon = True
            self._timer.start()

    def _flush(self) -> None:
        with self._lock:
            self._timer = None
            self._write()

    def _write(self) -> None:
        assert self._path is not None
        report = HealthReport(pid=os.getpid(), at_ms=self._at_ms, values=self._values)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        new.write_bytes(msgspec.json.encode(report))
        new.replace(self._path)
        self._written_s = time.monotonic()


def read_health(path: Path) -> HealthReport | None:
    """The report at `path`, or None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=HealthReport)
    except (OSError, msgspec.DecodeError):
        return None
