"""A serving host starts with one command, from the newest checkpoint wherever it lies and the tail of the log."""

import shutil
import uuid
from pathlib import Path

import pytest

from online_learning.checkpoint.store import CheckpointStore
from online_learning.learner import table_settings
from online_learning.settings import LearningSettings
from online_learning.table.digest import Encoding
from online_learning.table.table import Table
from online_learning.updates.position import TABLE
from serving.replica import run as run_replica
from serving.settings import ServingSettings
from serving.shared.mirror import Mirror
from streams import kafka
from streams.topics import UPDATES
from tests.stacks import RunningStack, running_stack, wait_until
from tests.stream_logs import wait_committed
from tests.threads import in_thread
from tests.trainers import SLOTS, learning_settings, send_items, send_requests, trainer_in_thread
from tests.unit.online_learning.checkpoint import bucket

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

WAIT_S = 90.0
REQUESTS = 60


def train_until_the_log_is_cut(learning: LearningSettings) -> int:
    """Learns until the beginning of the update log is gone, so that nobody can do without a checkpoint; how many."""
    reader = kafka.consumer(learning.kafka)
    (updates,) = kafka.assign(reader, [UPDATES.name])
    try:
        with kafka.producer(learning.kafka) as producer, trainer_in_thread(learning) as health:
            send_items(producer)
            sent = send_requests(producer, 0, REQUESTS)

            def is_cut() -> bool:
                nonlocal sent
                sent += send_requests(producer, sent // SLOTS, sent // SLOTS + 1)
                return bool(reader.beginning_offsets([updates])[updates] > 0)

            wait_until(is_cut, WAIT_S, "the beginning of the log is gone")
            wait_until(lambda: health.values["learned"] == sent, WAIT_S, "all is learned")
    finally:
        reader.close()
    wait_committed(learning.kafka)
    return sent


def digest(learning: LearningSettings, encoding: Encoding = Encoding.FP32) -> int:
    """Of the trainer's table, as it stopped."""
    kept = CheckpointStore(learning.trainer.checkpoint_dir).load_newest()
    assert kept is not None
    return Table.restore(table_settings(learning), kept.tables[TABLE]).digest(encoding)


@pytest.mark.parametrize(("row_encoding", "encoding"), [("f32", Encoding.FP32), ("f16", Encoding.FP16)])
def test_trainer_and_replica_meet_in_a_store_that_has_no_rename(
    fresh_kafka: RunningStack, tmp_path: Path, row_encoding: str, encoding: Encoding
) -> None:
    bucket.register()
    place = f"bucket://{uuid.uuid4().hex}/kept"
    told = {"checkpoint_dir": place, "checkpoints_kept": 1, "row_encoding": row_encoding}
    learning = learning_settings(fresh_kafka.settings.kafka, tmp_path, **told)
    train_until_the_log_is_cut(learning)
    shm = tmp_path / "shm"
    serving = ServingSettings(kafka=learning.kafka, learning=learning, shm_dir=str(shm))
    with kafka.producer(learning.kafka) as producer, in_thread(run_replica, serving) as health:
        wait_until(lambda: health.values, WAIT_S, "the replica is ready")
        mirror = Mirror(shm)
        assert mirror.table.digest(encoding) == digest(learning, encoding)
        # A trainer that starts from there is followed.
        with trainer_in_thread(learning) as trainer:
            before = trainer.values["learned"]
            sent = send_requests(producer, 10_000, 10_000 + REQUESTS)
            wait_until(lambda: trainer.values["learned"] == before + sent, WAIT_S, "all is learned")
        wanted = digest(learning, encoding)

        def follows() -> bool:
            mirror.refresh()
            return mirror.table.digest(encoding) == wanted

        wait_until(follows, WAIT_S, "the replica has the trainer's rows")
    shutil.rmtree(shm, ignore_errors=True)


def test_freshet_up_only_replica_is_all_that_a_serving_host_needs(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    """What `freshet up --only replica` runs, with a Kafka and checkpoints that are elsewhere."""
    place = f"file://{tmp_path}/kept"
    learning = learning_settings(fresh_kafka.settings.kafka, tmp_path, checkpoint_dir=place, checkpoints_kept=1)
    sent = train_until_the_log_is_cut(learning)
    config = tmp_path / "host.toml"
    config.write_text(
        f"""
[kafka]
bootstrap = "{learning.kafka.bootstrap}"
[learning.model]
dim = {learning.model.dim}
hidden = [8]
[learning.trainer]
checkpoint_dir = "{place}"
"""
    )
    with running_stack(tmp_path / "host", "replica", config=config) as host:
        mirror = Mirror(Path(host.settings.serving.shm_dir))
        assert sum(mirror.lineage().learned.values()) == sent
        assert mirror.table.digest() == digest(learning)
