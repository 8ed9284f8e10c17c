"""The streams on a real Kafka: topics, delivery, dead letters, and the same join whoever partitioned the events."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streams import topics
from streams.admin import ensure_topics, verify_topics
from streams.dead_letters import DeadLetters, Reason
from streams.kafka import (
    RECORD_OVERHEAD_BYTES,
    BrokerAway,
    BufferFull,
    Stopped,
    assign,
    consumer,
    lag,
    partitions_of,
    producer,
)
from streams.logs import ends_of, raw_records
from streams.records import Event, Impression, Item, Shown, User
from streams.settings import KafkaSettings
from tests.emptied import emptied, stack_on
from tests.malformed import document, malformed
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import joined_and_expected, read_all

pytestmark = pytest.mark.servers

CONFIG = """
[streams.join]
window_s = 2.0
lateness_s = 0.5
idle_s = 0.5
"""
MALFORMED = 2_000


@pytest.fixture(scope="module")
def stack(kafka_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A worker with short windows on a Kafka that was empty before."""
    folder = tmp_path_factory.mktemp("streams")
    with stack_on(emptied(kafka_stack), folder / "stack", "worker", config=CONFIG) as running:
        yield running


def flat(records: dict[int, list[Any]]) -> list[Any]:
    return [one for of_partition in records.values() for one in of_partition]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_the_topics_are_as_declared_and_what_differs_is_named(stack: RunningStack) -> None:
    settings = stack.settings.streams
    assert ensure_topics(settings) == []
    assert verify_topics(settings) == []
    other = msgspec.structs.replace(
        settings, kafka=msgspec.structs.replace(settings.kafka, partitions=7, retention_hours=1.0)
    )
    named = verify_topics(other)
    assert "topic events: 2 partitions, declared are 7" in named
    assert any(line.startswith("topic metrics: retention.ms == ") for line in named)


def test_malformed_records_are_buried_with_reasons_and_good_ones_pass_in_order(stack: RunningStack) -> None:
    kafka, limit = stack.settings.kafka, stack.settings.streams.max_record_bytes
    chance = random.Random(7)
    wanted: Counter[str] = Counter()
    good: dict[int, list[str]] = {0: [], 1: []}
    with producer(kafka) as out:
        for n in range(MALFORMED):
            value, reason = malformed(chance, n, now_ms(), limit)
            partition = chance.randrange(2)
            out.send_bytes(topics.EVENTS.name, value, b"bad", partition=partition)
            wanted[reason] += 1
            if n % 3 == 0:
                event = msgspec.convert(document(n, now_ms()), Event)
                out.send(topics.EVENTS, event, event.user, partition=partition)
                good[partition].append(event.event_id or "")
        out.flush(60)

    def letters() -> list[Any]:
        return [one for one in flat(read_all(kafka, topics.DEAD_LETTERS)) if one.topic == topics.EVENTS.name]

    wait_until(lambda: len(letters()) >= MALFORMED, 90, "every malformed record has its dead letter")
    buried = letters()
    assert Counter(one.reason for one in buried) == wanted
    assert len({(one.partition, one.offset) for one in buried}) == MALFORMED
    assert all(one.detail and one.at for one in buried)

    def taken() -> set[str]:
        return {one.event_id for one in flat(read_all(kafka, topics.ACTIONS))}

    names = {name for of_partition in good.values() for name in of_partition}
    wait_until(lambda: names <= taken(), 60, "every good record is an action")
    by_user: dict[tuple[str, int], list[str]] = {}
    sent = {name: (partition, k) for partition, of_one in good.items() for k, name in enumerate(of_one)}
    for action in flat(read_all(kafka, topics.ACTIONS)):
        if action.event_id in sent:
            by_user.setdefault((action.user, sent[action.event_id][0]), []).append(action.event_id)
    for of_user in by_user.values():
        assert of_user == sorted(of_user, key=lambda name: sent[name][1])
    assert stack.restarts("worker") == 0


