"""Whole topics, from where they begin to where they end now."""

import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from streams.kafka import BrokerAway, Stopped, begin_offsets, consumer, end_offsets, partitions_of
from streams.reference import Expected, expected_examples, observed
from streams.settings import KafkaSettings, StreamsSettings
from streams.topics import ACTIONS, EXAMPLES, IMPRESSIONS, Topic

Places = Mapping[TopicPartition, int]
"""An offset in each partition."""


def ends_of(
    settings: KafkaSettings, topics: Sequence[str], *, wait_s: float = 60.0, stop: threading.Event | None = None
) -> dict[TopicPartition, int]:
    """Behind the last committed record of every partition of `topics`; raises BrokerAway, Stopped."""
    reader = consumer(settings, client_id="freshet-ends", wait_s=wait_s, stop=stop)
    try:
        partitions = [p for topic in topics for p in partitions_of(reader, topic, wait_s, stop)]
        return end_offsets(reader, partitions, wait_s, stop)
    finally:
        reader.close()


def raw_records(
    settings: KafkaSettings,
    ends: Places,
    begins: Places | None = None,
    *,
    wait_s: float = 60.0,
    stop: threading.Event | None = None,
) -> Generator[ConsumerRecord]:
    """Every committed record before `ends`, undecoded, a partition's in the order of the log.

    From `begins` on, or where the log begins. Raises BrokerAway where nothing more comes for `wait_s`, Stopped.
    """
    reader = consumer(settings, client_id="freshet-logs", wait_s=wait_s, stop=stop)
    try:
        known = begin_offsets(reader, list(ends), wait_s, stop) | dict(begins or {})
        reader.assign(list(ends))
        # A position that is looked up later may wait for an answer that was lost.
        for p in ends:
            reader.seek(p, known[p])
        deadline_s = time.monotonic() + wait_s
        while any(reader.position(p) < end for p, end in ends.items()):
            polled = reader.poll(500)
            if stop is not None and stop.is_set():
                raise Stopped("reading the logs")
            if polled:
                deadline_s = time.monotonic() + wait_s
            elif time.monotonic() > deadline_s:
                raise BrokerAway(f"nothing came for {wait_s:g} s, and the logs are not read up to {dict(ends)}")
            for p, found in polled.items():
                yield from (record for record in found if record.offset < ends[p])
    finally:
        reader.close()


def read_all(settings: KafkaSettings, topic: Topic) -> dict[int, list[Any]]:
    """Every committed record of a topic, decoded, by partition in log order."""
    return {k: [record for record, _ in records] for k, records in read_stamped(settings, topic).items()}


def read_stamped(settings: KafkaSettings, topic: Topic) -> dict[int, list[tuple[Any, int]]]:
    """As `read_all`, each record with its timestamp (ms): of `impressions` when the broker appended it."""
    found: dict[int, list[tuple[Any, int]]] = {}
    for record in raw_records(settings, ends_of(settings, [topic.name])):
        found.setdefault(record.partition, []).append((topic.codec.decode(record.value), record.timestamp))
    return found


def read_list(settings: KafkaSettings, topic: Topic) -> list[Any]:
    """Every committed record of a topic, decoded, one partition after the other."""
    return [record for records in read_all(settings, topic).values() for record in records]


def end_sum(settings: KafkaSettings, topic: Topic) -> int:
    """The sum of a topic's end offsets: it grows as long as anything is written."""
    return sum(ends_of(settings, [topic.name]).values())


def joined_and_expected(settings: StreamsSettings) -> tuple[list[Expected], list[Expected]]:
    """The examples on the topic, and those that the logs of impressions and actions should have given; both sorted."""
    got = sorted(map(observed, read_list(settings.kafka, EXAMPLES)))
    impressions, actions = read_stamped(settings.kafka, IMPRESSIONS), read_all(settings.kafka, ACTIONS)
    return got, expected_examples(impressions, actions, settings)
