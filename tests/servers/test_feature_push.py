"""The pusher on a real Kafka and a real Redis: nothing lost, nothing twice, also after an end in mid-way."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from features import push
from features.online import UserFeatures, UserRow
from features.settings import FeatureSettings
from streams.kafka import producer
from streams.records import FeatureRow
from streams.topics import FEATURES
from tests.feature_history import user_history
from tests.stacks import RunningStack, wait_until
from tests.threads import in_thread

pytestmark = pytest.mark.servers


@pytest.fixture
def settings(fresh_kafka: RunningStack, redis: str, tmp_path: Path) -> FeatureSettings:
    return FeatureSettings(
        kafka=fresh_kafka.settings.kafka,
        redis=redis,
        repo_dir=str(tmp_path / "repo"),
        project=tmp_path.name,
        history_interval_s=0.3,
        redis_timeout_ms=2_000.0,
    )


def send(settings: FeatureSettings, *rows: FeatureRow) -> None:
    with producer(settings.kafka) as out:
        for row in rows:
            out.send(FEATURES, row, "|".join((row.view, *row.entities.values())))
        out.flush(30.0)


def delete(settings: FeatureSettings, key: str) -> None:
    with producer(settings.kafka) as out:
        out.send(FEATURES, None, key)
        out.flush(30.0)


def row(user: str, version: int) -> FeatureRow:
    now_ms = time.time_ns() // 1_000_000
    return FeatureRow(1, "user_stats", {"user": user}, {"actions_1h": float(version)}, version, now_ms, now_ms)


def reads(reader: UserFeatures, user: str, version: int | None) -> Callable[[], bool]:
    def read() -> bool:
        found: UserRow | None = reader.read(user)
        if version is None:
            return found is None
        return found is not None and found.stats is not None and found.stats.version == version

    return read


def test_rows_reach_the_online_store_and_the_history_once_across_restarts(settings: FeatureSettings) -> None:
    send(settings, *(row(f"u{k}", 1) for k in range(50)))
    reader = UserFeatures(settings)
    with in_thread(push.run, settings):
        wait_until(reads(reader, "u49", 1), 60, "the last row is online")
        send(settings, row("u0", 2), row("u0", 3))
        wait_until(reads(reader, "u0", 3), 60, "the newest version is online")
    send(settings, row("u1", 2))
    with in_thread(push.run, settings):
        wait_until(reads(reader, "u1", 2), 60, "what came in between is online")
    assert user_history(settings.repo_dir) == sorted(
        [(f"u{k}", 1) for k in range(50)] + [("u0", 2), ("u0", 3), ("u1", 2)]
    )


def test_a_part_whose_position_was_not_stored_is_written_anew(settings: FeatureSettings) -> None:
    send(settings, *(row(f"u{k}", 1) for k in range(20)))
    with in_thread(push.run, settings):
        wait_until(lambda: len(user_history(settings.repo_dir)) == 20, 60, "the history is written")
    # As after a kill between a part's rename and the position's.
    positions = Path(settings.repo_dir) / "positions.json"
    positions.write_text('{"0":{"online":3,"history":0},"1":{"online":0,"history":0}}')
    send(settings, row("u0", 2))
    with in_thread(push.run, settings):
        wait_until(lambda: ("u0", 2) in user_history(settings.repo_dir), 60, "the history goes on")
    assert user_history(settings.repo_dir) == sorted([(f"u{k}", 1) for k in range(20)] + [("u0", 2)])


def test_a_tombstone_erases_the_row_online_and_in_the_history_and_what_follows_stays(
    settings: FeatureSettings,
) -> None:
    send(settings, row("u", 1), row("u", 2), row("v", 1))
    reader = UserFeatures(settings)
    with in_thread(push.run, settings):
        wait_until(lambda: len(user_history(settings.repo_dir)) == 3, 60, "the history is written")
        delete(settings, "user_stats|u")
        wait_until(reads(reader, "u", None), 60, "the row is gone")
        wait_until(lambda: user_history(settings.repo_dir) == [("v", 1)], 60, "the history forgets the user")
        delete(settings, "user_stats|v")
        send(settings, row("v", 1))
        wait_until(reads(reader, "v", 1), 60, "the row is back")
    assert user_history(settings.repo_dir) == [("v", 1)]


def test_rows_that_fit_no_view_are_counted_and_passed_over(settings: FeatureSettings) -> None:
    good = row("u", 1)
    bad = [
        replace(good, view="nothing"),
        replace(good, values={"unknown": 1.0}),
        replace(good, values={"actions_1h": "many"}),
        replace(good, entities={"item": "u"}),
        # Microseconds: whoever writes users says their time.
        replace(good, ts=good.ts * 1_000),
    ]
    with producer(settings.kafka) as out:
        for k, record in enumerate(bad):
            out.send(FEATURES, record, f"user_stats|bad{k}")
        out.send_bytes(FEATURES.name, b"\xff\x00", b"user_stats|bytes")
        out.send_bytes(FEATURES.name, None, b"nothing|u")
        out.flush(30.0)
    send(settings, good)
    reader = UserFeatures(settings)
    with in_thread(push.run, settings) as health:
        wait_until(reads(reader, "u", 1), 60, "the good row is online")
        wait_until(lambda: health.values.get("unreadable") == 7, 60, "the others are counted")
