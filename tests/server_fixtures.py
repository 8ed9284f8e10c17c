"""Fixtures that start real servers, for the conftest.py of every tier that needs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stacks import RunningStack, running_stack

__all__ = ["clickhouse", "fresh_kafka", "kafka", "kafka_stack", "redis"]


@pytest.fixture(scope="session")
def kafka_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A Kafka for the whole run, with freshet's topics and the default settings."""
    with running_stack(tmp_path_factory.mktemp("kafka"), "kafka") as stack:
        yield stack


@pytest.fixture(scope="session")
def kafka(kafka_stack: RunningStack) -> str:
    """The address (host:port) of a Kafka that all tests of the run share."""
    return kafka_stack.settings.kafka.bootstrap


@pytest.fixture
def fresh_kafka(tmp_path: Path) -> Iterator[RunningStack]:
    """A Kafka of the test's own, with freshet's topics, all empty; `.settings` has its address."""
    with running_stack(tmp_path / "stack", "kafka") as stack:
        yield stack


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
