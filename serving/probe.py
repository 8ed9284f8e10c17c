"""How fresh recommendations are, by lineage: from a click until an answer was computed with that click's example.

No clock of another process is compared and nothing is guessed from scores: the example names the click that caused it
(`cause`), and an answer names the examples that were completely in the tables it read (`versions.learned`). Looking is
itself a load on what is measured, so answers are asked for only once a frame of the update log contains the example:
before that none can.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from kafka import KafkaConsumer
from msgspec import Struct

from serving.client import Recommendation, Recommender, Refused, Unavailable
from serving.settings import ServingSettings
from streams.codec import Unreadable
from streams.kafka import Producer, assign, consumer, producer
from streams.records import Event, Example, Frame, FrameKind, Metric
from streams.topics import EVENTS, EXAMPLES, METRICS, UPDATES

PROCESS = "probe"

# Between two looks at the answer: it bounds what looking adds to a measured time.
_LOOK_S = 0.01
# Users are tried until one is served by the arm that learns; with even two arms a hundred misses mean there is none.
_USERS_TRIED = 100


class NothingToMeasure(RuntimeError):
    """The probe cannot begin: nobody answers, no items are served, or no user is in the arm that learns."""


class Freshness(Struct, frozen=True):
    """One probe, in ms from just before the click was sent: `example_ms` until its example could be read, `total_ms`
    until the answer that contains it was received; `answer_ms` is what that answer itself took."""

    example_ms: float
    total_ms: float
    answer_ms: float


class FreshnessReport(Struct, frozen=True):
    """All probes of a run; `lost` ones saw no such answer in time."""

    probes: list[Freshness]
    lost: int
    seconds: float

    def percentile(self, stage: str, percent: float) -> float:
        """The percentile of `total_ms`, `example_ms` or `answer_ms`; NaN without probes."""
        values = [getattr(probe, stage) for probe in self.probes]
        return float(np.percentile(values, percent)) if values else float("nan")


class Probe:
    """Acts as users of one scene, `concurrency` at a time, and measures each click's way. Use as a context manager.

    Requests before and after the click leave no impression: only the answer that is clicked on does.
    """

    def __init__(
        self,
        settings: ServingSettings,
        *,
        scene: str = "",
        concurrency: int = 4,
        pause_s: float = 0.05,
        timeout_s: float = 30.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._scene, self._concurrency = scene, concurrency
        self._pause_s, self._timeout_s = pause_s, timeout_s
        self._arm = settings.learning.trainer.arm
        self._stop = stop or threading.Event()
        self._run = f"probe-{time.time_ns() // 1_000_000:x}"
        self._client = Recommender(settings.triton.grpc, timeout_s)
        self._producer: Producer = producer(settings.kafka, client_id=PROCESS, linger_ms=0)
        self._lineage = _Lineage(consumer(settings.kafka, client_id=PROCESS), self._run)

    def __enter__(self) -> "Probe":
        self._lineage.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lineage.close()
        self._producer.close()
        self._client.close()

    def run(self, count: int, tell: Callable[[int], None] = lambda done: None) -> FreshnessReport:
        """Makes `count` probes and publishes each as metrics `freshness_*`; raises NothingToMeasure.

        `tell(probes done)` is called after each.
        """
        began_s = time.monotonic()
        users = self._users(self._concurrency)
        numbers = itertools.count()
        found: list[Freshness | None] = []

        def work(user: str) -> None:
            while (k := next(numbers)) < count and not self._stop.is_set():
                found.append(self._once(user, k))
                tell(len(found))
                self._stop.wait(self._pause_s)

        with ThreadPoolExecutor(self._concurrency, PROCESS) as pool:
            for worker in [pool.submit(work, user) for user in users]:
                worker.result()
        self._producer.flush(30.0)
        probes = [probe for probe in found if probe is not None]
        return FreshnessReport(probes, len(found) - len(probes), time.monotonic() - began_s)

    def _users(self, count: int) -> list[str]:
        """Users whom the learning arm serves; the others' answers say nothing about the online model."""
        users: list[str] = []
        for k in range(_USERS_TRIED):
            user = f"{self._run}-{k}"
            try:
                answer = self._ask(user, dry=True)
            except Unavailable as error:
                raise NothingToMeasure(str(error)) from error
            arms = answer.versions.arms.values()
            if answer.items and (self._arm in arms if arms else answer.versions.policy == "online" or not self._arm):
                users.append(user)
            if len(users) == count:
                return users
        raise NothingToMeasure(
            f"of {_USERS_TRIED} users in scene {self._scene!r} only {len(users)} got items from arm {self._arm!r}"
        )

    def _ask(self, user: str, *, dry: bool) -> Recommendation:
        """Raises Unavailable; NothingToMeasure where asking again would not help."""
        try:
            return self._client.recommend(user, 10, {"scene": self._scene, "dry_run": dry})
        except Refused as error:
            raise NothingToMeasure(str(error)) from error

    def _once(self, user: str, k: int) -> Freshness | None:
        """One probe; None for one that is lost, because an answer did not come or contains the click too late."""
        try:
            shown = self._ask(user, dry=False)
        except Unavailable:
            return None
        if not shown.items:
            return None
        event_id = f"{self._run}-{k}"
        caused = self._lineage.expect(event_id)
        event = Event(
            ts=time.time_ns() // 1_000_000,
            user=user,
            item=shown.items[k % len(shown.items)],
            kind="click",
            event_id=event_id,
            request_id=shown.request_id,
            scene=self._scene,
        )
        clicked_s = time.monotonic()
        deadline_s = clicked_s + self._timeout_s
        self._producer.send(EVENTS, event, user)
        if not caused.wait(self._timeout_s) or not self._lineage.wait_framed(caused, deadline_s - time.monotonic()):
            return None
        while time.monotonic() < deadline_s and not self._stop.is_set():
            asked_s = time.monotonic()
            try:
                answer = self._ask(user, dry=True)
            except Unavailable:
                self._stop.wait(_LOOK_S)
                continue
            received_s = time.monotonic()
            if answer.versions.learned.get(caused.partition, 0) > caused.offset:
                probe = Freshness(
                    example_ms=1e3 * (caused.seen_s - clicked_s),
                    total_ms=1e3 * (received_s - clicked_s),
                    answer_ms=1e3 * (received_s - asked_s),
                )
                self._publish(probe)
                return probe
            self._stop.wait(_LOOK_S)
        return None

    def _publish(self, probe: Freshness) -> None:
        now_ms, labels = time.time_ns() // 1_000_000, {"scene": self._scene}
        figures = {
            "freshness_ms": probe.total_ms,
            "freshness_example_ms": probe.example_ms,
            "freshness_answer_ms": probe.answer_ms,
        }
        for name, value in figures.items():
            metric = Metric(process=PROCESS, name=name, ts=now_ms, value=value, labels=labels)
            self._producer.send(METRICS, metric, PROCESS)


