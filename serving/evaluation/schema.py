"""Makes the tables, adds what older ones lack, and says what differs."""

import re
from collections.abc import Iterator
from typing import Any, Final

from serving.evaluation.tables import PROGRESS, TABLES, Table
from serving.settings import ClickHouseSettings

SCHEMA_VERSION: Final = 1
# How many inserts a table remembers by their tokens. The sink has one insert per partition under way at a time, so a
# token is only ever asked for again while it is among the last few; the rest is for other writers.
DEDUPLICATION_WINDOW: Final = 10_000


class SchemaError(RuntimeError):
    """The tables are not what this version can write; the message says what differs."""


def create(table: Table, database: str, retention_days: int) -> str:
    """The statement that creates a table.

    There is no PARTITION BY: an insert then becomes one part, whole or not at all, and a token is looked for in one
    place. Retention counts from the insert, because replayed logs carry old times.
    """
    lines = [f"`{column.name}` {column.type}" for column in table.columns]
    lines.append("inserted_at DateTime('UTC') DEFAULT now()")
    if table is PROGRESS:
        engine, order = "ReplacingMergeTree(next_offset)", "topic, partition, cluster"
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
