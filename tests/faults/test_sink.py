"""kill -9 of the sink and of ClickHouse, at any moment: every record is in the tables once."""

import random
import time
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from serving.evaluation.queries import counts
from streams import topics
from streams.kafka import producer
from streams.logs import read_list
from streams.records import Action, Impression, Shown
from tests.emptied import stack_on
from tests.stacks import RunningStack, wait_until

pytestmark = pytest.mark.faults

RECORDS = 6_000
ITEMS = 4
KILLS = ("sink", "clickhouse", "sink", "sink", "clickhouse", "sink")


def send(stack: RunningStack, first: int, last: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    with producer(stack.settings.kafka) as out:
        for n in range(first, last):
            user = f"u{n % 50}"
            shown = [Shown(f"i{k}", k, 0.5, 1.0, "popular", False) for k in range(ITEMS)]
            out.send(topics.IMPRESSIONS, Impression(v=1, request_id=f"r{n}", ts=now_ms, user=user, items=shown), user)
            action = Action(ts=now_ms, user=user, item="i0", kind="click", event_id=f"e{n}", received_at=now_ms)
            out.send(topics.ACTIONS, action, user)
        out.flush(60)


def kill(stack: RunningStack, name: str) -> None:
    stack.wait_back(name, stack.kill(name))


def stored(stack: RunningStack) -> dict[str, tuple[int, int, int]]:
    host, port = stack.settings.serving.clickhouse.address.split(":")
    client: Any = clickhouse_connect.get_client(host=host, port=int(port))
    try:
        found = counts(client)
        # Asked for while rows arrive: only the last answer, when nothing changes any more, has to agree.
        ids = client.query("SELECT uniqExact(event_id) FROM actions").result_rows[0][0]
        kept = {
            name: (found[name].records, found[name].rows, found[name].doubles) for name in ("impressions", "actions")
        }
        return kept | {"event ids": (ids, ids, 0)}
    finally:
        client.close()


def everything(n: int) -> dict[str, tuple[int, int, int]]:
    return {"impressions": (n, n * ITEMS, 0), "actions": (n, n, 0), "event ids": (n, n, 0)}


@pytest.mark.timeout(600)
def test_every_record_is_in_the_tables_once_whatever_is_killed(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    chance = random.Random(3)
    with stack_on(fresh_kafka, tmp_path / "stack", "clickhouse", "sink") as stack:
        part = RECORDS // len(KILLS)
        for k, name in enumerate(KILLS):
            send(stack, k * part, (k + 1) * part)
            # Anywhere within a flush interval, so that reading, inserting and committing are all hit.
            kill_at = time.monotonic() + chance.uniform(0.0, 1.0)
            wait_until(lambda at=kill_at: time.monotonic() >= at, 5, "the moment of the kill")
            kill(stack, name)
        wanted = everything(RECORDS)
        wait_until(lambda: stored(stack) == wanted, 90, f"{wanted} in the tables")
        # Once more, when nothing is under way: what counted once still does.
        kill(stack, "sink")
        send(stack, RECORDS, RECORDS + 1)
        wanted = everything(RECORDS + 1)
        wait_until(lambda: stored(stack) == wanted, 90, f"{wanted} in the tables")


@pytest.mark.timeout(600)
def test_what_cannot_be_read_has_its_dead_letter_though_the_sink_died_behind_its_neighbours_rows(
    fresh_kafka: RunningStack, tmp_path: Path
) -> None:
    with stack_on(fresh_kafka, tmp_path / "stack", "clickhouse", "sink") as stack:
        stack.state.arm("sink", "sink.inserted:1")
        kill(stack, "sink")
        restarts = stack.restarts("sink")
        with producer(stack.settings.kafka) as out:
            sent = out.send_bytes(topics.ACTIONS.name, b"{", partition=0)
            for n in range(3):
                action = Action(ts=1, user=f"u{n}", item="i0", kind="click", event_id=f"e{n}", received_at=1)
                out.send(topics.ACTIONS, action, None, partition=0)
            out.flush(60)
            offset = sent.get(1).offset
        stack.wait_back("sink", restarts)
        wait_until(lambda: stored(stack)["actions"] == (3, 3, 0), 90, "the neighbours are in the table once")
        wait_until(lambda: read_list(stack.settings.kafka, topics.DEAD_LETTERS), 30, "the dead letter")
        letters = read_list(stack.settings.kafka, topics.DEAD_LETTERS)
        assert {(one.topic, one.partition, one.offset) for one in letters} == {(topics.ACTIONS.name, 0, offset)}
