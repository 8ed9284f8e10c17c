"""Runs one of our own processes: `python -m infra.process worker|features|trainer|replica|sink --settings FILE`.

`--failpoint PLACE:COUNT[:ACTION]` has this one life end (or find the disk full) at a place of `streams.failpoints`.
"""

import argparse
import gc
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from infra.local.launch import SUPERSEDED
from infra.local.state import State
from infra.settings import Settings, SettingsError, read_resolved
from streams import failpoints
from streams.health import Health
from streams.kafka import BrokerAway, Stopped
from streams.takeover import Superseded

# What each process runs, as `run(settings, stop, health)`, and the part of the settings that is its own.
_ENTRIES: dict[str, tuple[str, Callable[[Settings], Any]]] = {
    "worker": ("streams.worker", lambda settings: settings.streams),
    "features": ("features.push", lambda settings: settings.features),
    "trainer": ("online_learning.trainer", lambda settings: settings.learning),
    "replica": ("serving.replica", lambda settings: settings.serving),
    "sink": ("serving.evaluation.sink", lambda settings: settings.serving),
}

_LOG_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"


class OneLine(logging.Formatter):
    """One line per record: a traceback is joined into it, so that a log can be searched line by line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text without line breaks."""
        return super().format(record).replace("\n", " | ")


class Seldom(logging.Filter):
    """Lets the same message of the same logger through once in `interval_s`, and drops it in between.

    Clients say several times a second that their server is away.
    """

    def __init__(self, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._clock = clock
        self._said_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        # Numbers differ from one repetition to the next (backoff times, ports of connections): the words count.
        key = (record.name, re.sub(r"\d+", "#", str(record.msg)))
        now_s = self._clock()
        if now_s - self._said_s.get(key, float("-inf")) < self._interval_s:
            return False
        if len(self._said_s) > 1_000:
            self._said_s.clear()
        self._said_s[key] = now_s
        return True


# Libraries that say the same again and again, above all when a server is away.
_REPETITIVE = ("kafka", "aiokafka", "faust", "mode", "redis", "urllib3", "feast")


class _Repetitions(Seldom):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.split(".")[0] not in _REPETITIVE or super().filter(record)


def configure_logging(level: str) -> None:
    """Logs to standard output, one line per record: time, level, name, message."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(OneLine(_LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
    handler.addFilter(_Repetitions())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _REPETITIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def main() -> int:
    """Runs the named process until SIGTERM or SIGINT.

    The exit code is 0 after an ordered stop, 4 where another process has taken its place for good.
    """
    parser = argparse.ArgumentParser(prog="python -m infra.process", description=__doc__)
    parser.add_argument("name", choices=tuple(_ENTRIES))
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE")
    parser.add_argument("--failpoint", type=failpoints.parse, metavar="PLACE:COUNT[:ACTION]")
    arguments = parser.parse_args()
    stop = threading.Event()
    # Before the imports, which take seconds: a stop in between must not be lost.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        settings = read_resolved(arguments.settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logging(settings.local.log_level)
    log = logging.getLogger(arguments.name)
    state = State(settings.state)
    if arguments.failpoint is not None:
        log.warning("armed: %s", arguments.failpoint)
        failpoints.arm(arguments.failpoint, lambda: state.write_struck(arguments.name, str(arguments.failpoint)))
    module, own = _ENTRIES[arguments.name]
    run = import_module(module).run
    if stop.is_set():
        return 0
    # What was imported stays, hundreds of thousands of objects: a full collection looked through them for 0.1 to 0.2 s,
    # in which nothing was joined or learned.
    gc.collect()
    gc.freeze()
    log.info("starting")
    try:
        run(own(settings), stop, Health(state.health(arguments.name)))
    except Superseded as error:
        log.error("%s", error)
        return SUPERSEDED
    except Stopped as error:
        log.info("stopped while waiting: %s", error)
        return 0
    except BrokerAway as error:
        log.error("%s", error)
        return 1
    except Exception:
        log.exception("failed")
        return 1
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
