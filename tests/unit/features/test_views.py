"""What a row of each feature view may hold, and how its key names it."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.history import History
from features.rows import written
from features.views import (
    ITEM_STATS,
    USER_PROFILE,
    USER_STATS,
    VIEWS,
    Kind,
    UnknownRow,
    check_row,
    check_values,
    parse_key,
)
from streams.records import FeatureRow

NAME = st.text(min_size=1)


@given(user=NAME)
def test_a_user_key_is_read_back_whatever_the_user_is_called(user: str) -> None:
    for view in (USER_STATS, USER_PROFILE):
        assert parse_key(f"{view.name}|{user}") == (view, {"user": user})


@given(item=NAME, arm=st.text(st.characters(exclude_characters="|")))
def test_an_item_key_is_read_back_whatever_the_item_is_called(item: str, arm: str) -> None:
    assert parse_key(f"item_stats|{item}|{arm}") == (ITEM_STATS, {"item": item, "arm": arm})


@pytest.mark.parametrize("key", ["", "user_stats_|u", "item_stats|only-an-item"])
def test_another_key_is_refused_with_what_it_must_be(key: str) -> None:
    with pytest.raises(UnknownRow, match="must be"):
        parse_key(key)


@pytest.mark.parametrize("view", VIEWS.values(), ids=str)
def test_every_column_takes_its_kind_or_null_and_may_be_missing(view: Any) -> None:
    good = {Kind.FLOAT: 1.5, Kind.INT: 3, Kind.TEXT: "x", Kind.TEXTS: ["a", "b"]}
    bad = {Kind.FLOAT: "1.5", Kind.INT: 1.5, Kind.TEXT: 1, Kind.TEXTS: [1]}
    check_values(view, {})
    check_values(view, dict.fromkeys(view.columns))
    check_values(view, {name: good[kind] for name, kind in view.columns.items()})
    for name, kind in view.columns.items():
        with pytest.raises(UnknownRow, match=name):
            check_values(view, {name: bad[kind]})


@given(st.integers() | st.floats() | st.booleans())
def test_what_is_taken_can_be_written_and_what_cannot_is_refused(
    tmp_path_factory: pytest.TempPathFactory, number: Any
) -> None:
    """A row that the store or the history could not take would end the pusher at every start."""
    for column in ("rating_count", "last_action_ts"):
        row = FeatureRow(1, "user_stats", {"user": "u"}, {column: number}, 1, 0, 0)
        try:
            check_row(row)
        except UnknownRow:
            continue
        written(USER_STATS, row)
        History(tmp_path_factory.getbasetemp(), "features").write(0, 0, 0, [row])


@given(st.integers())
def test_a_time_that_is_taken_can_be_written(at_ms: int) -> None:
    for row in (
        FeatureRow(1, "user_profile", {"user": "u"}, {}, 1, at_ms, 0),
        FeatureRow(1, "user_profile", {"user": "u"}, {}, 1, 0, at_ms),
    ):
        try:
            check_row(row)
        except UnknownRow:
            assert not 0 <= at_ms < 9_000_000_000_000
            continue
        written(USER_PROFILE, row)
        assert pd.Timestamp(row.ts, unit="ms").value == row.ts * 1_000_000


@pytest.mark.parametrize("ts", [1_785_000_000_000_000, 1_785_000_000_000_000_000, -1])
def test_a_time_in_other_units_is_refused_with_what_it_must_be(ts: int) -> None:
    with pytest.raises(UnknownRow, match=r"`user_profile\.ts` == .*, must be ms since 1970"):
        check_row(FeatureRow(1, "user_profile", {"user": "u"}, {}, 1, ts, 0))


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(UnknownRow, match="colour"):
        check_values(USER_STATS, {"colour": 1.0})
