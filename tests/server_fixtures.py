"""Fixtures that start real servers, for the conftest.py of every tier that needs them."""

from collections.abc import Iterator

import pytest

from tests.emptied import emptied
from tests.stacks import RunningStack, running_stack

__all__ = ["clickhouse", "fresh_kafka", "kafka", "kafka_stack", "redis"]

# A broker that several tests kill one after the other comes back as soon after the last kill as after the first.
KAFKA = "[local]\nrestart_first_s = 0.1\nrestart_max_s = 0.1\n"


@pytest.fixture(scope="session")
def kafka_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A Kafka for the whole run, with freshet's topics and the default settings."""
    folder = tmp_path_factory.mktemp("kafka")
    config = folder / "freshet.toml"
    config.write_text(KAFKA)
    with running_stack(folder / "stack", "kafka", config=config) as stack:
        yield stack


@pytest.fixture(scope="session")
def kafka(kafka_stack: RunningStack) -> str:
    """The address (host:port) of a Kafka that all tests of the run share."""
    return kafka_stack.settings.kafka.bootstrap


@pytest.fixture
def fresh_kafka(kafka_stack: RunningStack) -> RunningStack:
    """The Kafka of the run for this test alone, with freshet's topics, all empty; `.settings` has its address."""
    return emptied(kafka_stack)


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address (host:port) of a Redis that all tests of the run share."""
    with running_stack(tmp_path_factory.mktemp("redis"), "redis") as stack:
        yield stack.settings.features.redis


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address (host:port) of a ClickHouse HTTP port that all tests of the run share."""
    with running_stack(tmp_path_factory.mktemp("clickhouse"), "clickhouse") as stack:
        yield stack.settings.serving.clickhouse.address
