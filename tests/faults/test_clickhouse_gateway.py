"""kill -9 of the gateway loses nothing that it acknowledged and doubles nothing that is sent again."""

import contextlib
import random
import threading

import pytest
from clickhouse_connect.driver.exceptions import Error
from urllib3.exceptions import HTTPError

from tests.servers.gateway import running

pytestmark = pytest.mark.faults

ROUNDS = 4
BATCHES = 40
ROWS = 500


def test_batches_count_once_through_kill_and_resend() -> None:
    chance = random.Random(7)
    with running() as gateway:
        with gateway.client() as client:
            client.command(
                "CREATE TABLE t (batch UInt32, n UInt32) ENGINE = MergeTree ORDER BY (batch, n)"
                " SETTINGS non_replicated_deduplication_window = 1000"
            )
            client.command(
                "CREATE TABLE per_batch (batch UInt32, n UInt64) ENGINE = SummingMergeTree ORDER BY batch"
                " SETTINGS non_replicated_deduplication_window = 1000"
            )
            client.command(
                "CREATE MATERIALIZED VIEW mv TO per_batch AS SELECT batch, count() AS n FROM t GROUP BY batch"
            )
        for kill_round in range(ROUNDS):
            first = kill_round * BATCHES
            acknowledged: set[int] = set()
            killer = threading.Timer(chance.uniform(0.05, 0.4), gateway.kill)

            def send(batches: range, done: set[int]) -> None:
                with gateway.client(query_retries=0) as client:
                    for batch in batches:
                        client.insert(
                            "t",
                            [[batch, n] for n in range(ROWS)],
                            column_names=["batch", "n"],
                            settings={"insert_deduplication_token": str(batch)},
                        )
                        done.add(batch)

            batches = range(first, first + BATCHES)
            killer.start()
            # The kill may also come between two inserts, before the client is connected or in the midst of an answer.
            with contextlib.suppress(Error, HTTPError, OSError):
                send(batches, acknowledged)
            killer.join()
            gateway.start()
            with gateway.client() as client:
                kept = {row[0] for row in client.query("SELECT DISTINCT batch FROM t").result_rows}
            assert acknowledged <= kept
            # Everything again, as a client does that does not know what was stored.
            send(batches, set())
        with gateway.client() as client:
            counts = client.query("SELECT batch, count() FROM t GROUP BY batch ORDER BY batch").result_rows
            rolled_up = client.query("SELECT batch, sum(n) FROM per_batch GROUP BY batch ORDER BY batch").result_rows
    expected = [(batch, ROWS) for batch in range(ROUNDS * BATCHES)]
    assert counts == expected
    assert rolled_up == expected


def test_the_database_opens_again_whatever_was_in_it_when_it_was_killed() -> None:
    with running() as gateway:
        for kill_round, statements in enumerate(
            [
                [],
                ["CREATE DATABASE other", "CREATE TABLE other.t (a UInt8) ENGINE = MergeTree ORDER BY a"],
                ["CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a", "INSERT INTO t VALUES (1)"],
                ["DROP TABLE t SYNC"],
                ["CREATE OR REPLACE VIEW v AS SELECT 1 AS one"],
            ]
        ):
            with gateway.client() as client:
                for statement in statements:
                    client.command(statement)
                before = client.query("SELECT database, name, uuid FROM system.tables WHERE database != 'system'")
            gateway.kill()
            gateway.start()
            with gateway.client() as client:
                after = client.query("SELECT database, name, uuid FROM system.tables WHERE database != 'system'")
                assert sorted(after.result_rows) == sorted(before.result_rows), kill_round
                assert client.command("SELECT engine FROM system.databases WHERE name = 'default'") == "Atomic"
