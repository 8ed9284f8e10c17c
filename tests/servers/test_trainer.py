"""The trainer against a real Kafka: it learns, publishes, keeps, goes on, and nothing on a topic stops it."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event

import msgspec
import pytest
from kafka import TopicPartition

from online_learning.checkpoint.checkpoint import CheckpointError
from online_learning.checkpoint.store import CheckpointStore
from online_learning.models.registry import new_scorer
from online_learning.models.values import VALUES
from online_learning.settings import FieldSettings, RowSettings
from online_learning.state import dense_parameters, log_position, meta_of
from online_learning.table.settings import AdmissionPolicy, FullPolicy
from online_learning.trainer import Trainer
from online_learning.updates.frames import array_of
from streams import kafka
from streams.dead_letters import Reason
from streams.health import Health
from streams.records import SCHEMA_VERSION, Example, Frame, FrameKind, Label, LabelState, Metric, Validation
from streams.settings import KafkaSettings, TaskSettings
from streams.takeover import Superseded
from streams.topics import DEAD_LETTERS, EXAMPLES, METRICS, UPDATES, USERS
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import read_list, wait_committed
from tests.trainers import (
    SLOTS,
    TASKS,
    TASKS_WITH_DWELL,
    learning_settings,
    send_items,
    send_requests,
    trainer_in_thread,
)
from tests.windows import merged_errors

pytestmark = pytest.mark.servers


@pytest.fixture
def settings(fresh_kafka: RunningStack) -> KafkaSettings:
    return fresh_kafka.settings.kafka


@pytest.fixture
def producer(settings: KafkaSettings) -> Iterator[kafka.Producer]:
    with kafka.producer(settings) as one:
        send_items(one)
        yield one


def frames_on(settings: KafkaSettings) -> list[Frame]:
    """The update log of a trainer that has ended."""
    wait_committed(settings)
    return read_list(settings, UPDATES)


def test_it_learns_publishes_validates_and_keeps(settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path):
    learning = learning_settings(settings, tmp_path)
    with trainer_in_thread(learning) as health:
        sent = send_requests(producer, 0, 400)
        wait_until(lambda: health.values["learned"] == sent, 120, "all is learned")
    values = health.values
    assert values["examples"] == values["validated_click"] == sent
    assert values["impressions"] == 400
    assert values["late_predictions"] == 0
    assert {f"auc_click_{learner}" for learner in ("online", "river", "popularity")} <= values.keys()

    windows = {
        (one.learner, one.task, one.window): one for one in read_list(settings, METRICS) if isinstance(one, Validation)
    }
    for learner in ("online", "river", "popularity"):
        assert sum(one.n for (who, _, _), one in windows.items() if who == learner) == sent

    said = [one for one in read_list(settings, METRICS) if isinstance(one, Metric)]
    assert {(one.labels["task"], one.labels["learner"]) for one in said if one.name == "calibration"} == {
        ("click", learner) for learner in ("online", "river", "popularity")
    }
    sizes = {"gradient_norm", "step_norm", "embedding_norm_mean", "embedding_norm_p99"}
    assert {one.name for one in said if one.value > 0} >= {*sizes, "learning_rate"}
    assert {*sizes, "calibration_click_online", "alarm", "drift_click"} <= values.keys()
    assert values["learning_rate_rows"] == learning.sparse_learning_rate
    assert values["refused"] == values["refused_steps"] == values["unadmitted"] == values["rows_refused"] == 0

    checkpoint = CheckpointStore(tmp_path).load_newest()
    assert checkpoint is not None
    meta = meta_of(checkpoint)
    assert sum(meta.counters.examples.values()) == sent
    new_scorer(learning.model, len(TASKS)).load(dense_parameters(checkpoint))
    frames = frames_on(settings)
    learned = max((frame.sequence, frame.learned) for frame in frames if frame.kind is FrameKind.SPARSE)[1]
    assert learned == checkpoint.offsets[EXAMPLES.name]
    assert log_position(checkpoint).of("sparse/0").sequence == max(
        frame.sequence for frame in frames if frame.kind is FrameKind.SPARSE
    )
    assert any(frame.kind is FrameKind.DENSE for frame in frames)


def test_a_restart_goes_on_where_it_stopped(settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path):
    learning = learning_settings(settings, tmp_path)
    first = send_requests(producer, 0, 50)
    with trainer_in_thread(learning) as health:
        wait_until(lambda: health.values["learned"] == first, 60, "the first are learned")
    epoch = health.values["epoch"]
    second = send_requests(producer, 50, 80)
    with trainer_in_thread(learning) as health:
        wait_until(lambda: health.values["learned"] == first + second, 60, "the others are learned")
    assert health.values["epoch"] > epoch
    assert health.values["examples"] == first + second


def test_values_are_learned_validated_and_published_and_go_on_after_a_restart(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path
):
    learning = msgspec.structs.replace(learning_settings(settings, tmp_path), tasks=TASKS_WITH_DWELL)
    sent = 0
    for first, last in ((0, 300), (300, 1_200)):
        sent += send_requests(producer, first, last, dwell=True)
        with trainer_in_thread(learning) as health:
            wait_until(lambda sent=sent, health=health: health.values["learned"] == sent, 120, "all is learned")
    values = health.values
    assert 0 < values["mae_dwell_online"] < values["rmse_dwell_online"]
    assert values["calibration_dwell_online"] == pytest.approx(1.0, abs=0.3)
    assert "auc_dwell_online" not in values and "auc_click_online" in values

    written = [one for one in read_list(settings, METRICS) if isinstance(one, Validation) and one.task == "dwell"]
    newest = {(one.learner, one.window): one for one in written}
    online = merged_errors(one for (learner, _), one in newest.items() if learner == "online")
    assert online.n == values["validated_dwell"]
    assert online.r2 == pytest.approx(values["r2_dwell_online"], abs=1e-4)
    # Once it knows something, which takes some hundred labels.
    late = merged_errors(one for (learner, window), one in newest.items() if learner == "online" and window >= 5)
    assert late.r2 > 0.1

    checkpoint = CheckpointStore(tmp_path).load_newest()
    assert checkpoint is not None
    assert meta_of(checkpoint).values == ("dwell",)
    frames = [frame for frame in frames_on(settings) if frame.kind is FrameKind.DENSE]
    published = array_of(frames[-1].dense[VALUES])
    assert published.tolist() == dense_parameters(checkpoint)[VALUES].tolist()
    # About e**3.5 seconds, as log1p.
    assert 2.5 < published[0, 0] < 4.5
    binary = msgspec.structs.replace(learning, tasks=(*TASKS, TaskSettings(name="dwell")))
    with pytest.raises(CheckpointError, match="value tasks"), trainer_in_thread(binary):
        pass


def test_who_is_turned_away_by_the_table_is_said(settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path):
    rows = RowSettings(max_rows=20, full=FullPolicy.REFUSE, admission=AdmissionPolicy.COUNT)
    learning = msgspec.structs.replace(learning_settings(settings, tmp_path), rows=rows)
    with trainer_in_thread(learning) as health:
        sent = send_requests(producer, 0, 40)
        wait_until(lambda: health.values["learned"] == sent, 60, "all is learned")
    assert health.values["rows"] == 20
    assert int(health.values["unadmitted"]) > 0 and int(health.values["rows_refused"]) > 0


def test_a_checkpoint_is_not_kept_before_the_validation_of_its_examples_has_arrived(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A trainer that dies right behind its checkpoint would never say it again."""
    sent = send_requests(producer, 0, 60)
    # Nothing leaves this producer by itself.
    monkeypatch.setattr(kafka, "producer", partial(kafka.producer, linger_ms=600_000))
    trainer = Trainer(learning_settings(settings, tmp_path, checkpoint_interval_s=0.05), Event(), Health(None))

    def all_is_kept() -> bool:
        trainer.step()
        kept = CheckpointStore(tmp_path).load_newest() if trainer._keeper.number else None
        return kept is not None and meta_of(kept).counters.learned == sent

    try:
        wait_until(all_is_kept, 60, "a checkpoint with all of them")
        windows = {one.window: one for one in read_list(settings, METRICS) if _is_of_online(one)}
        assert sum(one.n for one in windows.values()) == sent
    finally:
        trainer.close()


