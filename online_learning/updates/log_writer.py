"""Appends frames to `updates`: a batch is one transaction, in a thread of its own, one batch after the other.

The transactional id is the stream's, so Kafka itself lets only the newest trainer write: whoever calls `fence` ends
every older writer's transaction and its right to begin another.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from kafka.errors import (
    InvalidProducerEpochError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    RetriableError,
)

from online_learning.updates.position import StreamPosition, position_of, stream_of
from streams.failpoints import hit
from streams.kafka import DELIVERY_TIMEOUT_MS, MAX_REQUEST_BYTES, REQUEST_TIMEOUT_MS, connection, retry
from streams.records import Frame
from streams.settings import KafkaSettings
from streams.topics import UPDATES
from streams.transactions import transactional_producer

# A writer that died in mid-transaction hides what follows it from readers until its successor fences it, or this long.
TRANSACTION_TIMEOUT_MS: Final = 60_000


class PublishFailed(RuntimeError):
    """A batch's fate is unknown or hopeless; only a restart, with a new epoch, makes replicas right again."""


class Fenced(PublishFailed):
    """Another trainer has taken over this stream: this one must stop."""


class Acknowledged(msgspec.Struct, frozen=True):
    """A batch that readers can see: the last position of every stream in it and the next offset per partition."""

    batch: int
    streams: dict[str, StreamPosition]
    offsets: dict[int, int]
    took_ms: float


class LogWriter:
    """Batches go out in the order of `submit`; `acknowledged` says which are in the log. Raises what the thread met."""

    def __init__(self, settings: KafkaSettings, transactional_id: str, wait_s: float = 60.0) -> None:
        config = connection(settings, transactional_id) | {
            "acks": "all",
            "enable_idempotence": True,
            "transactional_id": transactional_id,
            "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
            "delivery_timeout_ms": DELIVERY_TIMEOUT_MS,
            "max_request_size": MAX_REQUEST_BYTES,
            # A batch is sent as soon as it is whole: commit waits for it anyway.
            "linger_ms": 0,
            "batch_size": 2**20,
            "retry_backoff_ms": 20,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "metrics_enabled": False,
            "allow_auto_create_topics": False,
        }
        self._raw: Any = retry(lambda: transactional_producer(config), f"producer {transactional_id}", wait_s)
        self._work: queue.SimpleQueue[tuple[int, Callable[[], Iterable[Frame]]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Acknowledged] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._submitted = 0
        self._changed = threading.Condition()
        self._finished = 0
        self._thread = threading.Thread(target=self._run, name=transactional_id, daemon=True)
        self._thread.start()

    def fence(self, timeout_s: float) -> None:
        """Ends every older writer of the same id; call it once, before the first batch. Raises PublishFailed."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._raw.init_transactions()
                return
            except KafkaTimeoutError as error:
                if time.monotonic() > deadline:
                    raise PublishFailed(f"no transaction coordinator in {timeout_s:g} s: {error}") from error
            except KafkaError as error:
                raise _mapped(error) from error

    def submit(self, frames: Callable[[], Iterable[Frame]]) -> int:
        """Queues a batch and returns its number; the caller bounds how many are under way.

        `frames` is called in the writer's thread, and again where the broker makes it begin anew: frames may be made
        as they are sent, and what waits for the broker at once is bounded by the producer's buffer.
        """
        self.check()
        self._submitted += 1
        self._work.put((self._submitted, frames))
        return self._submitted

    def acknowledged(self) -> list[Acknowledged]:
        """Batches that have become visible since the last call, in order. Raises Fenced, PublishFailed."""
        found = []
        while not self._done.empty():
            found.append(self._done.get_nowait())
        if not found:
            self.check()
        return found

    def wait(self, batch: int, timeout_s: float) -> bool:
        """Waits until `batch` is in the log; False after `timeout_s`. Raises Fenced, PublishFailed."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished >= batch or self._failure is not None, timeout_s)
            if self._finished >= batch:
                return True
        self.check()
        return False

    def check(self) -> None:
        """Raises what ended the thread, if anything did."""
        if self._failure is not None:
            raise _mapped(self._failure) from self._failure

    def close(self, timeout_s: float = 10.0) -> None:
        """Lets the batches under way finish for up to `timeout_s`; what is left is aborted by Kafka."""
        self._work.put(None)
        self._thread.join(timeout_s)
        self._raw.close(0 if self._thread.is_alive() else timeout_s)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            number, frames = work
            begun_s = time.monotonic()
            try:
                streams, offsets = self._append(frames)
            except BaseException as error:
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            took_ms = (time.monotonic() - begun_s) * 1e3
            self._done.put(Acknowledged(number, streams, offsets, took_ms))
            with self._changed:
                self._finished = number
                self._changed.notify_all()

    def _append(self, frames: Callable[[], Iterable[Frame]]) -> tuple[dict[str, StreamPosition], dict[int, int]]:
        """Commits one transaction; returns the last position per stream and the next offset per partition."""
        while True:
            streams: dict[str, StreamPosition] = {}
            self._raw.begin_transaction()
            hit("trainer.transaction-begun")
            try:
                sent = []
                for frame in frames():
                    stream = stream_of(frame.table, frame.shard)
                    streams[stream] = position_of(frame)
                    sent.append(self._raw.send(UPDATES.name, key=stream.encode(), value=UPDATES.codec.encode(frame)))
                written = [future.get() for future in sent]
                hit("trainer.frames-sent")
            except (ProducerFencedError, InvalidProducerEpochError):
                raise
            except RetriableError:
                # Nobody sees an aborted transaction: the same frames go again under the same sequences. An abort that
                # fails ends the writer, because then nobody knows.
                self._raw.abort_transaction()
                continue
            self._raw.commit_transaction()
            hit("trainer.frames-committed")
            offsets: dict[int, int] = {}
            for record in written:
                offsets[record.partition] = max(record.offset + 1, offsets.get(record.partition, 0))
            return streams, offsets


def _mapped(error: BaseException) -> PublishFailed:
    if isinstance(error, PublishFailed):
        return error
    if isinstance(error, ProducerFencedError | InvalidProducerEpochError):
        return Fenced("another trainer has taken over the update log (or this one's transaction timed out)")
    # A coordinator that changes over to another trainer at this very moment may say no more than "unknown error".
    return PublishFailed(
        "the update log could not be written, or another trainer has taken over the update log: "
        f"{type(error).__name__}: {error}"
    )
