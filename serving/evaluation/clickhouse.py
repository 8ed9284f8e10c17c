"""The client that everything here uses, and the one way in which rows are inserted."""

from typing import Any

import clickhouse_connect

from serving.evaluation import tables
from serving.evaluation.rows import Row
from serving.settings import ClickHouseSettings


def connect(settings: ClickHouseSettings) -> Any:
    """A clickhouse_connect client for the address and database in the settings.

    Raises:
        ValueError: an address that is not host:port.
        clickhouse_connect.driver.exceptions.ClickHouseError: ClickHouse is away, or has no such database.
    """
    return _client(settings, settings.database)


def create_database(settings: ClickHouseSettings) -> None:
    """Create the settings' database where there is none; raises as `connect`."""
    with _client(settings, None) as client:
        client.command(f"CREATE DATABASE IF NOT EXISTS {settings.database}")


def _client(settings: ClickHouseSettings, database: str | None) -> Any:
    host, colon, port = settings.address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"`clickhouse.address` == {settings.address!r}, must be host:port")
    return clickhouse_connect.get_client(
        host=host,
        port=int(port),
        username=settings.user,
        password=settings.password,
        database=database,
        autogenerate_session_id=False,
    )


def insert(client: Any, table: tables.Table, rows: list[Row], token: str, database: str) -> None:
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
