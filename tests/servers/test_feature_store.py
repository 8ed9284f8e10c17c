"""The Feast store on a real Redis: what is written is read, newest wins, nothing of a deleted row is left."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from msgspec.structs import replace

from features.history import History
from features.online import StoreAway, UserFeatures
from features.settings import FeatureSettings
from features.store import open_published, open_store
from features.writer import OnlineWriter
from streams.records import FeatureRow

pytestmark = pytest.mark.servers

NOW_MS = int(time.time() * 1000)
STATS = {
    "impressions_1h": 1.5,
    "actions_1h": 2.0,
    "impressions_1d": 3.0,
    "actions_1d": 4.0,
    "rating_mean": None,
    "rating_count": 0.0,
    "last_action_ts": NOW_MS,
    "recent_items": ["a", "b"],
}


def stats(user: str, version: int, ts: int = NOW_MS, **values: Any) -> FeatureRow:
    return FeatureRow(1, "user_stats", {"user": user}, {**STATS, **values}, version, ts, ts + 5)


def profile(user: str, attributes: str) -> FeatureRow:
    return FeatureRow(1, "user_profile", {"user": user}, {"attributes": attributes}, 1, NOW_MS, NOW_MS)


def changes(*rows: FeatureRow) -> dict[tuple[str, ...], FeatureRow | None]:
    return {(row.view, *row.entities.values()): row for row in rows}


@pytest.fixture(scope="module")
def settings(redis: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureSettings:
    return FeatureSettings(
        redis=redis, repo_dir=str(tmp_path_factory.mktemp("features")), project="store", redis_timeout_ms=2_000.0
    )


@pytest.fixture(scope="module")
def writer(settings: FeatureSettings) -> OnlineWriter:
    return OnlineWriter(open_store(settings))


@pytest.fixture(scope="module")
def reader(settings: FeatureSettings) -> UserFeatures:
    return UserFeatures(settings)


@pytest.fixture
def users(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.node.name


def test_a_row_is_read_as_it_was_written(writer: OnlineWriter, reader: UserFeatures, users: str) -> None:
    assert writer.apply(changes(stats(users, 3), profile(users, '{"segment": "s1"}'))) == 2
    row = reader.read(users)
    assert row is not None and row.stats is not None
    assert row.stats.values == STATS
    assert (row.stats.view, row.stats.version, row.stats.available_at) == ("user_stats", 3, NOW_MS + 5)
    assert row.attributes == {"segment": "s1"}


def test_an_unknown_user_is_none_and_half_of_a_user_is_that_half(
    writer: OnlineWriter, reader: UserFeatures, users: str
) -> None:
    assert reader.read(users) is None
    writer.apply(changes(profile(users, '{"age": "18-24"}')))
    row = reader.read(users)
    assert row is not None
    assert row.stats is None
    assert row.attributes == {"age": "18-24"}


def test_an_older_version_never_replaces_a_newer_one(
    settings: FeatureSettings, writer: OnlineWriter, reader: UserFeatures, users: str
) -> None:
    writer.apply(changes(stats(users, 5, actions_1h=5.0)))
    # A pusher that starts again knows only what is in the store.
    for pusher in (writer, OnlineWriter(open_store(settings))):
        assert pusher.apply(changes(stats(users, 4, actions_1h=4.0))) == 0
        assert pusher.apply(changes(stats(users, 5, actions_1h=5.0))) == 0
    row = reader.read(users)
    assert row is not None and row.stats is not None
    assert row.stats.values["actions_1h"] == 5.0


def test_a_newer_version_of_the_same_moment_counts(writer: OnlineWriter, reader: UserFeatures, users: str) -> None:
    writer.apply(changes(stats(users, 1)))
    writer.apply(changes(stats(users, 2, actions_1h=9.0)))
    row = reader.read(users)
    assert row is not None and row.stats is not None
    assert row.stats.values["actions_1h"] == 9.0


def test_a_deleted_row_is_gone_and_may_begin_anew(writer: OnlineWriter, reader: UserFeatures, users: str) -> None:
    writer.apply(changes(stats(users, 9), profile(users, "{}")))
    writer.apply({("user_stats", users): None})
    row = reader.read(users)
    assert row is not None and row.stats is None
    writer.apply({("user_profile", users): None})
    assert reader.read(users) is None
    writer.apply(changes(stats(users, 1)))
    row = reader.read(users)
    assert row is not None and row.stats is not None


def test_rows_older_than_their_ttl_read_as_unknown(settings: FeatureSettings, writer: OnlineWriter, users: str) -> None:
    writer.apply(changes(stats(users, 1, ts=NOW_MS - 3 * 3_600_000)))
    assert UserFeatures(settings).read(users) is not None
    assert UserFeatures(replace(settings, user_ttl_hours=2.0)).read(users) is None


def test_a_store_that_is_away_is_said_at_once(settings: FeatureSettings, tmp_path: Path) -> None:
    # Port 1 is nobody's.
    away = UserFeatures(replace(settings, redis="127.0.0.1:1", repo_dir=str(tmp_path)))
    for _ in range(2):
        with pytest.raises(StoreAway):
            away.read("u")


def test_many_readers_may_open_the_store_while_the_pusher_does(settings: FeatureSettings) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda k: open_store(settings, publish=k == 0), range(4)))
    views = [{view.name for view in store.list_feature_views(allow_cache=True)} for store in opened]
    assert views == [{"user_stats", "item_stats", "user_profile"}] * 4


def test_history_is_correct_at_every_point_in_time(settings: FeatureSettings, tmp_path: Path) -> None:
    own = replace(settings, repo_dir=str(tmp_path))
    history = History(tmp_path, "features")
    hour_ms = 3_600_000
    began = NOW_MS - 10 * hour_ms
    history.write(0, 0, 1, [stats("u", 1, began, actions_1h=1.0), stats("other", 1, began, actions_1h=100.0)])
    history.write(0, 2, 4, [stats("u", 2, began + 2 * hour_ms, actions_1h=2.0)])
    history.write(1, 0, 9, [stats("u", 3, began + 4 * hour_ms, actions_1h=3.0)])
    asked = pd.DataFrame(
        {
            "user": ["u"] * 5 + ["nobody"],
            "event_timestamp": pd.to_datetime(
                [began + k * hour_ms for k in (-1, 0, 1, 3, 9)] + [NOW_MS], unit="ms", utc=True
            ),
        }
    )
    open_store(own, publish=True)
    store = open_published(own)
    read = store.get_historical_features(asked, ["user_stats:actions_1h", "user_stats:recent_items"]).to_df()
    # Where there is nothing yet, Feast's file store leaves the row out or null.
    known = read.dropna(subset=["actions_1h"]).sort_values("event_timestamp")
    hours = (known["event_timestamp"] - pd.Timestamp(began, unit="ms", tz="UTC")) / pd.Timedelta(hours=1)
    assert dict(zip(hours, known["actions_1h"], strict=True)) == {0.0: 1.0, 1.0: 1.0, 3.0: 2.0, 9.0: 3.0}
    assert known["recent_items"].map(list).tolist() == [["a", "b"]] * 4
    assert history.erase([("user_stats", "u")]) == 3
    read = store.get_historical_features(asked, ["user_stats:actions_1h"]).to_df()
    assert read["actions_1h"].isna().all()
