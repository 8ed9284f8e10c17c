"""Impressions reach Kafka once each, also when the broker was away in between."""

import msgspec
import pytest

from serving.impressions import ImpressionLog
from streams.records import Impression, Shown
from streams.topics import IMPRESSIONS
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import read_list

pytestmark = pytest.mark.servers


def impression(number: int) -> Impression:
    items = [Shown(f"i{k}", k, 0.5, 0.9, "popular", False) for k in range(10)]
    return Impression(v=1, request_id=f"r{number}", ts=1_000 + number, user=f"u{number % 7}", items=items)


def test_every_impression_arrives_once_across_a_broker_that_was_killed(fresh_kafka: RunningStack) -> None:
    settings = fresh_kafka.settings.kafka
    log = ImpressionLog(settings)
    for number in range(500):
        log.add(impression(number))
    wait_until(lambda: log.counts.acknowledged == 500, 30, "the first half is acknowledged")
    restarts = fresh_kafka.kill("kafka")
    for number in range(500, 1_000):
        assert log.add(impression(number))
    after = log.close(timeout_s=60)
    assert (after.taken, after.acknowledged, after.dropped) == (1_000, 1_000, 0)
    fresh_kafka.wait_back("kafka", restarts)
    assert sorted(read_list(settings, IMPRESSIONS), key=lambda i: i.ts) == [
        impression(number) for number in range(1_000)
    ]


def test_an_impression_that_cannot_be_written_is_dropped_alone(fresh_kafka: RunningStack) -> None:
    log = ImpressionLog(fresh_kafka.settings.kafka)
    log.add(msgspec.structs.replace(impression(1), context={"a": 2**64}))
    log.add(impression(2))
    after = log.close(timeout_s=30)
    assert (after.taken, after.acknowledged, after.dropped) == (2, 1, 1)
