"""Waiting for room in shared memory, instead of failing again and again."""

import gc
import logging
import threading
from pathlib import Path
from typing import Final

from serving.shared.files import SharedMemoryFull, drop_unfinished, has_room
from streams.health import Health

logger = logging.getLogger(__name__)

# Each attempt loads a checkpoint and reads the topics: the first wait, the longest, and how often what is free is seen.
_FIRST_S: Final = 0.5
_MOST_S: Final = 30.0
_LOOK_EVERY_S: Final = 1.0


class Room:
    """The room of the replica's folder, waited for with a backoff that is over once a life lasted."""

    def __init__(self, folder: Path, stop: threading.Event, health: Health) -> None:
        self._folder, self._stop, self._health = folder, stop, health
        self._wait_s = _FIRST_S
        self._size_bytes = 0

    def lacks(self, error: SharedMemoryFull, lived_s: float) -> None:
        """Says what does not fit, after a life of `lived_s`."""
        self._size_bytes = error.size_bytes
        self._wait_s = _FIRST_S if lived_s > _MOST_S else min(2 * self._wait_s, _MOST_S)
        logger.warning("serving.shm_dir: %s; waiting for room", error)
        self._health.report(waiting_for=f"room in serving.shm_dir: {error}")

    def wait(self) -> None:
        """Returns after the backoff, as soon as what did not fit would; or when all is to stop."""
        gc.collect()  # what is mapped in a cycle of references still takes its room
        drop_unfinished(self._folder)
        self._stop.wait(self._wait_s)
        while not self._stop.is_set() and not has_room(self._folder, self._size_bytes):
            self._stop.wait(_LOOK_EVERY_S)
