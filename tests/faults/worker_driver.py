"""Runs one worker of several: `python -m tests.faults.worker_driver STATE_FOLDER INSTANCE HEALTH_FILE`."""

import logging
import signal
import sys
import threading
from pathlib import Path

from infra.settings import resolved
from streams import worker
from streams.health import Health


def main() -> None:
    """Runs until SIGTERM."""
    folder, instance, health = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    logging.basicConfig(level=logging.WARNING)
    worker.run(resolved(Path(folder)).streams, stop, Health(Path(health)), instance)


if __name__ == "__main__":
    main()