class _Caused:
    """The example that a click caused, once it was seen."""

    def __init__(self) -> None:
        self._seen = threading.Event()
        self.partition = self.offset = -1
        self.seen_s = 0.0

    def found(self, partition: int, offset: int, seen_s: float) -> None:
        self.partition, self.offset, self.seen_s = partition, offset, seen_s
        self._seen.set()

    def wait(self, timeout_s: float) -> bool:
        return self._seen.wait(timeout_s)


class _Lineage:
    """Watches in a thread `examples` for those that expected clicks of this `run` cause, and `updates` for how far the
    trainer's frames contain them."""

    def __init__(self, reader: KafkaConsumer, run: str) -> None:
        self._reader = reader
        self._run = run.encode()
        self._expected: dict[str, _Caused] = {}
        self._framed: dict[int, int] = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="probe-lineage", daemon=True)
        assign(reader, [EXAMPLES.name, UPDATES.name], start="end")

    def start(self) -> None:
        self._thread.start()

    def expect(self, event_id: str) -> _Caused:
        """To be called before the click is sent."""
        caused = self._expected[event_id] = _Caused()
        return caused

    def wait_framed(self, caused: _Caused, timeout_s: float) -> bool:
        """Waits until a frame that can be read contains an example that was seen; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._framed.get(caused.partition, 0) > caused.offset, timeout_s)

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._reader.close()

    def _watch(self) -> None:
        while not self._closing.is_set():
            for partition, records in self._reader.poll(timeout_ms=100).items():
                seen_s = time.monotonic()
                for record in records:
                    with contextlib.suppress(Unreadable):
                        if partition.topic == UPDATES.name:
                            self._frame(UPDATES.codec.decode(record.value))
                        elif self._run in record.value:
                            # Of the many examples few are looked for, and only those are worth decoding.
                            self._example(EXAMPLES.codec.decode(record.value), partition.partition, record, seen_s)

    def _frame(self, frame: Frame) -> None:
        if frame.kind is not FrameKind.DENSE:
            with self._changed:
                self._framed = frame.learned
                self._changed.notify_all()

    def _example(self, example: Example, partition: int, record: Any, seen_s: float) -> None:
        caused = self._expected.pop(example.cause, None) if example.cause else None
        if caused is not None:
            caused.found(partition, record.offset, seen_s)
