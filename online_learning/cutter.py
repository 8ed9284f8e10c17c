"""Deletes old records beside the training loop: its thread may wait for a broker that is away, and learning goes on."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Final

from kafka.errors import KafkaError

from streams import kafka
from streams.admin import cut
from streams.failpoints import hit
from streams.settings import KafkaSettings
from streams.topics import EXAMPLES, UPDATES

logger = logging.getLogger(__name__)

_WAIT_S: Final = 30.0
_CLOSE_S: Final = 2.0


class Cutter:
    """Cuts `updates` and `examples`, one cut at a time; examples younger than `examples_kept_s` stay for their other
    readers."""

    def __init__(self, settings: KafkaSettings, examples_kept_s: float) -> None:
        self._settings, self._examples_kept_s = settings, examples_kept_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a cut is under way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, updates: Mapping[int, int], examples: Mapping[int, int]) -> None:
        """Begins to delete what lies before these offsets, by partition; nothing where the last cut is under way: the
        next one takes more with it."""
        if not self.busy:
            before = {(UPDATES.name, k): offset for k, offset in updates.items()}
            before |= {(EXAMPLES.name, k): offset for k, offset in examples.items()}
            self._thread = threading.Thread(target=self._cut, args=(before,), name="cutter", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Gives up what waits for a broker."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _cut(self, before: dict[tuple[str, int], int]) -> None:
        kept_since_ms = int((time.time() - self._examples_kept_s) * 1e3)
        hit("trainer.cutting")
        try:
            cut(self._settings, before, kept_since_ms={EXAMPLES.name: kept_since_ms}, wait_s=_WAIT_S, stop=self._stop)
        except (kafka.BrokerAway, kafka.Stopped, KafkaError) as error:
            logger.warning("old records were not deleted: %s", error)
        else:
            hit("trainer.cut")