def _is_of_online(record: Metric | Validation) -> bool:
    return isinstance(record, Validation) and record.learner == "online"


def test_an_example_that_cannot_be_read_becomes_a_dead_letter_and_nothing_stops(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path
):
    with trainer_in_thread(learning_settings(settings, tmp_path)) as health:
        for topic in (EXAMPLES.name, "impressions", "items", "users"):
            for value in (b"\xff\xfe", b"{", b"", b"[1,2]"):
                producer.send_bytes(topic, value, b"k")
        # Where nothing is compacted, null deletes nothing.
        for topic in (EXAMPLES.name, "impressions"):
            producer.send_bytes(topic, None, b"k")
        sent = send_requests(producer, 0, 20)
        wait_until(lambda: health.values["learned"] == sent, 60, "the good are learned")
        wait_until(lambda: health.values["unreadable"] >= 18, 60, "the bad are counted")
    letters = read_list(settings, DEAD_LETTERS)
    # Of the other topics the worker tells: it reads them too.
    assert [letter.topic for letter in letters] == ["examples"] * 5
    assert all(letter.reason and letter.detail for letter in letters)
    assert [letter.reason for letter in letters if letter.value is None] == [Reason.EMPTY]


def test_an_erased_user_is_gone_from_the_update_log_too(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path
):
    with trainer_in_thread(learning_settings(settings, tmp_path)) as health:
        sent = send_requests(producer, 0, 41)
        wait_until(lambda: health.values["learned"] == sent, 60, "all is learned")
        rows = health.values["rows"]
        producer.send(USERS, None, "u7")
        wait_until(lambda: health.values["rows"] == rows - 1, 60, "the user's row is gone")
    assert sum(len(frame.tombstones) for frame in frames_on(settings)) == 8


