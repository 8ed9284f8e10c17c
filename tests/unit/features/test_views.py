"""What a row of each feature view may hold, and how its key names it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.views import ITEM_STATS, USER_PROFILE, USER_STATS, VIEWS, Kind, UnknownRow, check_values, parse_key

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


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(UnknownRow, match="colour"):
        check_values(USER_STATS, {"colour": 1.0})
