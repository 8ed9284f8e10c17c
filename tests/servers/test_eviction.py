"""A row that nobody sees any more goes: from the trainer, from the log and from every replica, and stays gone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from online_learning.checkpoint.store import CheckpointStore
from online_learning.learner import table_settings
from online_learning.models.fields import FieldEncoder
from online_learning.settings import LearningSettings, RowSettings
from online_learning.table.settings import EvictionPolicy
from online_learning.table.table import Table
from online_learning.updates.position import TABLE
from serving.replica import run as run_replica
from serving.settings import ServingSettings
from serving.shared.mirror import Mirror
from streams import kafka
from tests.stacks import RunningStack, wait_until
from tests.threads import in_thread
from tests.trainers import learning_settings, send_items, send_requests, trainer_in_thread

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

WAIT_S = 90.0
# Users u0 to u39 take turns, a request a millisecond of event time; their rows live for so long after they were last
# seen, all others for ever.
USERS = 40
TTL_S = 2.0
AFTER = int(TTL_S * 1_000) // USERS * USERS + USERS


@pytest.fixture
def learning(fresh_kafka: RunningStack, tmp_path: Path) -> LearningSettings:
    policies = RowSettings(eviction=EvictionPolicy.TTL, ttl_s=1e9, ttl_s_of_field={"user": TTL_S}, evict_interval_s=0.2)
    settings = learning_settings(fresh_kafka.settings.kafka, tmp_path / "kept", checkpoints_kept=1)
    return msgspec.structs.replace(settings, rows=policies)


@pytest.fixture
def mirror(learning: LearningSettings, tmp_path: Path) -> Iterator[Mirror]:
    shm = tmp_path / "shm"
    try:
        with in_thread(
            run_replica, ServingSettings(kafka=learning.kafka, learning=learning, shm_dir=str(shm))
        ) as health:
            wait_until(lambda: health.values, WAIT_S, "the replica is ready")
            yield Mirror(shm)
    finally:
        shutil.rmtree(shm, ignore_errors=True)


def test_users_unseen_for_their_time_leave_no_row_anywhere(learning: LearningSettings, mirror: Mirror) -> None:
    encoder = FieldEncoder(learning.model)
    users = np.concatenate([encoder.id_keys("user", f"u{number}") for number in range(USERS)])
    first = encoder.id_keys("user", "u0")

    def found(keys: np.ndarray) -> np.ndarray:
        mirror.refresh()
        return mirror.table.lookup(keys)[1]

    with kafka.producer(learning.kafka) as producer, trainer_in_thread(learning) as health:
        send_items(producer)
        sent = send_requests(producer, 0, USERS)
        wait_until(lambda: health.values["learned"] == sent, WAIT_S, "all is learned")
        wait_until(lambda: found(users).all(), WAIT_S, "the replica has their rows")
        assert health.values["evicted"] == 0
        # Another request of the last of them, so much later that the time of all others is over.
        send_requests(producer, AFTER + USERS - 1, AFTER + USERS)
        wait_until(lambda: health.values["evicted"] == USERS - 1, WAIT_S, "the other users' rows are evicted")
        wait_until(lambda: not found(users[:-1]).any(), WAIT_S, "the replica has none of them")
        assert found(users[-1:]).all()

        # One comes back and has a new row; meanwhile checkpoints go on, until each of them contains the removals.
        requests = iter(range(2 * AFTER, 1_000_000, USERS))

        def goes_on() -> None:
            number = next(requests)
            send_requests(producer, number, number + 1)

        def is_back() -> bool:
            goes_on()
            return bool(found(first).all())

        def is_forgotten() -> bool:
            goes_on()
            return health.values["tombstones"] < len(users) // 2

        wait_until(is_back, WAIT_S, "the user who came back has a row again")
        wait_until(is_forgotten, WAIT_S, "removals that every checkpoint contains are forgotten")
    kept = CheckpointStore(learning.trainer.checkpoint_dir).load_newest()
    assert kept is not None
    table = Table.restore(table_settings(learning), kept.tables[TABLE])

    def same() -> bool:
        mirror.refresh()
        return mirror.table.digest() == table.digest()

    wait_until(same, WAIT_S, "the replica is the trainer, byte for byte")
