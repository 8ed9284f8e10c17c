"""The tables in ClickHouse, declared in one place; every statement about them is made from here.

Every row carries the topic, partition and offset of the record that it came from: together with the slot within the
record they are its identity, and the largest offset is where the sink goes on. Times are event times in ms since the
epoch, as in the records, with an alias `time` for people.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from serving.settings import ClickHouseSettings
from streams import topics

SCHEMA_VERSION: Final = 1
# How many inserts a table remembers by their tokens. The sink has one insert per partition under way at a time, so a
# token is only ever asked for again while it is among the last few; the rest is for other writers.
DEDUPLICATION_WINDOW: Final = 10_000

_TEXT: Final = "String"
_NAME: Final = "LowCardinality(String)"
_INT: Final = "Int64"
_REAL: Final = "Float64"


class Column(msgspec.Struct, frozen=True):
    """A column that the sink writes; `name` with a dot is part of a nested structure."""

    name: str
    type: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table, the topic that fills it, and what tells its rows apart within one record."""

    name: str
    topic: str
    columns: tuple[Column, ...]
    slot: str | None = None

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def column_types(self) -> list[str]:
        return [column.type for column in self.columns]


class SchemaError(RuntimeError):
    """The tables are not what this version can write; the message says what differs."""


def _columns(text: str) -> tuple[Column, ...]:
    """Columns from lines of `name type`."""
    pairs = (line.strip().partition(" ")[::2] for line in text.splitlines() if line.strip())
    return tuple(Column(name, kind.strip()) for name, kind in pairs)


_ORIGIN = f"""
    topic {_NAME}
    partition {_INT}
    offset {_INT}
    ts {_INT}
"""
_MODEL = f"""
    epoch {_INT}
    dense {_INT}
    sparse Map({_NAME}, {_INT})
"""
_ARMS = f"""
    arms.experiment Array({_NAME})
    arms.arm Array({_NAME})
    arms.unit_type Array({_NAME})
    arms.unit Array({_TEXT})
    arms.version Array({_INT})
    arms.phase Array({_NAME})
"""

# One row an item shown. What belongs to the request as a whole and is large (context, user features, candidates: JSON)
# stands in the row of its first slot only.
IMPRESSIONS = Table(
    name="impressions",
    topic=topics.IMPRESSIONS.name,
    slot="slot",
    columns=_columns(
        f"""{_ORIGIN}
        slot {_INT}
        request_id {_TEXT}
        user {_TEXT}
        session {_TEXT}
        scene {_NAME}
        policy {_NAME}
        {_MODEL.strip()}
        {_ARMS.strip()}
        item {_TEXT}
        position {_INT}
        score {_REAL}
        propensity {_REAL}
        source {_NAME}
        explored Bool
        item_features Array({_REAL})
        item_features_at {_INT}
        team {_NAME}
        context {_TEXT}
        user_features {_TEXT}
        candidates {_TEXT}"""
    ),
)
ACTIONS = Table(
    name="actions",
    topic=topics.ACTIONS.name,
    columns=_columns(
        f"""{_ORIGIN}
        received_at {_INT}
        event_id {_TEXT}
        user {_TEXT}
        item {_TEXT}
        kind {_NAME}
        value Nullable({_REAL})
        request_id {_TEXT}
        session {_TEXT}
        scene {_NAME}
        context {_TEXT}
        extra {_TEXT}"""
    ),
)
EXAMPLES = Table(
    name="examples",
    topic=topics.EXAMPLES.name,
    columns=_columns(
        f"""{_ORIGIN}
        example_id {_TEXT}
        revision {_INT}
        user {_TEXT}
        item {_TEXT}
        request_id {_TEXT}
        position {_INT}
        propensity {_REAL}
        scene {_NAME}
        session {_TEXT}
        policy {_NAME}
        {_MODEL.strip()}
        {_ARMS.strip()}
        labels.task Array({_NAME})
        labels.state Array({_NAME})
        labels.value Array({_REAL})
        user_features {_TEXT}
        item_features Array({_REAL})
        context {_TEXT}
        negative_rate {_REAL}
        negative_emitted Bool
        organic Bool
        late Bool
        correction Bool
        cause {_TEXT}
        kind {_NAME}
        value Nullable({_REAL})"""
    ),
)
METRICS = Table(
    name="metrics",
    topic=topics.METRICS.name,
    columns=_columns(
        f"""{_ORIGIN}
        process {_NAME}
        name {_NAME}
        value {_REAL}
        labels Map({_NAME}, {_TEXT})"""
    ),
)
VALIDATIONS = Table(
    name="validations",
    topic=topics.METRICS.name,
    columns=_columns(
        f"""{_ORIGIN}
        process {_NAME}
        learner {_NAME}
        task {_NAME}
        scene {_NAME}
        window {_INT}
        first_ts {_INT}
        last_ts {_INT}
        n {_INT}
        positives {_INT}
        log_loss_sum {_REAL}
        prediction_sum {_REAL}
        epoch {_INT}
        bins_positive Array({_INT})
        bins_negative Array({_INT})"""
    ),
)
DEAD_LETTERS = Table(
    name="dead_letters",
    topic=topics.DEAD_LETTERS.name,
    columns=_columns(
        f"""{_ORIGIN}
        origin_topic {_NAME}
        origin_partition {_INT}
        origin_offset {_INT}
        reason {_NAME}
        detail {_TEXT}
        key {_TEXT}
        value {_TEXT}"""
    ),
)
EXPERIMENTS = Table(
    name="experiments",
    topic=topics.EXPERIMENTS.name,
    columns=_columns(
        f"""{_ORIGIN}
        name {_NAME}
        version {_INT}
        definition {_TEXT}"""
    ),
)
# How far the sink is where the rows cannot tell: partitions whose last records made no row.
PROGRESS = Table(
    name="sink_progress",
    topic="",
    columns=_columns(
        f"""topic {_NAME}
        partition {_INT}
        next_offset {_INT}"""
    ),
)

