"""Two-tower retrieval over a real Kafka: what the trainer's towers learn is what serving retrieves by."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from online_learning.checkpoint.store import CheckpointStore
from online_learning.learner import TABLE, table_settings
from online_learning.settings import LearningSettings, RetrievalSettings
from online_learning.table.table import Table
from serving.pipeline.model import OnlineModel
from serving.pipeline.request import KnownContext, Request
from serving.replica.item_vectors import pooled_rows
from serving.settings import ServingSettings
from serving.shared.mirror import Mirror
from streams.kafka import producer
from streams.records import Item
from streams.topics import ITEMS
from tests.servers.test_replica import running, until
from tests.stacks import RunningStack, wait_until
from tests.trainers import ITEM_COUNT, learning_settings, send_items, send_requests, trainer_in_thread

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


@pytest.fixture(params=[(), (16,)], ids=["sums", "layers"])
def learning(request: pytest.FixtureRequest, fresh_kafka: RunningStack, tmp_path: Path) -> LearningSettings:
    settings = learning_settings(fresh_kafka.settings.kafka, tmp_path / "checkpoints")
    return replace(settings, retrieval=RetrievalSettings(name="two_tower", hidden=request.param))


@pytest.fixture
def serving(learning: LearningSettings, tmp_path: Path) -> Iterator[ServingSettings]:
    folder = tmp_path / "shm"
    yield ServingSettings(kafka=learning.kafka, learning=learning, shm_dir=str(folder))
    shutil.rmtree(folder, ignore_errors=True)


def scores(settings: ServingSettings, mirror: Mirror, user: str) -> np.ndarray:
    """Of all items, as a request's retrieval has them."""
    model = OnlineModel(settings.learning, mirror, 0)
    assert model.refresh() == ""
    request = Request(request_id="r", ts=0, user=user, n=1, context=KnownContext())
    return mirror.scores(model.query(model.user(request, None), 0))


def vectors_are_those_of(settings: ServingSettings, mirror: Mirror) -> bool:
    """Whether every item's vector is the one of the rows and parameters that are there now."""
    from online_learning.models.retriever import new_retriever

    retriever = new_retriever(settings.learning)
    retriever.load(mirror.dense().parameters)
    wanted = retriever.item_vectors(pooled_rows(mirror.table, retriever.side(mirror.catalogue.keys)))  # type: ignore[arg-type]
    return np.allclose(mirror.vectors(), wanted, atol=1e-6)


def test_what_the_towers_learn_is_retrieved_by_and_survives_both_processes(
    learning: LearningSettings, serving: ServingSettings
) -> None:
    mirror = Mirror(Path(serving.shm_dir))
    with producer(learning.kafka) as sender:
        send_items(sender)
        with running(serving):
            with trainer_in_thread(learning) as health:
                sent = send_requests(sender, 0, 800)
                wait_until(lambda: health.values["learned"] == sent, 120, "all is learned")
                assert health.values["retrieval_loss"] > 0
                fresh = Item(item="fresh", attributes={"category": "c2"})
                sender.send(ITEMS, fresh, fresh.item)
                until(mirror, lambda: "fresh" in mirror.catalogue.index, "the fresh item")
            checkpoint = CheckpointStore(Path(learning.trainer.checkpoint_dir)).load_newest()
            assert checkpoint is not None
            digest = Table.restore(table_settings(learning), checkpoint.tables[TABLE]).digest()
            until(mirror, lambda: mirror.table.digest() == digest, "all rows")
            until(mirror, lambda: vectors_are_those_of(serving, mirror), "all vectors")
            # User u likes the items of category u mod 5; some twenty clicks of each tell most of them apart.
            category = np.array([int(mirror.catalogue.ids[k][1:]) % 5 for k in range(ITEM_COUNT)])
            liked = [scores(serving, mirror, f"u{user}")[:ITEM_COUNT] for user in range(40)]
            above = [row[category == u % 5].mean() > row[category != u % 5].mean() for u, row in enumerate(liked)]
            assert np.mean(above) > 0.75
            assert mirror.vectors()[mirror.catalogue.index["fresh"]].any()
        # Another replica starts from the checkpoint, another trainer goes on from it.
        with running(serving):
            until(mirror, lambda: mirror.table.digest() == digest, "all rows again")
            until(mirror, lambda: vectors_are_those_of(serving, mirror), "all vectors again")
            with trainer_in_thread(learning) as health:
                more = send_requests(sender, 800, 820)
                wait_until(lambda: health.values["learned"] == sent + more, 60, "the rest is learned")