def test_an_erasure_is_neither_undone_by_what_is_older_nor_repeated_when_the_user_is_back(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path
):
    learning = learning_settings(settings, tmp_path)
    with trainer_in_thread(learning) as health:
        sent = send_requests(producer, 0, 41)
        wait_until(lambda: health.values["learned"] == sent, 60, "all is learned")
        rows = health.values["rows"]
        producer.send(USERS, None, "u7")
        wait_until(lambda: health.values["rows"] == rows - 1, 60, "the user's row is gone")
        # The requests' times are of 1970.
        sent += send_requests(producer, 47, 48)
        wait_until(lambda: health.values["examples"] == sent, 60, "what the user did before is read")
        assert health.values["learned"] == sent - SLOTS
        assert health.values["rows"] == rows - 1
    clicked = {"click": Label(LabelState.OBSERVED, 1.0)}
    later_ms = time.time_ns() // 1_000_000 + 60_000
    back = Example(SCHEMA_VERSION, "back", 0, later_ms, "u7", "i1", clicked, organic=True)
    producer.send(EXAMPLES, back, "u7")
    producer.flush(10)
    for _ in range(2):
        with trainer_in_thread(learning) as health:
            wait_until(lambda health=health: health.values["learned"] == sent - SLOTS + 1, 60, "the user is back")
        assert health.values["rows"] == rows


def test_a_trainer_that_is_stopped_as_it_starts_erases_whom_it_has_read_of(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path
):
    """Its checkpoint says that the deletion is read, so nobody would come back to it."""
    learning = learning_settings(settings, tmp_path)
    with trainer_in_thread(learning) as health:
        sent = send_requests(producer, 0, 41)
        wait_until(lambda: health.values["learned"] == sent, 60, "all is learned")
    producer.send(USERS, None, "u7")
    producer.flush(10)
    trainer = Trainer(learning, Event(), Health(None))
    trainer.finish()
    trainer.close()
    checkpoint = CheckpointStore(tmp_path).load_newest()
    assert checkpoint is not None
    assert len(checkpoint.tables["sparse"].arrays["keys"]) == health.values["rows"] - 1
    assert sum(len(frame.tombstones) for frame in frames_on(settings)) == 8


