"""What the logs hold: counts that show losses and doubles, and dead letters by their reason."""

from typing import Any

import msgspec

from serving.evaluation import tables


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a topic is in one table; `doubles` is 0 unless a record was stored twice."""

    table: str
    topic: str
    records: int
    rows: int
    doubles: int


def counts(client: Any) -> dict[str, Count]:
    """Every log's records and rows, by table.

    Args:
        client: A clickhouse_connect client on the logs' database.
    """
    found = {}
    for table in tables.LOGS:
        slot = f", {table.slot}" if table.slot else ""
        records, rows, distinct = client.query(
            f"SELECT uniqExact(partition, offset), count(), uniqExact(partition, offset{slot}) FROM {table.name}"
        ).result_rows[0]
        found[table.name] = Count(
            table=table.name, topic=table.topic, records=records, rows=rows, doubles=rows - distinct
        )
    return found


def dead_letters(client: Any) -> dict[str, int]:
    """Dead letters by reason, each origin counted once."""
    rows = client.query(
        """
        SELECT reason, uniqExact(origin_topic, origin_partition, origin_offset) AS n
        FROM dead_letters GROUP BY reason ORDER BY n DESC, reason
        """
    ).result_rows
    return dict(rows)
