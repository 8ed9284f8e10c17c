"""Producer and consumer with freshet's delivery promise (kafka-python; the worker's transactions are in `task`).

A record that `Producer.send` accepts is delivered exactly once into its partition, in order, however long the broker
is away, as long as the process lives; memory is bounded, and a full buffer blocks or raises. Readers see committed
records only and keep their positions themselves.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError, RetriableError, UnknownTopicOrPartitionError
from kafka.future import Future

from streams.settings import KafkaSettings
from streams.topics import Topic

# The largest record that any topic takes (dense bundles on `updates`); `admin` gives each topic its own limit.
MAX_REQUEST_BYTES: Final = 16 * 2**20
# A record waits this long for an absent broker: one day is "as long as the process lives" for a laptop or a pod.
DELIVERY_TIMEOUT_MS: Final = 24 * 3_600_000
# What a record costs in memory beside its bytes: the future, its callbacks, the accounting (measured about 900).
RECORD_OVERHEAD_BYTES: Final = 900

# An answer that is not there by then is asked for again, from the start: what was under way when a broker died may
# be heard of no more, and the clients' own patience (30 s) is longer than a broker takes to come back.
ANSWER_MS: Final = 3_000
REQUEST_TIMEOUT_MS: Final = 10_000

# A topic that nobody declared is a mistake, not a wish; nobody reads the clients' own metrics, which cost per record.
_CLIENT: Final = {
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
    "request_timeout_ms": REQUEST_TIMEOUT_MS,
}


class BufferFull(RuntimeError):
    """The producer holds as many unacknowledged bytes as it may; the record was not taken."""


class BrokerAway(RuntimeError):
    """No broker answered in time."""


class Stopped(RuntimeError):
    """The process was asked to stop while it waited for a broker."""


def backoff(first_s: float = 0.1, most_s: float = 2.0) -> Iterator[float]:
    """Waits to make between attempts (s): doubling up to `most_s`, each shortened by up to a half, so that processes
    that lost the same broker do not return in step."""
    wait_s = first_s
    while True:
        yield wait_s * random.uniform(0.5, 1.0)
        wait_s = min(2 * wait_s, most_s)


def retry(make: Callable[[], Any], what: str, timeout_s: float, stop: threading.Event | None = None) -> Any:
    """Calls `make` until it succeeds, waiting while the broker is away; raises BrokerAway, or Stopped on `stop`."""
    deadline = time.monotonic() + timeout_s
    pause = stop if stop is not None else threading.Event()
    for wait_s in backoff():
        if pause.is_set():
            raise Stopped(what)
        try:
            return make()
        except RetriableError as error:
            if time.monotonic() + wait_s > deadline:
                raise BrokerAway(f"{what}: no answer in {timeout_s:g} s: {error}") from error
        pause.wait(wait_s)
    raise AssertionError("unreachable")


def connection(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """What every kafka-python client of ours is made with; raises ValueError without a bootstrap address."""
    if not settings.bootstrap:
        raise ValueError("`kafka.bootstrap` == '', must be host:port (`freshet up` fills it in)")
    return {
        "bootstrap_servers": settings.bootstrap.split(","),
        "client_id": client_id,
        "reconnect_backoff_max_ms": 1_000,
        "bootstrap_timeout_ms": 5_000,
    }


class Producer:
    """A kafka-python producer that is idempotent (acks=all) and bounded in memory.

    `max_buffer_bytes` bounds the records that are not yet acknowledged. Safe from any thread.
    """

    def __init__(self, raw: KafkaProducer, max_buffer_bytes: int) -> None:
        self.raw = raw
        self._max_bytes = max_buffer_bytes
        self._changed = threading.Condition()
        self._held_bytes = 0
        self._failure: BaseException | None = None

    def send(
        self,
        topic: Topic,
        record: Any,
        key: str | None,
        *,
        partition: int | None = None,
        block_s: float = 60.0,
    ) -> Future:
        """Sends one record of the catalogue; see `send_bytes`. None as record deletes the key (a tombstone)."""
        value = None if record is None else topic.codec.encode(record)
        key_bytes = None if key is None else key.encode()
        return self.send_bytes(topic.name, value, key_bytes, partition=partition, block_s=block_s)

    def send_bytes(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        partition: int | None = None,
        block_s: float = 60.0,
    ) -> Future:
        """Takes one record; the future becomes kafka-python's RecordMetadata when the broker has acknowledged it.

        Without a partition the key's murmur2 hash picks it, as in Java's client; without a key, chance. Waits up to
        `block_s` for room (0: not at all), then raises BufferFull; raises BrokerAway where the topic's partitions were
        never learned.
        """
        size = len(value or b"") + len(key or b"") + RECORD_OVERHEAD_BYTES
        with self._changed:
            # One record larger than the whole buffer still passes alone: refusing it for ever would help nobody.
            fits = self._changed.wait_for(
                lambda: self._held_bytes == 0 or self._held_bytes + size <= self._max_bytes, block_s
            )
            if not fits:
                raise BufferFull(f"{self._held_bytes} bytes wait for Kafka, more than {self._max_bytes} are not held")
            self._held_bytes += size
        try:
            future = self.raw.send(topic, value=value, key=key, partition=partition)
        except KafkaTimeoutError as error:
            self._release(size)
            raise BrokerAway(f"topic {topic!r}: {error}") from error
        except BaseException:
            self._release(size)
            raise
        future.add_callback(lambda _: self._release(size))
        future.add_errback(lambda error: self._fail(size, error))
        return future

    def flush(self, timeout_s: float | None = None) -> None:
        """Waits until everything taken so far is acknowledged; raises BrokerAway after `timeout_s`, or the first
        failure since the last flush."""
        try:
            self.raw.flush(timeout_s)
        except KafkaTimeoutError as error:
            raise BrokerAway(f"{self._held_bytes} bytes unacknowledged after {timeout_s} s") from error
        with self._changed:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self, timeout_s: float = 10.0) -> None:
        """Waits up to `timeout_s` for what is unacknowledged, then drops it and the connections."""
        self.raw.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _release(self, size: int) -> None:
        with self._changed:
            self._held_bytes -= size
            self._changed.notify_all()

    def _fail(self, size: int, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._held_bytes -= size
            self._changed.notify_all()


def producer(
    settings: KafkaSettings,
    *,
    client_id: str = "freshet",
    linger_ms: int = 5,
    max_buffer_bytes: int = 64 * 2**20,
    compression: str | None = None,
    wait_s: float = 60.0,
    stop: threading.Event | None = None,
) -> Producer:
    """An idempotent, bounded producer; waits up to `wait_s` for a broker that is away.

    Raises BrokerAway, Stopped (where `stop` was set meanwhile), ValueError without a bootstrap address.
    """
    config = (
        connection(settings, client_id)
        | _CLIENT
        | {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": linger_ms,
            "batch_size": 256 * 2**10,
            "max_request_size": MAX_REQUEST_BYTES,
            "compression_type": compression,
            "delivery_timeout_ms": DELIVERY_TIMEOUT_MS,
        }
    )
    raw = retry(lambda: KafkaProducer(**config), f"producer {client_id}", wait_s, stop)
    return Producer(raw, max_buffer_bytes)


def consumer(
    settings: KafkaSettings,
    *,
    client_id: str = "freshet",
    group: str | None = None,
    committed: bool = True,
    max_poll_records: int = 20_000,
    wait_s: float = 60.0,
    stop: threading.Event | None = None,
) -> KafkaConsumer:
    """A consumer that sees committed records only (`committed=False`: all) and commits nothing by itself.

    Positions are the caller's: use `assign`. A position that the log no longer has is taken up at the log's start.
    `group` only names where offsets may be committed so that lag is visible. Raises as `producer`.
    """
    config = (
        connection(settings, client_id)
        | _CLIENT
        | {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed" if committed else "read_uncommitted",
            "max_poll_records": max_poll_records,
            "max_partition_fetch_bytes": MAX_REQUEST_BYTES // 4,
            "fetch_max_wait_ms": 100,
        }
    )
    return retry(lambda: KafkaConsumer(**config), f"consumer {client_id}", wait_s, stop)


def partitions_of(
    reader: KafkaConsumer, topic: str, wait_s: float = 60.0, stop: threading.Event | None = None
) -> list[TopicPartition]:
    """All partitions of a topic, in order; waits up to `wait_s` for the topic to be created, else raises BrokerAway."""

    def look() -> list[TopicPartition]:
        try:
            known = reader.partitions_for_topic(topic)
        except UnknownTopicOrPartitionError:
            known = None
        if not known:
            raise KafkaTimeoutError(f"topic {topic!r} does not exist")
        return [TopicPartition(topic, k) for k in sorted(known)]

    found: list[TopicPartition] = retry(look, f"topic {topic}", wait_s, stop)
    return found


def assign(
    reader: KafkaConsumer,
    topics: Sequence[str],
    positions: Mapping[tuple[str, int], int] | None = None,
    *,
    start: str = "beginning",
    wait_s: float = 60.0,
    stop: threading.Event | None = None,
) -> list[TopicPartition]:
    """Assigns all partitions of `topics` by hand and returns them.

    Each is read from its entry in `positions` ({(topic, partition): next offset}); those without one from `start`,
    `"beginning"` or `"end"`. Raises BrokerAway where a topic does not appear within `wait_s`.
    """
    if start not in ("beginning", "end"):
        raise ValueError(f"`start` == {start!r}, must be 'beginning' or 'end'")
    known = positions or {}
    partitions = [p for topic in topics for p in partitions_of(reader, topic, wait_s, stop)]
    reader.assign(partitions)
    fresh = []
    for p in partitions:
        if (p.topic, p.partition) in known:
            reader.seek(p, known[p.topic, p.partition])
        else:
            fresh.append(p)
    if fresh and start == "beginning":
        reader.seek_to_beginning(*fresh)
    elif fresh:
        # An end that is looked up later would skip what arrives until then.
        for p, end in end_offsets(reader, fresh, wait_s, stop).items():
            reader.seek(p, end)
    return partitions


def begin_offsets(
    reader: KafkaConsumer,
    partitions: Sequence[TopicPartition],
    wait_s: float = 60.0,
    stop: threading.Event | None = None,
) -> dict[TopicPartition, int]:
    """The first offset of each partition; asks again for up to `wait_s` (0: once), then raises BrokerAway; Stopped."""
    ask = partial(reader.beginning_offsets, partitions, timeout_ms=ANSWER_MS)
    found: dict[TopicPartition, int] = retry(ask, "beginning offsets", wait_s, stop)
    return found


def end_offsets(
    reader: KafkaConsumer,
    partitions: Sequence[TopicPartition],
    wait_s: float = 60.0,
    stop: threading.Event | None = None,
) -> dict[TopicPartition, int]:
    """The next offset to be written of each partition; as `begin_offsets`."""
    ask = partial(reader.end_offsets, partitions, timeout_ms=ANSWER_MS)
    found: dict[TopicPartition, int] = retry(ask, "end offsets", wait_s, stop)
    return found


def lag(reader: KafkaConsumer, positions: Mapping[tuple[str, int], int]) -> int:
    """Records between `positions` ({(topic, partition): next offset}) and the ends of the log, summed."""
    partitions = [TopicPartition(topic, k) for topic, k in positions]
    try:
        ends = end_offsets(reader, partitions, 0.0) if partitions else {}
    except KafkaError as error:
        raise BrokerAway(f"end offsets: {error}") from error
    return sum(max(0, end - positions[p.topic, p.partition]) for p, end in ends.items())
