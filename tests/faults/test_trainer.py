"""kill -9 of the trainer under load: every example counts once, and the state is that of one that never died."""

from pathlib import Path

import msgspec
import pytest

from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.checkpoint.store import CheckpointStore
from online_learning.learner import TABLE, table_settings
from online_learning.models.values import VALUES
from online_learning.settings import LearningSettings
from online_learning.state import dense_parameters, meta_of, trainer_state
from online_learning.table.table import Table
from streams import kafka
from tests.stacks import RunningStack, wait_until
from tests.trainers import (
    SLOTS,
    TASKS_WITH_DWELL,
    TrainerProcess,
    learning_settings,
    scale_of,
    send_items,
    send_requests,
    send_stays,
)

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


def test_values_count_once_too_and_all_that_is_known_of_them_is_that_of_one_that_never_died(
    fresh_kafka: RunningStack, tmp_path: Path
):
    """Organic examples in one partition and one at a time: whoever reads them, whenever, predicts and learns alike."""

    def settings(name: str) -> LearningSettings:
        told = learning_settings(fresh_kafka.settings.kafka, tmp_path / name, max_batch=1, checkpoint_interval_s=0.3)
        return msgspec.structs.replace(told, tasks=TASKS_WITH_DWELL)

    def learned(name: str, trainer: TrainerProcess) -> Checkpoint:
        wait_until(lambda: trainer.value("learned") >= sent, 120, f"{name} has learned all")
        trainer.stop()
        found = CheckpointStore(tmp_path / name).load_newest()
        assert found is not None
        return found

    health, sent = tmp_path / "health.json", 0
    with kafka.producer(fresh_kafka.settings.kafka) as producer:
        send_items(producer)
        for _ in range(KILLS):
            trainer = TrainerProcess(settings("killed"), health)
            wait_until(lambda: trainer.value("learned") >= sent, 120, "all so far is learned")  # noqa: B023
            kept = trainer.value("checkpoint")
            send_stays(producer, sent, sent + REQUESTS, partition=0)
            sent += REQUESTS
            wait_until(lambda: trainer.value("checkpoint") > kept, 60, "another checkpoint")  # noqa: B023
            send_stays(producer, sent, sent + REQUESTS, partition=0)
            sent += REQUESTS
            trainer.kill()
    killed = learned("killed", TrainerProcess(settings("killed"), health))
    whole = learned("undisturbed", TrainerProcess(settings("undisturbed"), health))
    assert scale_of(killed) == scale_of(whole)
    assert scale_of(killed).seen == [sent]
    assert dense_parameters(killed)[VALUES].tobytes() == dense_parameters(whole)[VALUES].tobytes()
    digests = [Table.restore(table_settings(settings("any")), one.tables[TABLE]).digest() for one in (killed, whole)]
    assert digests[0] == digests[1]
    one, other = (trainer_state(found) for found in (killed, whole))
    assert msgspec.msgpack.encode(one.validation) == msgspec.msgpack.encode(other.validation)
    assert one.calibration == other.calibration
    assert meta_of(killed).counters == meta_of(whole).counters
    stays = [tally for learner, task, tally in one.validation.totals if (learner, task) == ("online", "dwell")]
    assert [tally.errors.n for tally in stays] == [sent]
