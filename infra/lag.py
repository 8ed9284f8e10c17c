"""How much Kafka holds, and how far each consumer group is behind."""

from collections import defaultdict

import msgspec
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec

from streams.kafka import connection
from streams.settings import KafkaSettings


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How many records a consumer group has before it on one topic."""

    group: str
    topic: str
    records: int


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster holds: records (transaction markers and compacted ones count) and the groups' lags."""

    records: int
    lags: tuple[Lag, ...]


def holdings(settings: KafkaSettings, timeout_s: float) -> Holdings:
    """Asks the cluster once. Raises KafkaError."""
    timeout_ms = int(timeout_s * 1000)
    config = {**connection(settings, "freshet-status"), "bootstrap_timeout_ms": timeout_ms}
    admin = KafkaAdminClient(**config, request_timeout_ms=timeout_ms)
    try:
        partitions = [
            TopicPartition(topic["name"], partition["partition_index"])
            for topic in admin.describe_topics()
            if not topic["is_internal"]
            for partition in topic["partitions"]
        ]
        first = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        last = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        ends = {partition: found.offset for partition, found in last.items()}
        groups = [group["group_id"] for group in admin.list_groups()]
        committed = admin.list_group_offsets(groups) if groups else {}
    finally:
        admin.close()
    held = sum(ends[partition] - found.offset for partition, found in first.items())
    offsets = {
        group: {partition: found.offset for partition, found in positions.items()}
        for group, positions in committed.items()
    }
    return Holdings(records=held, lags=lags(offsets, ends))


def lags(committed: dict[str, dict[TopicPartition, int]], ends: dict[TopicPartition, int]) -> tuple[Lag, ...]:
    """Each group's distance to the end, summed per topic; partitions without a commit (offset -1) do not count."""
    behind: dict[tuple[str, str], int] = defaultdict(int)
    for group, positions in committed.items():
        for partition, offset in positions.items():
            if offset >= 0 and partition in ends:
                behind[group, partition.topic] += max(ends[partition] - offset, 0)
    return tuple(Lag(group=group, topic=topic, records=records) for (group, topic), records in sorted(behind.items()))
