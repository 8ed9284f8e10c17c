"""What ClickHouse holds when all has come to rest, against the log that it was stored from."""

import time
from collections import Counter
from typing import Final

from kafka import TopicPartition

from infra.chaos.arena import Arena
from infra.chaos.compare import Check
from infra.chaos.load import Load
from serving.evaluation import tables
from serving.evaluation.clickhouse import connect
from serving.evaluation.rows import Origin, rows_of
from serving.evaluation.sink import SOURCES
from streams.codec import Unreadable
from streams.health import read_health
from streams.logs import ends_of, raw_records
from streams.topics import METRICS

_WAIT_S: Final = 120.0

# (table, topic's partition, offset) -> rows
Rows = Counter[tuple[str, int, int]]


def stored(arena: Arena, load: Load) -> Check:
    """Every record of every logged topic has its rows in ClickHouse once, and what cannot be read is a dead letter.

    Of records up to the ends that the log has now: the trainer goes on to send metrics. Raises Failed.
    """
    wanted, unreadable, ends = _logged(arena)
    found, letters = _found(arena, ends)
    missing, extra = wanted - found, found - wanted
    wrong = []
    if missing or extra:
        tables_wrong = ", ".join(sorted({table for table, _, _ in [*missing, *extra]}))
        wrong.append(f"{missing.total()} rows missing, {extra.total()} too many ({tables_wrong})")
    if len(unreadable) != load.garbage:
        wrong.append(f"{len(unreadable)} records cannot be read, {load.garbage} were sent so")
    if letters != unreadable:
        wrong.append(f"{len(unreadable - letters)} have no dead letter, {len(letters - unreadable)} should have none")
    compared = f"{len(wanted)} records in {wanted.total()} rows, {len(unreadable)} unreadable"
    return Check("ClickHouse holds each record once", compared, "; ".join(wrong))


def _logged(arena: Arena) -> tuple[Rows, set[tuple[int, int]], dict[TopicPartition, int]]:
    """The rows that the log makes, the places on `metrics` of what cannot be read, and the ends up to which it was
    read."""
    rows: Rows = Counter()
    unreadable: set[tuple[int, int]] = set()
    ends = ends_of(arena.settings.kafka, list(SOURCES))
    for record in raw_records(arena.settings.kafka, ends):
        try:
            value = SOURCES[record.topic].codec.decode(record.value)
            for table, _ in rows_of(value, Origin(record.topic, record.partition, record.offset)):
                rows[table.name, record.partition, record.offset] += 1
        except Unreadable:
            unreadable.add((record.partition, record.offset))
    return rows, unreadable, ends


def _found(arena: Arena, ends: dict[TopicPartition, int]) -> tuple[Rows, set[tuple[int, int]]]:
    """The rows in the tables, and which records of `metrics` have a dead letter; waits until the sink is at the end."""
    since_ms = time.time_ns() // 1_000_000

    def at_the_end() -> bool:
        report = read_health(arena.state.health("sink"))
        return report is not None and report.at_ms > since_ms and report.values.get("lag") == 0

    arena.wait(at_the_end, _WAIT_S, "the sink has stored everything", "sink", "clickhouse")
    rows: Rows = Counter()
    with connect(arena.settings.serving.clickhouse) as client:
        for table in tables.LOGS:
            query = f"SELECT partition, offset, count() FROM {table.name} GROUP BY partition, offset"
            for partition, offset, count in client.query(query).result_rows:
                if offset < ends[TopicPartition(table.topic, partition)]:
                    rows[table.name, partition, offset] = count
        query = f"SELECT origin_partition, origin_offset FROM dead_letters WHERE origin_topic = '{METRICS.name}'"
        letters = {(partition, offset) for partition, offset in client.query(query).result_rows}
    return rows, letters
