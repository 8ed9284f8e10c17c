"""The offline history on disk: parts named by their stretch of the log, never half written, forgotten on demand."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.history import History
from features.positions import Position, Positions
from streams.records import FeatureRow


def profile(user: str, version: int) -> FeatureRow:
    return FeatureRow(1, "user_profile", {"user": user}, {"attributes": "{}"}, version, 1_000 + version, 2_000)


def rows(repo: Path) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for part in (repo / "history" / "user_profile").glob("*.parquet"):
        columns = pq.read_table(part).to_pydict()
        found += zip(columns["user"], columns["version"], strict=True)
    return sorted(found)


def test_parts_behind_a_position_stay_and_later_ones_of_that_partition_go(tmp_path: Path) -> None:
    history = History(tmp_path, "features")
    history.write(0, 0, 9, [profile("a", 1)])
    history.write(0, 10, 19, [profile("b", 1)])
    history.write(1, 0, 9, [profile("c", 1)])
    history.forget_after(0, 10)
    assert rows(tmp_path) == [("a", 1), ("c", 1)]


def test_a_stretch_written_again_is_there_once(tmp_path: Path) -> None:
    history = History(tmp_path, "features")
    for _ in range(2):
        history.write(0, 0, 9, [profile("a", 1), profile("a", 2)])
    assert rows(tmp_path) == [("a", 1), ("a", 2)]
    assert [part.name for part in (tmp_path / "history" / "user_profile").iterdir()] == ["features-0-0-9.parquet"]


@given(
    parts=st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), max_size=4),
    gone=st.sets(st.sampled_from("abcd")),
)
@settings(max_examples=25)
def test_erasing_users_leaves_exactly_the_others(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]], gone: set[str]
) -> None:
    repo = tmp_path_factory.mktemp("history")
    history = History(repo, "features")
    for k, users in enumerate(parts):
        history.write(0, k, k, [profile(user, k) for user in users])
    everyone = [(user, k) for k, users in enumerate(parts) for user in users]
    assert history.erase([("user_profile", user) for user in sorted(gone)]) == sum(u in gone for u, _ in everyone)
    assert rows(repo) == sorted((user, k) for user, k in everyone if user not in gone)


def test_positions_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "positions.json"
    Positions(path).save({0: Position(online=5, history=3)})
    again = Positions(path)
    assert again[0] == Position(online=5, history=3)
    assert again[1] == Position()
    again.save({1: Position(online=1, history=1)})
    assert Positions(path)[0] == Position(online=5, history=3)
