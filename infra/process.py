"""Runs one of our own processes: `python -m infra.process worker|features|trainer|replica|sink --settings FILE`."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from infra.local.state import State
from infra.settings import Settings, SettingsError, read_resolved
from streams.health import Health

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


def configure_logging(level: str) -> None:
    """Logs to standard output, one line per record: time, level, name, message."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(OneLine(_LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A client that waits for a broker which is away says so several times a second.
    for chatty in ("kafka", "aiokafka", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def main() -> int:
    """Runs the named process until SIGTERM or SIGINT; the exit code is 0 after an ordered stop."""
    parser = argparse.ArgumentParser(prog="python -m infra.process", description=__doc__)
    parser.add_argument("name", choices=tuple(_ENTRIES))
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE")
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
    module, own = _ENTRIES[arguments.name]
    run = import_module(module).run
    if stop.is_set():
        return 0
    log.info("starting")
    try:
        run(own(settings), stop, Health(State(settings.local.state).health(arguments.name)))
    except Exception:
        log.exception("failed")
        return 1
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
