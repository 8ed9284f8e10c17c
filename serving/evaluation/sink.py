"""Kafka to ClickHouse, each record once in effect.

A flush takes the same steps every time:

1. Cut one batch per partition from what was read.
2. Commit the batch's bounds to Kafka as an intent.
3. Insert each table's rows under the token `topic:partition:first:last`.
4. Send the dead letters of the batch and wait for the broker's acknowledgement.
5. Note the progress in ClickHouse, where rows alone would not tell it, and commit the end to Kafka (so that lag shows).

After a crash the largest offset in a table says what is stored. What cannot be known is whether an insert is still
under way; so the intent makes the new process cut the same batch again, and the same token makes ClickHouse count it
once, however late the first one arrives. An insert within one process is repeated in the same way.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import clickhouse_connect
import msgspec
from clickhouse_connect.driver.exceptions import (
    ClickHouseError,
    DatabaseError,
    DataError,
    OperationalError,
    ProgrammingError,
)
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata
from urllib3.exceptions import HTTPError

from serving.evaluation import schema
from serving.evaluation.rows import Origin, Row, rows_of
from serving.settings import ClickHouseSettings, ServingSettings
from streams import topics
from streams.codec import Unreadable
from streams.dead_letters import DeadLetters, Reason
from streams.health import Health
from streams.kafka import BrokerAway, Stopped, assign, backoff, consumer, lag, producer
from streams.topics import Topic

T = TypeVar("T")
log = logging.getLogger(__name__)

GROUP: Final = "freshet-sink"
SOURCES: Final[dict[str, Topic]] = {
    topic.name: topic
    for topic in (
        topics.IMPRESSIONS,
        topics.ACTIONS,
        topics.EXAMPLES,
        topics.METRICS,
        topics.DEAD_LETTERS,
        topics.EXPERIMENTS,
    )
}
# Kafka bytes in one batch. Rows take about ten times that in Python, and stay far below the block size
# (1,048,449 rows, 256 MiB) at which ClickHouse would split an insert into parts that are stored one by one.
BATCH_BYTES: Final = 8 * 2**20
_POLL_RECORDS: Final = 5_000
_PROGRESS_S: Final = 10.0


class SinkError(RuntimeError):
    """The sink cannot go on without losing or doubling rows; the message says what must be decided."""


class Batch(msgspec.Struct):
    """Consecutive records of one partition: their rows by table, and those that made none."""

    first: int
    last: int
    n_bytes: int = 0
    rows: dict[str, list[Row]] = {}
    unreadable: list[tuple[Any, Reason, str]] = []


class Partition:
    """What is read and not yet stored of one partition, as pure bookkeeping.

    Args:
        topic: The topic of the catalogue.
        stored: For each table of the topic the offset from which its rows are missing.
        start: The offset from which to read.
        cuts: Offsets at which a batch must begin, from an earlier process's intent.
    """

    def __init__(self, topic: Topic, number: int, stored: dict[str, int], start: int, cuts: frozenset[int]) -> None:
        self.topic = topic
        self.number = number
        self.next_offset = start
        self.done = start
        self._stored = stored
        self._cuts = cuts
        self.batches: deque[Batch] = deque()

    @property
    def n_bytes(self) -> int:
        return sum(batch.n_bytes for batch in self.batches)

    def add(self, record: Any) -> None:
        """Take the next record (kafka-python's ConsumerRecord)."""
        if record.offset < self.next_offset:
            return
        batch = self._batch_for(record.offset)
        batch.last = record.offset
        batch.n_bytes += len(record.value or b"") + len(record.key or b"")
        self.next_offset = record.offset + 1
        if record.value is None:
            # A tombstone deletes a definition, which the log of definitions keeps; elsewhere it is a mistake.
            if self.topic is not topics.EXPERIMENTS:
                batch.unreadable.append((record, Reason.EMPTY, "a null value means nothing on this topic"))
            return
        try:
            found = list(
                rows_of(self.topic.codec.decode(record.value), Origin(self.topic.name, self.number, record.offset))
            )
        except Unreadable as error:
            batch.unreadable.append((record, Reason.UNREADABLE, str(error)))
            return
        for table, row in found:
            if record.offset >= self._stored[table.name]:
                batch.rows.setdefault(table.name, []).append(row)

    def _batch_for(self, offset: int) -> Batch:
        newest = self.batches[-1] if self.batches else None
        crosses = newest is not None and any(newest.last < cut <= offset for cut in self._cuts)
        if newest is None or crosses or newest.n_bytes >= BATCH_BYTES:
            newest = Batch(first=offset, last=offset)
            self.batches.append(newest)
        return newest

    def finish(self) -> Batch:
        """Forget the oldest batch, which is stored."""
        batch = self.batches.popleft()
        self.done = batch.last + 1
        return batch


def connect(settings: ClickHouseSettings) -> Any:
    """A clickhouse_connect client for the address in the settings.

    Raises:
        ValueError: an address that is not host:port.
    """
    host, colon, port = settings.address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"`clickhouse.address` == {settings.address!r}, must be host:port")
    return clickhouse_connect.get_client(
        host=host,
        port=int(port),
        username=settings.user,
        password=settings.password,
        autogenerate_session_id=False,
    )