LOGS: Final = (IMPRESSIONS, ACTIONS, EXAMPLES, METRICS, VALIDATIONS, DEAD_LETTERS, EXPERIMENTS)
TABLES: Final = (*LOGS, PROGRESS)


def create(table: Table, database: str, retention_days: int) -> str:
    """The statement that creates a table.

    There is no PARTITION BY: an insert then becomes one part, whole or not at all, and a token is looked for in one
    place. Retention counts from the insert, because replayed logs carry old times.
    """
    lines = [f"`{column.name}` {column.type}" for column in table.columns]
    lines.append("inserted_at DateTime('UTC') DEFAULT now()")
    if table is PROGRESS:
        engine, order = "ReplacingMergeTree(next_offset)", "topic, partition"
    else:
        lines.append("time DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(ts, 'UTC')")
        lines.append("INDEX by_time ts TYPE minmax GRANULARITY 1")
        engine, order = "MergeTree", "partition, offset" + (f", {table.slot}" if table.slot else "")
    body = ",\n    ".join(lines)
    ttl = "" if table is PROGRESS else f"TTL inserted_at + INTERVAL {retention_days} DAY DELETE\n"
    return (
        f"CREATE TABLE IF NOT EXISTS {database}.{table.name}\n(\n    {body}\n)\n"
        f"ENGINE = {engine}\nORDER BY ({order})\n{ttl}"
        f"SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}\n"
        f"COMMENT 'freshet schema {SCHEMA_VERSION}'"
    )


def ensure(client: Any, settings: ClickHouseSettings) -> None:
    """Create what is missing and add columns that older tables lack; safe to run from several processes.

    Args:
        client: A clickhouse_connect client.
        settings: The database and the retention.

    Raises:
        SchemaError: a table was made by a newer version, or has a column of another type.
    """
    client.command(f"CREATE DATABASE IF NOT EXISTS {settings.database}")
    for table in TABLES:
        client.command(create(table, settings.database, settings.retention_days))
    found = _found(client, settings.database)
    for table in TABLES:
        for column in table.columns:
            if column.name not in found[table.name]:
                client.command(
                    f"ALTER TABLE {settings.database}.{table.name}"
                    f" ADD COLUMN IF NOT EXISTS `{column.name}` {column.type}"
                )
        _set_retention(client, table, settings)
    wrong = verify(client, settings)
    if wrong:
        raise SchemaError("; ".join(wrong))


def _set_retention(client: Any, table: Table, settings: ClickHouseSettings) -> None:
    _, engine = _facts(client, settings.database)[table.name]
    if table is PROGRESS or f"toIntervalDay({settings.retention_days})" in engine:
        return
    # Not materialised: rewriting all parts is not worth it, merges apply the new time as they come.
    client.command(
        f"ALTER TABLE {settings.database}.{table.name}"
        f" MODIFY TTL inserted_at + INTERVAL {settings.retention_days} DAY DELETE",
        settings={"materialize_ttl_after_modify": 0},
    )


def verify(client: Any, settings: ClickHouseSettings) -> list[str]:
    """What differs between the tables in ClickHouse and those declared here; empty when nothing does."""
    found = _found(client, settings.database)
    facts = _facts(client, settings.database)
    return [
        difference
        for table in TABLES
        for difference in _differences(table, found[table.name], facts.get(table.name), settings.retention_days)
    ]


def _differences(
    table: Table, columns: dict[str, str], facts: tuple[str, str] | None, retention_days: int
) -> Iterator[str]:
    if facts is None:
        yield f"table {table.name} is missing"
        return
    for column in table.columns:
        there = columns.get(column.name)
        if there is None:
            yield f"{table.name}.{column.name} is missing, must be {column.type}"
        elif there != column.type:
            yield f"{table.name}.{column.name} is {there}, must be {column.type}"
    comment, engine = facts
    version = comment.removeprefix("freshet schema ")
    if not version.isdigit() or int(version) > SCHEMA_VERSION:
        yield f"{table.name} says {comment!r}, this version writes schema {SCHEMA_VERSION}"
    # Replicated tables remember tokens by a setting of their own, which is on unless somebody turned it off.
    window = re.search(r"non_replicated_deduplication_window = (\d+)", engine)
    if not engine.startswith("Replicated") and (window is None or window[1] == "0"):
        yield f"{table.name} has no deduplication window: batches that are sent again would count twice"
    if table is not PROGRESS and f"toIntervalDay({retention_days})" not in engine:
        yield f"{table.name} does not keep its rows for {retention_days} days"


def _found(client: Any, database: str) -> dict[str, dict[str, str]]:
    rows = client.query(
        "SELECT table, name, type FROM system.columns WHERE database = {database:String}",
        parameters={"database": database},
    ).result_rows
    found: dict[str, dict[str, str]] = {table.name: {} for table in TABLES}
    for table, name, kind in rows:
        if table in found:
            found[table][name] = kind
    return found


def _facts(client: Any, database: str) -> dict[str, tuple[str, str]]:
    rows = client.query(
        "SELECT name, comment, engine_full FROM system.tables WHERE database = {database:String}",
        parameters={"database": database},
    ).result_rows
    return {name: (comment, engine) for name, comment, engine in rows}
