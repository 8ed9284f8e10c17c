"""A world that changes is seen wherever somebody may look: the status, the metrics topic and ClickHouse."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from infra.status import gather
from infra.status_table import status_table
from serving.evaluation import clickhouse
from streams import kafka
from streams.records import Metric
from streams.topics import METRICS
from tests.emptied import stack_on
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import read_list
from tests.trainers import SLOTS, send_items, send_requests

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

STEADY = 1_200
# Examples of the changed scene within which the alarm must be there. (With more the learner has followed the change,
# and the alarm has ended.)
NOTICED = 400


@pytest.fixture
def stack(fresh_kafka: RunningStack, tmp_path: Path) -> Iterator[RunningStack]:
    with stack_on(fresh_kafka, tmp_path / "stack", "clickhouse", "trainer", "sink") as stack:
        yield stack


def trainer(stack: RunningStack) -> dict[str, object]:
    rows = gather(stack.settings, stack.state).processes
    return next(dict(row.health) for row in rows if row.name == "trainer")


def learned(stack: RunningStack, n: int) -> None:
    wait_until(lambda: trainer(stack).get("learned", 0) == n, 240, f"{n} examples are learned")


def test_a_scene_whose_users_change_their_minds_raises_an_alarm_that_everybody_sees(stack: RunningStack) -> None:
    settings = stack.settings
    with kafka.producer(settings.kafka) as producer:
        send_items(producer)
        for first in range(0, STEADY, 100):
            send_requests(producer, first, first + 100, scene="steady" if first // 100 % 2 else "fickle")
        learned(stack, STEADY * SLOTS)
        before = trainer(stack)
        assert (before["alarm"], before["drift_click"]) == ("", 0)
        send_requests(producer, STEADY, STEADY + NOTICED // SLOTS, scene="fickle", turned_round=True)
    learned(stack, STEADY * SLOTS + NOTICED)
    wait_until(lambda: "click in scene 'fickle'" in str(trainer(stack)["alarm"]), 30, "the status says it")
    assert "steady" not in str(trainer(stack)["alarm"])

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(status_table(gather(settings, stack.state)))
    words = console.export_text().replace("\n", " ")
    assert "ALARM trainer: click" in words
    assert "in scene 'fickle'" in words

    def on_the_topic() -> list[Metric]:
        records = read_list(settings.kafka, METRICS)
        return [one for one in records if isinstance(one, Metric) and one.name == "drift"]

    labels = {"task": "click", "learner": "online", "scene": "fickle"}
    wait_until(lambda: labels in [metric.labels for metric in on_the_topic()], 30, "the metrics topic says it")
    client = clickhouse.connect(settings.serving.clickhouse)
    query = "SELECT value FROM metrics WHERE name = 'drift' AND labels['scene'] = 'fickle' AND labels['task'] = 'click'"
    try:
        wait_until(lambda: client.query(query).result_rows, 60, "ClickHouse says it")
        ((rise,),) = client.query(query).result_rows
        steady = client.query("SELECT count() FROM metrics WHERE name = 'drift' AND labels['scene'] = 'steady'")
    finally:
        client.close()
    assert rise > 0
    assert steady.result_rows == [(0,)]
