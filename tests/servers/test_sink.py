"""The sink stores every record of the logged topics once, whatever stands between."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.evaluation import schema, sink, tables
from serving.evaluation.clickhouse import insert
from serving.settings import ClickHouseSettings, ServingSettings
from streams import topics
from streams.admin import admin
from streams.health import Health
from streams.kafka import producer
from streams.records import (
    Action,
    ArmDefinition,
    Assignment,
    Candidate,
    DeadLetter,
    Example,
    Experiment,
    Impression,
    Label,
    LabelState,
    Metric,
    ModelVersion,
    Shown,
    UsedFeatures,
    Validation,
)
from tests.servers.gateway import GatewayProcess, running
from tests.stacks import RunningStack, wait_until
from tests.threads import in_thread

pytestmark = pytest.mark.servers

WAIT_S = 120.0
NOW_MS = time.time_ns() // 1_000_000
ARM = Assignment("e", "online", "user", "u1", 1, "full")
MODEL = ModelVersion(3, 14, {"sparse": 15})
FEATURES = UsedFeatures("user_stats", 2, NOW_MS, {"rating_mean": 3.5})


def impression(n: int) -> Impression:
    return Impression(
        v=1,
        request_id=f"r{n}",
        ts=NOW_MS + n,
        user=f"u{n % 7}",
        items=[Shown(f"i{k}", k, 0.5, 0.9, "popular", k == 1, [1.0, 2.5], NOW_MS) for k in range(3)],
        scene="home",
        context={"hour": 3},
        arms=[ARM, Assignment("other", "b", "session", "s", 2, "ramp")],
        policy="online",
        model=MODEL,
        user_features=FEATURES,
        candidates=[Candidate("i9", 0.1, "similar")],
    )


def action(n: int) -> Action:
    return Action(
        ts=NOW_MS + n,
        user=f"u{n % 7}",
        item="i1",
        kind="click",
        event_id=f"e{n}",
        received_at=NOW_MS + n + 1,
        request_id=f"r{n}",
        context={"two\n\nlines": "tab\tand 'quote'"},
        extra={"x": 1},
    )


def example(n: int) -> Example:
    return Example(
        v=1,
        example_id=f"r{n}/1",
        revision=0,
        ts=NOW_MS + n,
        user=f"u{n % 7}",
        item="i1",
        labels={"click": Label(LabelState.OBSERVED, 1.0), "rating": Label(LabelState.CENSORED)},
        request_id=f"r{n}",
        position=1,
        arms=[ARM],
        model=MODEL,
        user_features=FEATURES,
        item_features=[0.5],
        kind="click",
    )


def metric(n: int) -> Metric | Validation:
    if n % 2:
        return Metric(process="trainer", name="freshness_ms", ts=NOW_MS + n, value=n / 2, labels={"task": "click"})
    return Validation(
        process="trainer",
        learner="online",
        task="click",
        scene="",
        window=n,
        ts=NOW_MS,
        first_ts=NOW_MS,
        last_ts=NOW_MS,
        n=10,
        positives=4,
        log_loss_sum=3.0,
        bins_positive=[0, 4],
        bins_negative=[5, 1],
    )


def letter(n: int) -> DeadLetter:
    return DeadLetter(topic="events", partition=0, offset=n, reason="not-json", detail="", at=NOW_MS, value=b"\xff\x00")


EXPERIMENT = Experiment(name="e", control="b", arms=[ArmDefinition(name="b", policy="popularity")])
MAKERS: dict[topics.Topic, Callable[[int], Any]] = {
    topics.IMPRESSIONS: impression,
    topics.ACTIONS: action,
    topics.EXAMPLES: example,
    topics.METRICS: metric,
    topics.DEAD_LETTERS: letter,
}
HUGE = b'{"ts": 99999999999999999999, "user": "u", "item": "i", "kind": "k", "event_id": "e", "received_at": 1}'
LATE_U64 = b'{"ts": 18446744073709551615, "user": "u", "item": "i", "kind": "k", "event_id": "e", "received_at": 1}'
GARBAGE = [b"", b"\xff\xfe", b"{}", b"[1, 2]", HUGE, LATE_U64]


class Log:
    """A Kafka that a test fills, and what must come out of it."""

    def __init__(self, stack: RunningStack, gateway: GatewayProcess) -> None:
        self.stack = stack
        self.gateway = gateway
        self.n = 0
        self.experiments = 1  # what the settings declare, published when the topics were made

    def settings(self, database: str) -> ServingSettings:
        """A sink with a database of its own reads the log from its start."""
        address = self.gateway.address
        with self.gateway.client() as client:
            client.command(f"CREATE DATABASE {database}")
        return ServingSettings(
            kafka=self.stack.settings.kafka,
            clickhouse=ClickHouseSettings(address=address, database=database, flush_interval_s=0.1),
        )

    def produce(self, more: int) -> None:
        """`more` records into every topic."""
        with producer(self.stack.settings.kafka) as out:
            for topic, make in MAKERS.items():
                for n in range(self.n, self.n + more):
                    out.send(topic, make(n), f"u{n % 7}")
            out.flush(60)
        self.n += more

    def wanted(self) -> dict[str, tuple[int, int]]:
        """Rows and distinct rows of each table."""
        validations = (self.n + 1) // 2
        rows = {
            "impressions": 3 * self.n,
            "actions": self.n,
            "examples": self.n,
            "metrics": self.n - validations,
            "validations": validations,
            "dead_letters": self.n,
            "experiments": self.experiments,
        }
        return {name: (count, count) for name, count in rows.items()}


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with running() as process:
        yield process


@pytest.fixture
def log(gateway: GatewayProcess, fresh_kafka: RunningStack) -> Log:
    return Log(fresh_kafka, gateway)


def counted(client: Any) -> dict[str, tuple[int, int]]:
    """Rows and distinct rows of each table; empty until there are tables."""
    if not client.command("EXISTS TABLE experiments"):
        return {}
    counts = {}
    for table in tables.LOGS:
        identity = "partition, offset" + (f", {table.slot}" if table.slot else "")
        sql = f"SELECT count(), uniqExact({identity}) FROM {table.name}"
        counts[table.name] = tuple(client.query(sql).result_rows[0])
    return counts


def wait_stored(client: Any, log: Log) -> None:
    wait_until(lambda: counted(client) == log.wanted(), WAIT_S, f"{log.wanted()} in the tables")


def test_every_record_is_stored_once_over_restarts(log: Log) -> None:
    settings = log.settings("restarts")
    with log.gateway.client(database="restarts") as client:
        for more in (200, 100, 1):
            log.produce(more)
            with in_thread(sink.run, settings):
                wait_stored(client, log)
        with in_thread(sink.run, settings) as health:
            wait_until(lambda: health.values.get("lag") == 0, WAIT_S, "no lag")
        assert counted(client) == log.wanted()


def test_the_rows_say_what_the_records_said(log: Log) -> None:
    log.produce(2)
    log.experiments += 1
    with producer(log.stack.settings.kafka) as out:
        out.send(topics.EXPERIMENTS, EXPERIMENT, "e")
        out.send(topics.EXPERIMENTS, None, "gone")
        out.flush(60)
    settings = log.settings("said")
    with log.gateway.client(database="said") as client:
        with in_thread(sink.run, settings):
            wait_stored(client, log)

        def one(table: str, columns: str, where: str) -> Any:
            return client.query(f"SELECT {columns} FROM {table} WHERE {where}").result_rows[0]

        shown = "request_id, user, slot, item, explored, item_features, arms.arm, arms.version, sparse, user_features"
        assert one("impressions", shown, "request_id = 'r1' AND slot = 1") == (
            *("r1", "u1", 1, "i1", True, [1.0, 2.5], ["online", "b"], [1, 2], {"sparse": 15}, ""),
        )
        assert '"rating_mean":3.5' in one("impressions", "user_features", "slot = 0")[0]
        assert one("actions", "ts, context, value", "event_id = 'e1'") == (
            *(NOW_MS + 1, '{"two\\n\\nlines":"tab\\tand \'quote\'"}', None),
        )
        assert one("examples", "labels.task, labels.state, labels.value, position", "request_id = 'r1'") == (
            *(["click", "rating"], ["observed", "censored"], [1.0, 0.0], 1),
        )
        assert one("validations", "n, bins_positive, bins_negative", "window = 0") == (10, [0, 4], [5, 1])
        assert one("metrics", "name, value, labels", "1") == ("freshness_ms", 0.5, {"task": "click"})
        assert one("dead_letters", "origin_topic, origin_offset, hex(value)", "offset = 1") == ("events", 1, "FF00")
        assert one("experiments", "version", "name = 'e'") == (1,)


def test_what_cannot_be_stored_is_a_dead_letter_once(log: Log, gateway: GatewayProcess) -> None:
    settings = log.settings("letters")
    with producer(settings.kafka) as out:
        for value in GARBAGE:
            out.send_bytes(topics.ACTIONS.name, value, b"u")
        out.send(topics.ACTIONS, action(0), "u")
        for value in GARBAGE:
            out.send_bytes(topics.EXAMPLES.name, value, b"u")
        out.flush(60)
    letters = 2 * len(GARBAGE)
    with gateway.client(database="letters") as client:
        for _ in range(2):
            with in_thread(sink.run, settings) as health:
                wait_until(lambda: counted(client).get("dead_letters", (0, 0))[0] >= letters, WAIT_S, "dead letters")
                wait_until(lambda: health.values.get("lag") == 0, WAIT_S, "no lag")
        counts = counted(client)
        assert counts["actions"] == (1, 1)
        assert counts["examples"] == (0, 0)
        origins = "SELECT count(), uniqExact(origin_topic, origin_partition, origin_offset) FROM dead_letters"
        assert client.query(origins).result_rows == [(letters, letters)]


def test_a_batch_whose_insert_was_under_way_at_the_crash_counts_once(log: Log) -> None:
    settings = log.settings("underway")
    log.produce(100)
    stop = threading.Event()
    crashing = sink.Sink(settings, stop, Health(None))
    wanted_read, read = len(MAKERS) * log.n + log.experiments, 0
    while read < wanted_read:
        for key, batch in crashing._reader.poll(timeout_ms=1_000).items():
            read += len(batch)
            for record in batch:
                crashing._partitions[key].add(record)
    # The intents are committed, and then the process dies while its inserts are on their way.
    late = {key: part for key, part in crashing._partitions.items() if part.batches}
    crashing._commit({key: (part.batches[0].first, str(part.batches[0].last)) for key, part in late.items()})
    log.produce(50)
    with log.gateway.client(database="underway") as client:
        successor = sink.Sink(settings, stop, Health(None))
        for part in late.values():
            crashing._store(part)  # arrives after the successor has asked how far the tables are
        crashing.close()
        thread = threading.Thread(target=successor.run)
        thread.start()
        try:
            wait_stored(client, log)
        finally:
            stop.set()
            thread.join(60)
            successor.close()
        assert counted(client) == log.wanted()


def test_clickhouse_and_kafka_may_be_away(log: Log) -> None:
    settings, kafka = log.settings("away"), log.stack
    with log.gateway.client(database="away") as client, in_thread(sink.run, settings) as health:
        log.produce(50)
        wait_stored(client, log)
        log.gateway.kill()
        log.produce(50)
        wait_until(lambda: health.values.get("waiting_for"), WAIT_S, "the sink says that it waits")
        log.gateway.start()
        wait_stored(client, log)
        kafka.wait_back("kafka", kafka.kill("kafka"))
        log.produce(20)
        wait_stored(client, log)


@pytest.mark.parametrize(
    ("cluster", "message"), [("another", "holds the logs of Kafka cluster another"), ("", "was made anew")]
)
def test_another_log_under_the_same_tables_is_refused(log: Log, cluster: str, message: str) -> None:
    settings = log.settings(f"foreign{cluster}")
    with admin(settings.kafka) as kafka, log.gateway.client() as client:
        schema.ensure(client, settings.clickhouse)
        name = cluster or kafka.describe_cluster()["cluster_id"]
        insert(client, tables.PROGRESS, [("actions", 0, name, 1_000_000)], "x", settings.clickhouse.database)
    with pytest.raises(sink.SinkError, match=message):
        sink.run(settings, threading.Event(), Health(None))


def test_the_schema_is_migrated_and_verified(gateway: GatewayProcess) -> None:
    settings = ClickHouseSettings(address=gateway.address, database="logs", retention_days=7)
    with gateway.client() as client:
        client.command("CREATE DATABASE logs")
        assert schema.verify(client, settings) == [f"table {table.name} is missing" for table in tables.TABLES]
        schema.ensure(client, settings)
        schema.ensure(client, settings)
        assert schema.verify(client, settings) == []
        client.command("ALTER TABLE logs.actions DROP COLUMN scene")
        client.command("ALTER TABLE logs.metrics MODIFY SETTING non_replicated_deduplication_window = 0")
        longer = ClickHouseSettings(address=gateway.address, database="logs", retention_days=9)
        assert schema.verify(client, longer) == [
            *(f"{table.name} does not keep its rows for 9 days" for table in tables.LOGS[:1]),
            "actions.scene is missing, must be LowCardinality(String)",
            "actions does not keep its rows for 9 days",
            "examples does not keep its rows for 9 days",
            "metrics has no deduplication window: batches that are sent again would count twice",
            *(f"{table.name} does not keep its rows for 9 days" for table in tables.LOGS[3:]),
        ]
        with pytest.raises(schema.SchemaError, match="metrics has no deduplication window"):
            schema.ensure(client, longer)
        client.command("ALTER TABLE logs.metrics MODIFY SETTING non_replicated_deduplication_window = 100")
        schema.ensure(client, longer)
        assert schema.verify(client, longer) == []
        client.command("ALTER TABLE logs.actions MODIFY COMMENT 'freshet schema 2'")
        client.command("ALTER TABLE logs.actions MODIFY COLUMN user Nullable(String)")
        with pytest.raises(schema.SchemaError, match="says 'freshet schema 2'"):
            schema.ensure(client, longer)
