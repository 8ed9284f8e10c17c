"""kill -9 of the trainer under load: every example counts once, and the state is that of one that never died."""

from pathlib import Path

import pytest

from online_learning.checkpoint.store import CheckpointStore
from online_learning.state import meta_of
from streams import kafka
from tests.stacks import RunningStack, wait_until
from tests.trainers import SLOTS, TrainerProcess, learning_settings, send_items, send_requests

pytestmark = pytest.mark.faults

KILLS = 4
REQUESTS = 60


def test_examples_count_once_however_often_the_trainer_is_killed(fresh_kafka: RunningStack, tmp_path: Path):
    settings = learning_settings(fresh_kafka.settings.kafka, tmp_path / "kept", validation_window=10_000)
    health = tmp_path / "health.json"
    sent = 0
    with kafka.producer(fresh_kafka.settings.kafka) as producer:
        send_items(producer)
        for life in range(KILLS):
            trainer = TrainerProcess(settings, health)
            sent += send_requests(producer, sent // SLOTS, sent // SLOTS + REQUESTS)
            half = sent - REQUESTS * SLOTS // 2
            wait_until(lambda: trainer.value("learned") >= half, 120, f"half of part {life} is learned")  # noqa: B023
            kept = trainer.value("checkpoint")
            sent += send_requests(producer, sent // SLOTS, sent // SLOTS + REQUESTS)
            wait_until(lambda: trainer.value("checkpoint") > kept, 60, "another checkpoint")  # noqa: B023
            trainer.kill()
        last = TrainerProcess(settings, health)
        wait_until(lambda: last.value("learned") >= sent, 120, "all is learned")
        assert last.value("epoch") == KILLS + 1
        last.stop()
    checkpoint = CheckpointStore(tmp_path / "kept").load_newest()
    assert checkpoint is not None
    counters = meta_of(checkpoint).counters
    assert sum(counters.examples.values()) == counters.learned == counters.labels["click"] == sent
    assert counters.impressions == sent // SLOTS
    assert counters.late_predictions == counters.corrections == 0
    # Transaction markers aside, a partition's examples are its offsets.
    assert checkpoint.offsets["examples"] == counters.examples


def test_a_trainer_killed_while_nothing_was_kept_begins_anew(fresh_kafka: RunningStack, tmp_path: Path):
    settings = learning_settings(fresh_kafka.settings.kafka, tmp_path / "kept", checkpoint_interval_s=3600.0)
    health = tmp_path / "health.json"
    with kafka.producer(fresh_kafka.settings.kafka) as producer:
        send_items(producer)
        sent = send_requests(producer, 0, 30)
        first = TrainerProcess(settings, health)
        wait_until(lambda: first.value("learned") == sent, 120, "all is learned")
        first.kill()
        second = TrainerProcess(settings, health)
        wait_until(lambda: second.value("learned") == sent, 120, "all is learned again")
        assert second.value("epoch") == 2
        second.stop()
