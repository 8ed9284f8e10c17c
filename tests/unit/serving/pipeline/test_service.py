"""The service answers while the servers around it are away, and counts what that cost."""

from pathlib import Path

import pytest

from features.settings import FeatureSettings
from online_learning.settings import LearningSettings
from serving.answer import decode_versions
from serving.pipeline.request import BadRequest
from serving.pipeline.service import Service
from serving.settings import ServingSettings
from streams.settings import KafkaSettings, StreamsSettings
from tests.serving_world import World, items

# Port 1 is reserved and has no listener: connections are refused at once.
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def settings(tmp_path: Path) -> ServingSettings:
    (tmp_path / "features").mkdir()
    return ServingSettings(
        kafka=KafkaSettings(bootstrap=NOWHERE),
        features=FeatureSettings(redis=NOWHERE, repo_dir=str(tmp_path / "features")),
        learning=LearningSettings(tasks=StreamsSettings().tasks),
        shm_dir=str(tmp_path / "shared"),
    )


def test_without_redis_and_kafka_answers_go_on_and_are_counted(settings: ServingSettings) -> None:
    world = World(Path(settings.shm_dir), settings)
    world.put_items(items(20))
    world.publish(learned={0: 3})
    service = Service(settings)
    answer = service.recommend(b"u1", 5, b"")
    assert len(answer.items) == 5
    assert decode_versions(answer.versions).learned == {0: 3}
    with pytest.raises(BadRequest):
        service.recommend(b"u1", -1, b"")
    service.recommend(b"u1", 5, b'{"dry_run": true}')
    counts = service.counts()
    assert (counts["requests"], counts["refused"], counts["users_missed"], counts["impressions"]) == (3, 1, 2, 1)
    service.close()
    assert service.counts()["impressions_dropped"] == 1