def insert(client: Any, table: schema.Table, rows: list[Row], token: str, database: str) -> None:
    """Insert rows in the order of the table's columns; the same token again inserts nothing."""
    client.insert(
        table.name,
        list(zip(*rows, strict=True)),
        column_names=table.column_names,
        column_type_names=table.column_types,
        column_oriented=True,
        database=database,
        settings={
            "insert_deduplication_token": token,
            # A rollup on top of the table must count the batch once as well.
            "deduplicate_blocks_in_dependent_materialized_views": 1,
            # A profile may have turned it on; an acknowledgement must mean stored.
            "async_insert": 0,
        },
    )


class Sink:
    """Reads all partitions of the logged topics and stores them."""

    def __init__(self, settings: ServingSettings, stop: threading.Event, health: Health) -> None:
        self._settings = settings
        self._database = settings.clickhouse.database
        self._stop = stop
        self._health = health
        self._ready = False
        self._rows = 0
        self._progress_s = time.monotonic()
        self._progress_due = False
        self._client = self._insist("ClickHouse", lambda: connect(settings.clickhouse))
        self._insist("schema", self._ensure_schema)
        self._reader: KafkaConsumer = consumer(
            settings.kafka,
            client_id=GROUP,
            group=GROUP,
            max_poll_records=_POLL_RECORDS,
            wait_s=float("inf"),
            stop=stop,
        )
        self._producer = producer(settings.kafka, client_id=GROUP, wait_s=float("inf"), stop=stop)
        self._dead_letters = DeadLetters(self._producer)
        self._partitions = self._resume()

    def run(self) -> None:
        """Read and store until `stop`; what is read by then is stored too if ClickHouse is there."""
        flushed_s = time.monotonic()
        self._report(lag_now=True)
        while not self._stop.is_set():
            for key, batch in self._reader.poll(timeout_ms=100, max_records=_POLL_RECORDS).items():
                partition = self._partitions[key]
                for record in batch:
                    partition.add(record)
            now_s = time.monotonic()
            held = sum(partition.n_bytes for partition in self._partitions.values())
            if held >= BATCH_BYTES or now_s - flushed_s >= self._settings.clickhouse.flush_interval_s:
                self._flush()
                flushed_s = time.monotonic()
                self._report(lag_now=held < BATCH_BYTES)
        self._flush()
        self._note_progress()

    def close(self) -> None:
        """Drop the connections; what is not stored is read again at the next start."""
        self._reader.close()
        self._producer.close()
        self._client.close()

    def _flush(self) -> None:
        while waiting := {key: part for key, part in self._partitions.items() if part.batches}:
            self._commit({key: (part.batches[0].first, str(part.batches[0].last)) for key, part in waiting.items()})
            for part in waiting.values():
                self._store(part)
            if any(part.batches[0].unreadable for part in waiting.values()):
                self._bury(waiting)
            for part in waiting.values():
                batch = part.finish()
                self._progress_due |= not batch.rows or bool(batch.unreadable)
            self._commit({key: (part.done, "") for key, part in waiting.items()})
        if self._progress_due or time.monotonic() - self._progress_s >= _PROGRESS_S:
            self._note_progress()

    def _store(self, part: Partition) -> None:
        batch = part.batches[0]
        token = f"{part.topic.name}:{part.number}:{batch.first}:{batch.last}"
        for table in schema.LOGS:
            rows = batch.rows.get(table.name)
            if rows:
                self._insist(table.name, partial(insert, self._client, table, rows, token, self._database))
                self._rows += len(rows)

    def _bury(self, waiting: dict[TopicPartition, Partition]) -> None:
        for part in waiting.values():
            for record, reason, detail in part.batches[0].unreadable:
                self._dead_letters.send(record, reason, detail)
        self._insist("dead letters", lambda: self._producer.flush(timeout_s=30.0))

    def _note_progress(self) -> None:
        rows: list[Row] = [(p.topic.name, p.number, p.done) for p in self._partitions.values()]
        token = ":".join(str(done) for *_, done in rows)
        self._insist("progress", lambda: insert(self._client, schema.PROGRESS, rows, token, self._database))
        self._progress_s, self._progress_due = time.monotonic(), False

    def _commit(self, positions: dict[TopicPartition, tuple[int, str]]) -> None:
        offsets = {key: OffsetAndMetadata(offset, last, -1) for key, (offset, last) in positions.items()}
        self._insist("commit", lambda: self._reader.commit(offsets, timeout_ms=10_000))

    def _resume(self) -> dict[TopicPartition, Partition]:
        """Where every partition goes on, from ClickHouse alone; the intents only say where to cut."""
        stored, noted = self._insist("positions", self._positions)
        found = assign(self._reader, list(SOURCES), wait_s=float("inf"), stop=self._stop)
        ends = self._insist("end offsets", lambda: self._reader.end_offsets(found))
        partitions = {}
        for key in found:
            tables = [table for table in schema.LOGS if table.topic == key.topic]
            missing = {t.name: stored.get((t.name, key.topic, key.partition), 0) for t in tables}
            start = max(min(missing.values()), noted.get((key.topic, key.partition), 0))
            if start > ends[key]:
                raise SinkError(
                    f"{self._database} holds {key.topic}-{key.partition} up to offset {start - 1}, but the log ends at"
                    f" {ends[key]}: it is another log; give it a database of its own or empty this one"
                )
            cuts = self._intent(key)
            partitions[key] = Partition(SOURCES[key.topic], key.partition, missing, start, cuts)
            self._reader.seek(key, start)
        return partitions

    def _ensure_schema(self) -> None:
        try:
            schema.ensure(self._client, self._settings.clickhouse)
        except OperationalError:
            raise  # ClickHouse is away
        except DatabaseError as error:
            raise schema.SchemaError(f"{self._database}: {error}") from error

    def _positions(self) -> tuple[dict[tuple[str, str, int], int], dict[tuple[str, int], int]]:
        stored = {
            (table.name, topic, partition): offset + 1
            for table in schema.LOGS
            for topic, partition, offset in self._client.query(
                f"SELECT topic, partition, max(offset) FROM {self._database}.{table.name} GROUP BY topic, partition"
            ).result_rows
        }
        noted = {
            (topic, partition): offset
            for topic, partition, offset in self._client.query(
                f"SELECT topic, partition, max(next_offset) FROM {self._database}.{schema.PROGRESS.name}"
                " GROUP BY topic, partition"
            ).result_rows
        }
        return stored, noted

    def _intent(self, key: TopicPartition) -> frozenset[int]:
        committed = self._insist("committed", lambda: self._reader.committed(key, metadata=True, timeout_ms=10_000))
        if committed is None or not committed.metadata:
            return frozenset()
        return frozenset({committed.offset, int(committed.metadata) + 1})

    def _insist(self, what: str, action: Callable[[], T]) -> T:
        """Do it until it is done: neither server has the right to lose rows by being away."""
        for wait_s in backoff():
            try:
                done = action()
            except (DataError, ProgrammingError, schema.SchemaError):
                raise  # ours to repair, waiting does not help
            except (ClickHouseError, HTTPError, KafkaError, BrokerAway, OSError) as error:
                log.warning("%s: %s; again in %.1f s", what, error, wait_s)
                if self._ready:  # the first report of all says that the sink is
                    self._health.report(waiting_for=what, error=str(error)[:300])
                if self._stop.wait(wait_s):
                    raise Stopped(what) from error
            else:
                return done
        raise AssertionError("unreachable")

    def _report(self, *, lag_now: bool) -> None:
        values: dict[str, float | int | str] = {"rows": self._rows, "dead_letters": self._dead_letters.count}
        if lag_now:
            positions = {(key.topic, key.partition): self._reader.position(key) for key in self._partitions}
            values["lag"] = self._insist("lag", lambda: lag(self._reader, positions))
        self._ready = True
        self._health.report(**values, waiting_for="", error="")


def run(settings: ServingSettings, stop: threading.Event, health: Health) -> None:
    """Store the logged topics in ClickHouse until `stop`; waits while either server is away.

    Raises:
        SchemaError: the tables are not what this version writes.
        SinkError: ClickHouse holds more of a partition than Kafka has.
    """
    try:
        sink = Sink(settings, stop, health)
    except Stopped:
        return
    try:
        sink.run()
    except Stopped:
        log.warning("stopped while a server was away; the rest is stored at the next start")
    finally:
        sink.close()
