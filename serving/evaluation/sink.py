"""Kafka to ClickHouse, each record once in effect.

A flush takes the same steps every time:

1. Cut one batch per partition from what was read.
2. Commit the batch's bounds to Kafka as an intent.
3. Insert each table's rows under the token `topic:partition:first:last`.
4. Send the dead letters of the batch and wait for the broker's acknowledgement.
5. Note the progress in ClickHouse, where rows alone would not tell it, and commit the end to Kafka (so that lag shows).

After a crash the largest offset in a table says what is stored. What cannot be known is whether an insert is still
under way, and whether the dead letters went out; so the intent makes the new process read and cut the same batch again,
and the same token makes ClickHouse count it once, however late the first one arrives. Its dead letters are sent again.
An insert within one process is repeated in the same way.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

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

from serving.evaluation import schema, tables
from serving.evaluation.batches import BATCH_BYTES, Partition
from serving.evaluation.clickhouse import connect, create_database, insert
from serving.evaluation.rows import Row
from serving.settings import ServingSettings
from streams import topics
from streams.admin import admin
from streams.dead_letters import DeadLetters
from streams.failpoints import hit
from streams.health import Health
from streams.kafka import BrokerAway, Stopped, assign, backoff, consumer, end_offsets, lag, producer
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
_POLL_RECORDS: Final = 5_000
_PROGRESS_S: Final = 10.0


class SinkError(RuntimeError):
    """The sink cannot go on without losing or doubling rows; the message says what must be decided."""


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
        self._insist("ClickHouse", lambda: create_database(settings.clickhouse))
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
        self._cluster: str = self._insist("cluster id", self._cluster_id)
        self._partitions = self._resume()
        hit("sink.resumed")
        # From the first row on it is known which log the rows are of.
        self._note_progress()

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
            hit("sink.intent-committing")
            self._commit({key: (part.batches[0].first, str(part.batches[0].last)) for key, part in waiting.items()})
            hit("sink.intent-committed")
            for part in waiting.values():
                self._store(part)
            if any(part.batches[0].unreadable for part in waiting.values()):
                self._bury(waiting)
            for part in waiting.values():
                batch = part.finish()
                self._progress_due |= not batch.rows or bool(batch.unreadable)
            hit("sink.end-committing")
            self._commit({key: (part.done, "") for key, part in waiting.items()})
            hit("sink.end-committed")
        if self._progress_due or time.monotonic() - self._progress_s >= _PROGRESS_S:
            self._note_progress()

    def _store(self, part: Partition) -> None:
        batch = part.batches[0]
        token = f"{part.topic.name}:{part.number}:{batch.first}:{batch.last}"
        for table in tables.LOGS:
            rows = batch.rows.get(table.name)
            if rows:
                hit("sink.inserting")
                self._insist(table.name, partial(insert, self._client, table, rows, token, self._database))
                hit("sink.inserted")
                self._rows += len(rows)

    def _bury(self, waiting: dict[TopicPartition, Partition]) -> None:
        for part in waiting.values():
            for record, reason, detail in part.batches[0].unreadable:
                self._dead_letters.send(record, reason, detail)
        hit("sink.letters-sent")
        self._insist("dead letters", lambda: self._producer.flush(timeout_s=30.0))
        hit("sink.letters-acknowledged")

    def _note_progress(self) -> None:
        rows: list[Row] = [(p.topic.name, p.number, self._cluster, p.done) for p in self._partitions.values()]
        token = ":".join([self._cluster, *(str(done) for *_, done in rows)])
        hit("sink.progress-noting")
        self._insist("progress", lambda: insert(self._client, tables.PROGRESS, rows, token, self._database))
        hit("sink.progress-noted")
        self._progress_s, self._progress_due = time.monotonic(), False

    def _commit(self, positions: dict[TopicPartition, tuple[int, str]]) -> None:
        offsets = {key: OffsetAndMetadata(offset, last, -1) for key, (offset, last) in positions.items()}
        self._insist("commit", lambda: self._reader.commit(offsets, timeout_ms=10_000))

    def _resume(self) -> dict[TopicPartition, Partition]:
        """Where every partition goes on, from ClickHouse alone; the intents only say where to cut."""
        self._insist("progress", self._check_log)
        stored, noted = self._insist("positions", self._positions)
        found = assign(self._reader, list(SOURCES), wait_s=float("inf"), stop=self._stop)
        ends = end_offsets(self._reader, found, float("inf"), self._stop)
        partitions = {}
        for key in found:
            own = [table.name for table in tables.LOGS if table.topic == key.topic]
            missing = {name: stored.get((name, key.topic, key.partition), 0) for name in own}
            start = max(min(missing.values()), noted.get((key.topic, key.partition), 0))
            if start > ends[key]:
                raise SinkError(
                    f"{self._database} holds {key.topic}-{key.partition} up to offset {start - 1}, but the log ends at"
                    f" {ends[key]}: the topic was made anew; use another database"
                )
            intent = self._intent(key)
            if intent:
                # Rows behind a record that made none may be stored while its dead letter is not sent.
                start = min(start, *intent)
            partitions[key] = Partition(SOURCES[key.topic], key.partition, missing, start, frozenset(intent))
            self._reader.seek(key, start)
        return partitions

    def _ensure_schema(self) -> None:
        try:
            schema.ensure(self._client, self._settings.clickhouse)
        except OperationalError:
            raise  # ClickHouse is away
        except DatabaseError as error:
            raise schema.SchemaError(f"{self._database}: {error}") from error

    def _cluster_id(self) -> str:
        with admin(self._settings.kafka, wait_s=5.0, stop=self._stop) as client:
            return str(client.describe_cluster()["cluster_id"])

    def _check_log(self) -> None:
        table = f"{self._database}.{tables.PROGRESS.name}"
        known = [name for (name,) in self._client.query(f"SELECT DISTINCT cluster FROM {table}").result_rows]
        if known and known != [self._cluster]:
            raise SinkError(
                f"{self._database} holds the logs of Kafka cluster {', '.join(known)}, this one is {self._cluster}:"
                " offsets of two logs cannot be told apart; use a database of its own"
            )

    def _positions(self) -> tuple[dict[tuple[str, str, int], int], dict[tuple[str, int], int]]:
        stored = {
            (table.name, topic, partition): offset + 1
            for table in tables.LOGS
            for topic, partition, offset in self._client.query(
                f"SELECT topic, partition, max(offset) FROM {self._database}.{table.name} GROUP BY topic, partition"
            ).result_rows
        }
        noted = {
            (topic, partition): offset
            for topic, partition, offset in self._client.query(
                f"SELECT topic, partition, max(next_offset) FROM {self._database}.{tables.PROGRESS.name}"
                " GROUP BY topic, partition"
            ).result_rows
        }
        return stored, noted

    def _intent(self, key: TopicPartition) -> tuple[int, ...]:
        """The first offset of the batch that was under way and the one behind it; nothing where none was."""
        committed = self._insist("committed", lambda: self._reader.committed(key, metadata=True, timeout_ms=10_000))
        if committed is None or not committed.metadata:
            return ()
        return committed.offset, int(committed.metadata) + 1

    def _insist(self, what: str, action: Callable[[], T]) -> T:
        """Do it until it is done: neither server has the right to lose rows by being away."""
        waited = False
        for wait_s in backoff():
            try:
                done = action()
            except (DataError, ProgrammingError, schema.SchemaError):
                raise  # ours to repair, waiting does not help
            except (ClickHouseError, HTTPError, KafkaError, BrokerAway, OSError) as error:
                log.warning("%s: %s; again in %.1f s", what, error, wait_s)
                self._health.report(waiting_for=what, error=str(error)[:300])
                waited = True
                if self._stop.wait(wait_s):
                    raise Stopped(what) from error
            else:
                if waited:
                    # A report that waits for nothing says that the sink is ready: before that Kafka is still to come.
                    self._health.report(waiting_for="" if self._ready else "Kafka", error="")
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
