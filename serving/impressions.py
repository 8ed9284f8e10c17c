"""Impressions leave for Kafka in the background: an answer never waits for the broker."""

import collections
import logging
import threading
import time

from msgspec import Struct

from streams import kafka
from streams.records import Impression
from streams.settings import KafkaSettings
from streams.topics import IMPRESSIONS

log = logging.getLogger(__name__)

# Answers that may wait while no broker is there: at 50 a second more than five minutes, and some 60 MB.
_MAX_WAITING = 20_000
# What the producer may hold unacknowledged.
_MAX_BUFFER_BYTES = 32 * 2**20
# How long an attempt lasts before the thread looks whether it is to stop.
_ATTEMPT_S = 1.0
_LOG_DROPS_EVERY_S = 10.0


class Counts(Struct, frozen=True):
    """Impressions taken; acknowledged by Kafka; dropped for want of room or time; and not yet acknowledged."""

    taken: int
    acknowledged: int
    dropped: int

    @property
    def held(self) -> int:
        """Those that wait here or in the producer."""
        return self.taken - self.acknowledged - self.dropped


class ImpressionLog:
    """Takes impressions without blocking; a thread sends them, also when the broker comes only later.

    Memory is bounded: with `max_waiting` impressions waiting, further ones are dropped, counted and logged.
    """

    def __init__(self, settings: KafkaSettings, max_waiting: int = _MAX_WAITING) -> None:
        self._settings = settings
        self._max_waiting = max_waiting
        self._waiting: collections.deque[Impression] = collections.deque()
        self._changed = threading.Condition()
        self._taken = self._acknowledged = self._dropped = 0
        self._stop = threading.Event()
        self._logged_s = float("-inf")
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        with self._changed:
            return Counts(taken=self._taken, acknowledged=self._acknowledged, dropped=self._dropped)

    def add(self, impression: Impression) -> bool:
        """Takes one impression; False where there was no room. Never blocks."""
        with self._changed:
            self._taken += 1
            if len(self._waiting) >= self._max_waiting:
                self._drop(1, "no room")
                return False
            self._waiting.append(impression)
            self._changed.notify()
            return True

    def close(self, timeout_s: float = 5.0) -> Counts:
        """Waits up to `timeout_s` until all are acknowledged, then drops and counts the rest."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == self._acknowledged + self._dropped, timeout_s)
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(2 * _ATTEMPT_S)
        with self._changed:
            held = self._taken - self._acknowledged - self._dropped
            if held:
                self._drop(held, "closed before Kafka acknowledged them")
        return self.counts

    def _run(self) -> None:
        producer = self._connect()
        if producer is None:
            return
        while (impression := self._next()) is not None:
            self._send(producer, impression)
        producer.close(0.0)

    def _connect(self) -> kafka.Producer | None:
        while not self._stop.is_set():
            try:
                return kafka.producer(
                    self._settings,
                    client_id="recommend",
                    max_buffer_bytes=_MAX_BUFFER_BYTES,
                    wait_s=_ATTEMPT_S,
                    stop=self._stop,
                )
            except kafka.BrokerAway as error:
                log.warning("impressions wait: %s", error)
            except kafka.Stopped:
                break
        return None

    def _next(self) -> Impression | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stop.is_set())
            return None if self._stop.is_set() else self._waiting.popleft()

    def _send(self, producer: kafka.Producer, impression: Impression) -> None:
        while not self._stop.is_set():
            try:
                future = producer.send(IMPRESSIONS, impression, impression.user, block_s=_ATTEMPT_S)
            except (kafka.BufferFull, kafka.BrokerAway) as error:
                log.warning("impressions wait: %s", error)
            except Exception as error:
                # What Kafka will not have, or what cannot be written: one impression is lost, and not all later ones.
                self._failed(error)
                return
            else:
                future.add_callback(lambda _: self._arrived())
                future.add_errback(self._failed)
                return

    def _arrived(self) -> None:
        with self._changed:
            self._acknowledged += 1
            self._changed.notify_all()

    def _failed(self, error: BaseException) -> None:
        with self._changed:
            self._drop(1, str(error))
            self._changed.notify_all()

    def _drop(self, count: int, why: str) -> None:
        self._dropped += count
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_DROPS_EVERY_S:
            self._logged_s = now_s
            log.warning("impressions dropped (%s): %d so far", why, self._dropped)
