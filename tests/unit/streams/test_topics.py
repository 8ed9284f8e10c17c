"""The catalogue as declared to a cluster, and what is said of a cluster that differs."""

import random
from typing import Any

import pytest
from kafka.partitioner.default import murmur2

from streams.admin import Declared, declared, differences
from streams.codec import Encoding, Unreadable
from streams.dead_letters import KEPT_BYTES, Reason, dead_letter
from streams.outbox import Outbox, partition_of
from streams.settings import KafkaSettings, StreamsSettings
from streams.topics import CATALOGUE, DEAD_LETTERS, STAGES, Topic, changelog

SETTINGS = StreamsSettings(kafka=KafkaSettings(partitions=6, item_partitions=3, retention_hours=2.0))


def by_name() -> dict[str, Declared]:
    return {topic.name: topic for topic in declared(SETTINGS)}


def partitions(count: int, replicas: int = 1) -> list[dict[str, Any]]:
    return [{"partition_index": k, "replica_nodes": list(range(replicas))} for k in range(count)]


def test_every_topic_and_changelog_is_declared_once() -> None:
    names = [topic.name for topic in declared(SETTINGS)]
    assert sorted(names) == sorted([*(t.name for t in CATALOGUE), *(changelog(stage) for stage in STAGES)])
    assert len(set(names)) == len(names)


def test_what_is_joined_shares_the_partition_count() -> None:
    counts = {by_name()[name].partitions for name in ("actions", "impressions", "examples", "join-changelog")}
    assert counts == {6}
    assert by_name()["signals"].partitions == by_name()["item-counts-changelog"].partitions == 3


def test_retention_is_as_the_catalogue_says() -> None:
    assert by_name()["events"].configs["retention.ms"] == "7200000"
    assert by_name()["examples"].configs["retention.ms"] == "-1"
    assert by_name()["features"].configs["cleanup.policy"] == "compact"
    assert by_name()["join-changelog"].configs["cleanup.policy"] == "compact"


def test_the_broker_stamps_impressions_and_their_writers_all_else() -> None:
    stamps = {topic.name: by_name()[topic.name].configs["message.timestamp.type"] for topic in CATALOGUE}
    assert stamps == dict.fromkeys(stamps, "CreateTime") | {"impressions": "LogAppendTime"}


def test_every_difference_is_named() -> None:
    wanted = [Declared("a", 2, 1, {"retention.ms": "5"}), Declared("b", 2, 1, {}), Declared("c", 1, 3, {})]
    there = {"a": partitions(4), "c": partitions(1)}
    assert differences(wanted, there, {"a": {"retention.ms": "7"}}) == [
        "topic a: 4 partitions, declared are 2",
        "topic a: retention.ms == 7, declared is 5",
        "topic b: missing",
        "topic c: 1 replicas, declared are 3",
    ]
    assert differences(wanted[:1], {"a": partitions(2)}, {"a": {"retention.ms": "5"}}) == []


def test_keys_go_where_other_clients_put_them() -> None:
    chance = random.Random(1)
    for n in range(1_000):
        key = chance.randbytes(n % 40)
        assert partition_of(key, 6) == (murmur2(key) & 0x7FFFFFFF) % 6


def test_the_outbox_keeps_order_within_a_partition() -> None:
    out = Outbox({"t": 4})
    for n in range(100):
        out.bytes("t", b"%d" % n, b"%d" % (n % 7))
    seen: dict[bytes, list[int]] = {}
    for _, partition, entries in out:
        for key, value in entries:
            assert key is not None and value is not None and partition_of(key, 4) == partition
            seen.setdefault(key, []).append(int(value))
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 100


class Record:
    topic, partition, offset = "events", 1, 42

    def __init__(self, key: bytes | None, value: bytes | None) -> None:
        self.key, self.value = key, value


def test_a_dead_letter_names_its_origin_and_reason() -> None:
    key, value = dead_letter(Record(b"k", b"\xff\x00"), Reason.BAD_UTF8, "byte 0", 5)
    letter = DEAD_LETTERS.codec.decode(value)
    assert key == b"events-1"
    assert (letter.topic, letter.partition, letter.offset, letter.reason, letter.detail, letter.value, letter.at) == (
        "events",
        1,
        42,
        "bad-utf8",
        "byte 0",
        b"\xff\x00",
        5,
    )


def test_a_dead_letter_of_a_huge_record_fits_the_topic() -> None:
    key, value = dead_letter(Record(b"k" * 10**6, b"x" * 10**7), Reason.TOO_LARGE, "é" * 10**6, 5)
    letter = DEAD_LETTERS.codec.decode(value)
    assert len(key) + len(value) < 2**20 - 1_000
    assert letter.value is not None and len(letter.value) == KEPT_BYTES
    assert "first 655360 of 10000000 bytes kept" in letter.detail


@pytest.mark.parametrize("topic", CATALOGUE, ids=lambda topic: topic.name)
def test_a_record_nested_without_end_is_unreadable_like_any_other(topic: Topic) -> None:
    text = topic.codec.encoding is Encoding.JSON
    nested = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}" if text else b"\x91" * 100_000 + b"\x90"
    with pytest.raises(Unreadable):
        topic.codec.decode(nested)