def test_another_models_checkpoint_is_refused_in_words(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path
):
    learning = learning_settings(settings, tmp_path)
    with trainer_in_thread(learning):
        send_requests(producer, 0, 2)
    fields = (*learning.model.fields, FieldSettings(name="mood", side="context", source="context", attribute="mood"))
    other = msgspec.structs.replace(learning, model=msgspec.structs.replace(learning.model, fields=fields))
    with pytest.raises(CheckpointError, match="fields"), trainer_in_thread(other):
        pass


def test_of_two_trainers_the_older_one_stops(settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path):
    older, newer = learning_settings(settings, tmp_path / "a"), learning_settings(settings, tmp_path / "b")
    with pytest.raises(Superseded), trainer_in_thread(older) as replaced, trainer_in_thread(newer) as health:
        sent = send_requests(producer, 0, 20)
        wait_until(lambda: health.values["learned"] == sent, 60, "the newer one learns")
        # It looks for who has fenced it, and must not be stopped before it knows.
        wait_until(lambda: "failed" in replaced.values, 90, "the older one has ended")


def test_a_newer_trainer_goes_on_although_the_older_one_cut_the_log_behind_what_it_had_restored(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    learning = learning_settings(settings, tmp_path, checkpoints_kept=1)
    log, restored, sent = TopicPartition(UPDATES.name, 0), list[int](), 0
    reader = kafka.consumer(settings)
    reader.assign([log])

    def meanwhile(place: str) -> None:
        """When the newer one has read its checkpoint for the first time, the older one goes on until the log is cut."""
        nonlocal sent
        if place != "trainer.restored":
            return
        restored.append(reader.end_offsets([log])[log])
        while len(restored) == 1 and reader.beginning_offsets([log])[log] <= restored[0]:
            sent += send_requests(producer, sent // SLOTS, sent // SLOTS + 10)
            time.sleep(0.2)

    with pytest.raises(Superseded), trainer_in_thread(learning) as older:
        sent += send_requests(producer, 0, 20)
        wait_until(lambda: older.values["checkpoint"] and older.values["learned"] == sent, 60, "the older one is at it")
        monkeypatch.setattr("online_learning.trainer.hit", meanwhile)
        with trainer_in_thread(learning) as newer:
            sent += send_requests(producer, sent // SLOTS, sent // SLOTS + 10)
            wait_until(lambda: newer.values["learned"] == sent, 60, "the newer one has learned everything")
            wait_until(lambda: "failed" in older.values, 90, "the older one has ended")
    reader.close()
    assert len(restored) == 2


def test_examples_behind_the_oldest_checkpoint_are_deleted(
    settings: KafkaSettings, producer: kafka.Producer, tmp_path: Path
):
    learning = learning_settings(settings, tmp_path, examples_kept_s=0.001, checkpoints_kept=1)
    reader = kafka.consumer(settings)
    places = [TopicPartition(topic, k) for topic, k in ((EXAMPLES.name, 0), (EXAMPLES.name, 1), (UPDATES.name, 0))]
    reader.assign(places)
    with trainer_in_thread(learning) as health:

        def deleted() -> bool:
            deleted.sent += send_requests(producer, deleted.sent // SLOTS, deleted.sent // SLOTS + 10)
            return all(reader.beginning_offsets(places)[place] > 0 for place in places)

        deleted.sent = 0
        wait_until(deleted, 120, "the beginning of both topics is gone")
        wait_until(lambda: health.values["learned"] == deleted.sent, 60, "all is learned")
    reader.close()
    with trainer_in_thread(learning) as health:
        assert health.values["learned"] == deleted.sent
