"""How fast logs get into ClickHouse and reports out of it, on a gateway and a Kafka of the benchmark's own.

    python -m tests.benchmarks.logs [--quick] [--json FILE]

Sizes: rows inserted at once, records through Kafka and the sink, rows that the report reads. The peer of the insert is
the same engine inside this process, without HTTP.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect

from serving.evaluation import schema, sink, tables
from serving.evaluation.clickhouse import insert
from serving.evaluation.queries import counts
from serving.evaluation.report import ab
from serving.evaluation.rows import Origin, rows_of
from serving.experiments.assignment import decide
from serving.settings import ClickHouseSettings, ServingSettings
from streams import topics
from streams.health import Health
from streams.kafka import producer
from streams.records import Action, Experiment, Impression, Shown
from tests.benchmarks.report import Report, parse, seconds
from tests.servers.gateway import running
from tests.stacks import running_stack, wait_until

ITEMS = 10
USERS = 10_000
EXPERIMENT: Experiment = ServingSettings().experiments[0]


def impression(n: int) -> Impression:
    user = f"user{n % USERS}"
    assignment = decide(EXPERIMENT, user).assignment
    shown = [Shown(f"item{(n * 7 + k) % 5_000}", k, 0.1 * k, 0.9, "popular", False, [1.0] * 6) for k in range(ITEMS)]
    arms = [assignment] if assignment else []
    return Impression(v=1, request_id=f"request{n}", ts=1_700_000_000_000 + n, user=user, items=shown, arms=arms)


def action(n: int) -> Action:
    return Action(
        ts=1_700_000_000_000 + n,
        user=f"user{n % USERS}",
        item=f"item{(n * 7) % 5_000}",
        kind="click",
        event_id=f"event{n}",
        received_at=0,
        request_id=f"request{n}",
    )


def rows(records: Iterator[Any], topic: str) -> list[tuple[Any, ...]]:
    return [row for n, record in enumerate(records) for _, row in rows_of(record, Origin(topic, 0, n))]


def inserts(report: Report, client: Any, requests: int) -> None:
    """Rows per second of one large insert, over HTTP and in this process."""
    made = rows((impression(n) for n in range(requests)), "impressions")
    number = iter(range(1_000))

    def over(target: Any) -> float:
        return seconds(
            lambda: insert(target, tables.IMPRESSIONS, made, f"bench{next(number)}", "bench"), repeats=3, warm_ups=1
        )

    schema.ensure(client, ClickHouseSettings(database="bench"))
    over_http = len(made) / over(client)
    with tempfile.TemporaryDirectory() as folder:
        inside = clickhouse_connect.get_client(dsn=f"chdb:///{folder}/data")
        schema.ensure(inside, ClickHouseSettings(database="bench"))
        peer = len(made) / over(inside)
        inside.close()
    report.add("insert over HTTP", over_http, "rows/s", note=f"in-process: {peer:,.0f} rows/s")


def through_kafka(report: Report, gateway: Any, records: int) -> None:
    """Records per second from Kafka into ClickHouse, by one sink, a tenth of them impressions."""
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder), "kafka") as stack:
        settings = ServingSettings(
            kafka=stack.settings.kafka, clickhouse=ClickHouseSettings(address=gateway.address, database="sunk")
        )
        with producer(settings.kafka) as out:
            for n in range(records):
                if n % 10:
                    out.send(topics.ACTIONS, action(n), f"user{n % USERS}")
                else:
                    out.send(topics.IMPRESSIONS, impression(n), f"user{n % USERS}")
            out.flush(120)
        stop = threading.Event()
        with gateway.client() as client:
            schema.ensure(client, settings.clickhouse)
        with gateway.client(database="sunk") as client:

            def stored() -> bool:
                found = counts(client)
                return found["actions"].records + found["impressions"].records >= records

            start = time.perf_counter()
            thread = threading.Thread(target=sink.run, args=(settings, stop, Health(None)))
            thread.start()
            try:
                wait_until(stored, 300, "everything is stored")
                wall_s = time.perf_counter() - start
            finally:
                stop.set()
                thread.join()
            doubles = sum(count.doubles for count in counts(client).values())
    report.add("Kafka to ClickHouse", records / wall_s, "records/s", at_least=5_000, note="the sink's start included")
    report.add("rows twice", doubles, "rows", at_most=0)


def reports(report: Report, client: Any, requests: int) -> None:
    """Seconds of `ab` over `requests` answers of ten items, a fifth of them clicked."""
    schema.ensure(client, ClickHouseSettings(database="default"))
    for first in range(0, requests, 20_000):
        part = range(first, min(first + 20_000, requests))
        made = [(*row[:2], row[2] + first, *row[3:]) for row in rows((impression(n) for n in part), "impressions")]
        insert(client, tables.IMPRESSIONS, made, f"impressions{first}", "default")
    clicked = rows((action(n) for n in range(0, requests, 5)), "actions")
    insert(client, tables.ACTIONS, clicked, "actions", "default")
    insert(client, tables.EXPERIMENTS, rows(iter([EXPERIMENT]), "experiments"), "e", "default")
    result = ab(client, EXPERIMENT.name)
    shown = sum(arm.impressions for arm in result.arms)
    assert shown == requests * ITEMS
    took_s = seconds(lambda: ab(client, EXPERIMENT.name))
    report.add("ab report", took_s, "s", at_most=5, note=f"{shown:,} impressions, {len(clicked):,} clicks")


def main() -> int:
    options = parse(__doc__ or "")
    requests, records, read = (1_000, 2_000, 2_000) if options.quick else (10_000, 100_000, 200_000)
    report = Report(
        "logs",
        options,
        packages=("chdb-core", "clickhouse-connect", "kafka-python"),
        sizes={"insert rows": requests * ITEMS, "records": records, "report rows": read * ITEMS},
    )
    with running() as gateway, gateway.client() as client:
        inserts(report, client, requests)
        reports(report, client, read)
        through_kafka(report, gateway, records)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
