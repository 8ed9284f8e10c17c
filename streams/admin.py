"""Creates the topics of the catalogue and says what differs on a cluster that already has some."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource
from kafka.errors import TopicAlreadyExistsError

from streams.kafka import MAX_REQUEST_BYTES, connection, retry
from streams.settings import KafkaSettings, StreamsSettings
from streams.topics import CATALOGUE, DEAD_LETTERS, STAGES, TOMBSTONES_MS, UPDATES, Keep, Partitioning, Topic, changelog

# Changelogs are read whole at every start: small segments let compaction keep them near the size of the state.
_CHANGELOG_SEGMENT_BYTES: Final = 32 * 2**20
_FOREVER: Final = "-1"


class Declared(msgspec.Struct, frozen=True):
    """A topic as it should be on the cluster: `configs` are the topic-level settings that freshet depends on."""

    name: str
    partitions: int
    replication: int
    configs: dict[str, str]


def _partitions(partitioning: Partitioning, settings: KafkaSettings) -> int:
    match partitioning:
        case Partitioning.USERS:
            return settings.partitions
        case Partitioning.ITEMS:
            return settings.item_partitions
        case Partitioning.ONE:
            return 1


def _configs(topic: Topic, settings: StreamsSettings) -> dict[str, str]:
    retention_ms = str(int(settings.kafka.retention_hours * 3_600_000))
    configs = {"message.timestamp.type": topic.stamp.value}
    match topic.keep:
        case Keep.TIME:
            configs |= {"cleanup.policy": "delete", "retention.ms": retention_ms}
        case Keep.CUT:
            configs |= {"cleanup.policy": "delete", "retention.ms": _FOREVER}
        case Keep.COMPACTED:
            configs |= {"cleanup.policy": "compact"}
    if topic.name == UPDATES.name:
        configs["max.message.bytes"] = str(MAX_REQUEST_BYTES)
    elif topic.name != DEAD_LETTERS.name:
        # Twice what the intake takes, so that a record which is too large is seen and named, not lost at the producer.
        configs["max.message.bytes"] = str(max(2 * settings.max_record_bytes, 2**20 + 12))
    return configs


def declared(settings: StreamsSettings) -> list[Declared]:
    """Every topic of the catalogue and the changelog of every worker stage, as they should be."""
    kafka = settings.kafka
    topics = [
        Declared(t.name, _partitions(t.partitioning, kafka), kafka.replication, _configs(t, settings))
        for t in CATALOGUE
    ]
    changelogs = [
        Declared(
            changelog(stage),
            _partitions(partitioning, kafka),
            kafka.replication,
            {
                "cleanup.policy": "compact",
                "segment.bytes": str(_CHANGELOG_SEGMENT_BYTES),
                "min.cleanable.dirty.ratio": "0.3",
                "delete.retention.ms": str(TOMBSTONES_MS),
                "max.message.bytes": str(MAX_REQUEST_BYTES),
            },
        )
        for stage, partitioning in STAGES.items()
    ]
    return topics + changelogs


@contextmanager
def admin(
    settings: KafkaSettings, *, wait_s: float = 60.0, stop: threading.Event | None = None
) -> Iterator[KafkaAdminClient]:
    """An admin client; waits up to `wait_s` for a broker that is away, raises BrokerAway or Stopped."""
    config = connection(settings, "freshet-admin")
    client = retry(lambda: KafkaAdminClient(**config), "admin client", wait_s, stop)
    try:
        yield client
    finally:
        client.close()


def ensure_topics(settings: StreamsSettings, *, wait_s: float = 60.0, stop: threading.Event | None = None) -> list[str]:
    """Creates what is missing and returns the names created; never changes a topic that exists (see `verify_topics`).

    Safe to call from several processes at once. Raises BrokerAway, Stopped.
    """
    with admin(settings.kafka, wait_s=wait_s, stop=stop) as client:
        there = {found["name"] for found in client.describe_topics()}
        created = []
        for topic in declared(settings):
            if topic.name in there:
                continue
            wanted = {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication,
                "configs": topic.configs,
            }
            try:
                client.create_topics({topic.name: wanted})
            except TopicAlreadyExistsError:
                continue
            created.append(topic.name)
        client.wait_for_topics([topic.name for topic in declared(settings)], timeout_ms=int(wait_s * 1_000))
        return created


def verify_topics(settings: StreamsSettings, *, wait_s: float = 60.0) -> list[str]:
    """What differs on the cluster from what freshet declares, one sentence each; empty where nothing does.

    Raises BrokerAway.
    """
    with admin(settings.kafka, wait_s=wait_s) as client:
        there = {found["name"]: found for found in client.describe_topics()}
        present = [topic for topic in declared(settings) if topic.name in there]
        resources = [ConfigResource("topic", topic.name) for topic in present]
        configs = client.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    return differences(
        declared(settings),
        {name: found["partitions"] for name, found in there.items()},
        {name: {key: entry["value"] for key, entry in entries.items()} for name, entries in configs.items()},
    )


def differences(
    wanted: list[Declared],
    partitions: Mapping[str, list[dict[str, Any]]],
    configs: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """`wanted` against what a cluster has: partitions as Kafka describes them and topic-level settings, by topic."""
    found: list[str] = []
    for topic in wanted:
        if topic.name not in partitions:
            found.append(f"topic {topic.name}: missing")
            continue
        actual = partitions[topic.name]
        if len(actual) != topic.partitions:
            found.append(f"topic {topic.name}: {len(actual)} partitions, declared are {topic.partitions}")
        replicas = min(len(p["replica_nodes"]) for p in actual)
        if replicas < topic.replication:
            found.append(f"topic {topic.name}: {replicas} replicas, declared are {topic.replication}")
        for key, value in topic.configs.items():
            has = configs.get(topic.name, {}).get(key)
            if has != value:
                found.append(f"topic {topic.name}: {key} == {has}, declared is {value}")
    return found


def cut(
    settings: KafkaSettings,
    before: Mapping[tuple[str, int], int],
    *,
    kept_since_ms: Mapping[str, int] | None = None,
    wait_s: float = 30.0,
    stop: threading.Event | None = None,
) -> None:
    """Deletes the records before the given offsets ({(topic, partition): first offset kept}); of the topics in
    `kept_since_ms` none that is younger than that (ms since the epoch).

    Raises BrokerAway, Stopped, KafkaError.
    """
    kept = {TopicPartition(topic, k): offset for (topic, k), offset in before.items()}
    with admin(settings, wait_s=wait_s, stop=stop) as client:
        since = {p: kept_since_ms[p.topic] for p in kept if kept_since_ms and p.topic in kept_since_ms}
        for p, found in (client.list_partition_offsets(since) if since else {}).items():
            if found.offset >= 0:
                kept[p] = min(kept[p], found.offset)
        client.delete_records({p: offset for p, offset in kept.items() if offset > 0})
