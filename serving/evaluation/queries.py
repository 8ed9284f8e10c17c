"""What the logs hold: counts that show losses and doubles, and quantiles of the metrics."""

from collections.abc import Mapping, Sequence
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


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of a metric's values (linear between neighbours); empty where there are no values."""

    name: str
    n: int
    values: dict[float, float]


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


def metric_quantiles(
    client: Any,
    name: str,
    quantiles: Sequence[float] = (0.5, 0.99),
    *,
    since_ms: int | None = None,
    labels: Mapping[str, str] | None = None,
) -> Quantiles:
    """Quantiles of the values of one metric.

    Args:
        client: A clickhouse_connect client on the logs' database.
        name: The metric.
        quantiles: Each in [0, 1].
        since_ms: Only values from this event time on.
        labels: Only values with these labels.

    Raises:
        ValueError: a quantile outside [0, 1].
    """
    for q in quantiles:
        if not 0 <= q <= 1:
            raise ValueError(f"`quantiles` has {q}, must be in [0, 1]")
    levels = ", ".join(repr(float(q)) for q in quantiles)
    n, values = client.query(
        f"""
        SELECT count(), quantilesExactInclusive({levels})(value) FROM metrics
        WHERE name = {{name:String}} AND ts >= {{since:Int64}}
            AND arrayAll(k -> labels[k] = mapFromArrays({{keys:Array(String)}}, {{wanted:Array(String)}})[k],
                {{keys:Array(String)}})
        """,
        parameters={
            "name": name,
            "since": -(2**62) if since_ms is None else since_ms,
            "keys": list(labels or {}),
            "wanted": list((labels or {}).values()),
        },
    ).result_rows[0]
    return Quantiles(name=name, n=n, values=dict(zip(quantiles, values, strict=True)) if n else {})