def test_the_join_is_the_same_whoever_partitioned_the_events(stack: RunningStack) -> None:
    kafka = stack.settings.kafka
    chance = random.Random(11)
    with producer(kafka) as out:
        for n in range(300):
            shown = [Shown(f"i{k}", k, 0.5, 0.5, "popular", False) for k in range(3)]
            item, ts = f"i{chance.randrange(4)}", now_ms()
            acts = chance.random() < 0.6
            # The same user twice: one by a producer that keys as we do, one by producers that do not.
            for twin in ("keyed", "other"):
                user, request = f"{twin}-{n % 20}", f"{twin}-{n}"
                out.send(topics.IMPRESSIONS, Impression(1, request, ts, user, shown), user)
                if acts:
                    event = Event(ts=ts + 1, user=user, item=item, kind="click", event_id=request, request_id=request)
                    if twin == "keyed":
                        out.send(topics.EVENTS, event, user)
                    else:
                        key = chance.choice([None, "constant", f"session-{n}"])
                        out.send(topics.EVENTS, event, key, partition=chance.choice([None, n % 2]))
        out.flush(30)

    def equal() -> bool:
        got, expected = joined_and_expected(stack.settings.streams)
        return got == expected

    wait_until(equal, 60, "the examples are those of the reference")
    got, _ = joined_and_expected(stack.settings.streams)
    twins = {
        twin: sorted(
            (one.example_id.removeprefix(twin), one.revision, one.item, one.labels, one.organic, one.correction)
            for one in got
            if one.user.startswith(twin)
        )
        for twin in ("keyed", "other")
    }
    assert len(twins["keyed"]) > 900
    assert twins["keyed"] == twins["other"]


def test_a_host_whose_clock_is_ahead_delays_its_own_windows_and_nothing_else(stack: RunningStack) -> None:
    kafka, ahead_ms = stack.settings.kafka, {"fast": 8_000, "broken": 2 * 3_600_000}
    shown = [Shown("i0", 0, 0.5, 0.5, "popular", False)]
    with producer(kafka) as out:
        for n in range(20):
            for host in ("right", "fast") if n else ("right", "fast", "broken"):
                impression = Impression(1, f"{host}-{n}", now_ms() + ahead_ms.get(host, 0), "shared", shown)
                out.send(topics.IMPRESSIONS, impression, "shared")
        out.flush(30)
        for n in range(20):
            event = Event(ts=now_ms(), user="shared", item="i0", kind="click", request_id=f"right-{n}")
            out.send(topics.EVENTS, event, "shared")
        out.flush(30)

    def equal() -> bool:
        got, expected = joined_and_expected(stack.settings.streams)
        return got == expected

    wait_until(equal, 60, "the examples are those of the reference")
    got = [one for one in joined_and_expected(stack.settings.streams)[0] if one.user == "shared"]
    assert [one.example_id for one in got if one.organic] == []
    assert sorted({one.example_id for one in got}) == sorted(
        f"{host}-{n}/0" for host in ("right", "fast") for n in range(20)
    )
    (letter,) = [one for one in flat(read_all(kafka, topics.DEAD_LETTERS)) if one.topic == topics.IMPRESSIONS.name]
    assert letter.reason == Reason.FUTURE_TIME


def test_the_feature_rows_count_what_happened(stack: RunningStack) -> None:
    kafka = stack.settings.kafka
    ts = now_ms()
    with producer(kafka) as out:
        for n in range(3):
            shown = [Shown("counted", 0, 0.5, 0.5, "popular", False), Shown("beside", 1, 0.5, 0.5, "popular", False)]
            out.send(topics.IMPRESSIONS, Impression(1, f"counted-{n}", ts, "counter", shown), "counter")
        click = Event(ts=ts, user="counter", item="counted", kind="click", request_id="counted-1")
        out.send(topics.EVENTS, click, None)
        out.send(topics.EVENTS, Event(ts=ts, user="counter", item="counted", kind="rating", value=3.0), None)

    def newest() -> dict[tuple[str, ...], dict[str, Any]]:
        rows = flat(read_all(kafka, topics.FEATURES))
        return {(row.view, *row.entities.values()): row.values for row in sorted(rows, key=lambda row: row.version)}

    def counted() -> bool:
        rows = newest()
        user, item = rows.get(("user_stats", "counter"), {}), rows.get(("item_stats", "counted", ""), {})
        acted = user.get("actions_1h", 0) > 1.9 and item.get("rating_count") == 1.0 and item["positives_1h"] > 0.9
        # Impressions and actions are of two topics: which are counted first is not said.
        return acted and user["impressions_1d"] > 5.9 and item["impressions_1h"] > 2.9

    wait_until(counted, 30, "the rows of user and item")
    rows = newest()
    user, item = rows["user_stats", "counter"], rows["item_stats", "counted", ""]
    assert (user["impressions_1d"], user["rating_mean"], user["recent_items"]) == (
        pytest.approx(6, rel=1e-3),
        3.0,
        ["counted"],
    )
    assert (item["impressions_1h"], item["rating_sum"]) == (pytest.approx(3, rel=1e-2), 3.0)


