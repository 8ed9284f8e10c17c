"""When a trainer says what: validation windows, alarms and metrics on the topic `metrics`, figures in its health."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from kafka.errors import KafkaError

from online_learning.learners import Learners
from online_learning.reporting import PROCESS, drift_metrics, drift_text, metrics
from online_learning.settings import LearningSettings
from streams import kafka
from streams.health import Health, Value
from streams.topics import METRICS

logger = logging.getLogger(__name__)

_HEALTH_INTERVAL_S: Final = 1.0
_METRICS_INTERVAL_S: Final = 5.0


class Reporter:
    """Speaks for one life of a trainer, of `epoch`; `figures` makes what the health file says."""

    def __init__(
        self,
        settings: LearningSettings,
        learners: Learners,
        producer: kafka.Producer,
        health: Health,
        epoch: int,
        figures: Callable[[], Mapping[str, Value]],
    ) -> None:
        self._settings, self._learners, self._producer = settings, learners, producer
        self._health, self._epoch, self._figures = health, epoch, figures
        self._health_due = self._metrics_due = time.monotonic()

    def tell(self) -> None:
        """Says what is due: windows that closed and alarms at once, the rest every few seconds."""
        now = time.monotonic()
        self._tell_windows(still_open=False)
        self._tell_alarms()
        if now >= self._metrics_due:
            self._metrics_due = now + _METRICS_INTERVAL_S
            self._tell_metrics()
        if now >= self._health_due:
            self._health_due = now + _HEALTH_INTERVAL_S
            self.tell_health()

    def tell_open(self) -> None:
        """Says what the windows hold that are still open: a checkpoint is to follow."""
        self._tell_windows(still_open=True)

    def tell_all(self) -> None:
        """Says everything once more, but the health."""
        self._tell_windows(still_open=True)
        self._tell_alarms()
        self._tell_metrics()

    def tell_health(self) -> None:
        """Writes the health file."""
        self._health.report(**self._figures())

    def arrived(self, timeout_s: float) -> bool:
        """Whether all that this producer was given has arrived: behind a checkpoint that was kept before, nobody would
        say it again."""
        try:
            self._producer.flush(timeout_s)
        except kafka.BrokerAway as error:
            logger.warning("no checkpoint for now: %s", error)
            return False
        except KafkaError as error:
            logger.error("lost for good: %s", error)
        return True

    def _tell_windows(self, *, still_open: bool) -> None:
        progressive, now_ms = self._learners.progressive, time.time_ns() // 1_000_000
        windows = progressive.take_closed(now_ms, self._epoch)
        if still_open:
            windows += progressive.take_open(now_ms, self._epoch)
        for window in windows:
            self._producer.send(METRICS, window, PROCESS)

    def _tell_alarms(self) -> None:
        alarms = self._learners.drift.take_begun()
        for alarm in alarms:
            logger.warning("drift: %s", drift_text(alarm))
        for metric in drift_metrics(alarms):
            self._producer.send(METRICS, metric, PROCESS)

    def _tell_metrics(self) -> None:
        for metric in metrics(self._learners, self._settings, time.time_ns() // 1_000_000):
            self._producer.send(METRICS, metric, PROCESS)
