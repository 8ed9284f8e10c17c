"""Whole topics, read at once: for comparing what is there with what should be."""

from typing import Any

from streams.kafka import assign, consumer, partitions_of
from streams.reference import Expected, expected_examples, observed
from streams.settings import KafkaSettings, StreamsSettings
from streams.topics import ACTIONS, EXAMPLES, IMPRESSIONS, Topic


def read_all(settings: KafkaSettings, topic: Topic) -> dict[int, list[Any]]:
    """Every committed record of a topic, decoded, by partition in log order."""
    with_value: dict[int, list[Any]] = {}
    reader = consumer(settings, client_id="freshet-logs")
    try:
        partitions = assign(reader, [topic.name])
        ends = reader.end_offsets(partitions)
        while any(reader.position(p) < ends[p] for p in partitions):
            for p, records in reader.poll(500).items():
                with_value.setdefault(p.partition, []).extend(topic.codec.decode(record.value) for record in records)
    finally:
        reader.close()
    return with_value


def read_list(settings: KafkaSettings, topic: Topic) -> list[Any]:
    """Every committed record of a topic, decoded, one partition after the other."""
    return [record for records in read_all(settings, topic).values() for record in records]


def end_sum(settings: KafkaSettings, topic: Topic) -> int:
    """The sum of a topic's end offsets: it grows as long as anything is written."""
    reader = consumer(settings, client_id="freshet-ends")
    try:
        return sum(reader.end_offsets(partitions_of(reader, topic.name)).values())
    finally:
        reader.close()


def joined_and_expected(settings: StreamsSettings) -> tuple[list[Expected], list[Expected]]:
    """The examples on the topic, and those that the logs of impressions and actions should have given; both sorted."""
    got = sorted(map(observed, read_list(settings.kafka, EXAMPLES)))
    impressions, actions = read_all(settings.kafka, IMPRESSIONS), read_all(settings.kafka, ACTIONS)
    return got, expected_examples(impressions, actions, settings)