def test_catalogue_documents_are_checked_and_a_user_is_forgotten_on_null(stack: RunningStack) -> None:
    kafka = stack.settings.kafka
    with producer(kafka) as out:
        out.send(topics.ITEMS, Item(item="fine", attributes={"genre": ["a"]}), "fine")
        out.send_bytes(topics.ITEMS.name, b'{"item": 5}', b"5")
        out.send(topics.ITEMS, Item(item="other"), "key")
        out.send(topics.ITEMS, None, "gone")
        out.send(topics.USERS, User(user="known", attributes={"age": 30}), "known")
        out.send_bytes(topics.USERS.name, b"{", b"broken")

    def letters() -> set[tuple[str, str]]:
        return {
            (one.topic, one.reason)
            for one in flat(read_all(kafka, topics.DEAD_LETTERS))
            if one.topic in ("items", "users")
        }

    wanted = {("items", Reason.WRONG_TYPE), ("items", Reason.BAD_VALUE), ("users", Reason.NOT_JSON)}
    wait_until(lambda: letters() == wanted, 60, "the dead letters of the catalogue")

    def profile() -> list[bytes | None]:
        found = raw_records(kafka, ends_of(kafka, [topics.FEATURES.name]))
        return [one.value for one in found if one.key == b"user_profile|known"]

    wait_until(lambda: len(profile()) == 1, 30, "the user's profile")
    row = topics.FEATURES.codec.decode(profile()[0] or b"")
    assert (row.entities, row.values) == ({"user": "known"}, {"attributes": '{"age":30}'})
    with producer(kafka) as out:
        out.send(topics.USERS, None, "known")
    wait_until(lambda: profile()[-1] is None, 30, "the user's profile is dropped")


def test_a_full_buffer_refuses_instead_of_growing(stack: RunningStack) -> None:
    # Nothing leaves this producer by itself.
    with producer(stack.settings.kafka, max_buffer_bytes=20_000, linger_ms=600_000) as out:
        for _ in range(2):
            for _ in range(20_000 // (1_000 + RECORD_OVERHEAD_BYTES)):
                out.send_bytes(topics.METRICS.name, b"x" * 1_000, block_s=0)
            with pytest.raises(BufferFull):
                out.send_bytes(topics.METRICS.name, b"x" * 1_000, block_s=0)
            out.flush(30)


def test_positions_are_kept_by_the_reader(stack: RunningStack) -> None:
    kafka = stack.settings.kafka
    with producer(kafka) as out:
        sent = [out.send_bytes(topics.UPDATES.name, b"%d" % n, b"k") for n in range(10)]
        out.flush(60)
        first = sent[0].get(10).offset
        letters = DeadLetters(out)
        reader = consumer(kafka)
        try:
            (partition,) = assign(reader, [topics.UPDATES.name], {(topics.UPDATES.name, 0): first + 7})
            assert lag(reader, {(topics.UPDATES.name, 0): first + 7}) == 3
            values: list[Any] = []
            while len(values) < 3:
                values += [record for records in reader.poll(500).values() for record in records]
            assert [record.value for record in values] == [b"7", b"8", b"9"]
            assert reader.position(partition) == first + 10
            assert letters.send(values[0], Reason.UNREADABLE, "for this test").get(10).topic == "dead-letters"
            assert letters.count == 1
            assign(reader, [topics.UPDATES.name], start="end")
            assert reader.position(partition) == first + 10
            with pytest.raises(BrokerAway):
                partitions_of(reader, "no-such-topic", wait_s=0.5)
        finally:
            reader.close()


def test_an_absent_broker_is_waited_for_and_then_named(tmp_path: Path) -> None:
    nobody = KafkaSettings(bootstrap="127.0.0.1:9")
    with pytest.raises(BrokerAway):
        producer(nobody, wait_s=0.2)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        consumer(nobody, stop=stop)
    with pytest.raises(ValueError, match="bootstrap"):
        producer(KafkaSettings())
