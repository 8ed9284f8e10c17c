"""Decayed counts do not depend on the order of additions, and rows say what the views promise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from streams.aggregates import RECENT_ITEMS, ItemStats, UserStats, feature_key
from streams.decay import DAY_MS, HOUR_MS, added, decayed
from streams.records import Action

T0 = 1_700_000_000_000
moments = st.lists(st.tuples(st.integers(T0, T0 + 3 * DAY_MS), st.floats(0, 10)), min_size=1, max_size=20)


def action(ts: int, item: str = "i", kind: str = "click", value: float | None = None) -> Action:
    return Action(ts=ts, user="u", item=item, kind=kind, value=value, event_id=f"{ts}{item}", received_at=ts)


@given(moments, st.randoms(use_true_random=False))
def test_the_order_of_additions_does_not_matter(additions: list[tuple[int, float]], chance: object) -> None:
    shuffled = list(additions)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    value, at = 0.0, 0
    for ts, weight in shuffled:
        value, at = added(value, at, weight, ts, HOUR_MS), max(at, ts)
    exact = math.fsum(weight * 0.5 ** ((at - ts) / HOUR_MS) for ts, weight in additions)
    assert value == pytest.approx(exact, rel=1e-9, abs=1e-12)


@given(st.floats(0, 1e6), st.integers(0, 10 * DAY_MS), st.integers(0, 10 * DAY_MS))
def test_decaying_twice_is_decaying_once(value: float, a: int, b: int) -> None:
    assert decayed(decayed(value, a, DAY_MS), b, DAY_MS) == pytest.approx(decayed(value, a + b, DAY_MS), rel=1e-9)


def test_a_user_row_holds_what_the_view_promises() -> None:
    stats = UserStats()
    stats.add_impressions(10, T0)
    stats.add_action(action(T0 + HOUR_MS, "a", "rating", 4.0))
    stats.add_action(action(T0 + HOUR_MS, "b", "rating", 2.0))
    row = stats.row("u", T0 + HOUR_MS + 5)
    assert (row.view, row.entities, row.ts, row.available_at) == (
        "user_stats",
        {"user": "u"},
        T0 + HOUR_MS,
        T0 + HOUR_MS + 5,
    )
    values = dict(row.values)
    assert values.pop("recent_items") == ["b", "a"]
    assert values == pytest.approx(
        {
            "impressions_1h": 5.0,
            "actions_1h": 2.0,
            "impressions_1d": 10 * 0.5 ** (1 / 24),
            "actions_1d": 2.0,
            "rating_mean": 3.0,
            "rating_count": 2.0,
            "last_action_ts": T0 + HOUR_MS,
        }
    )


def test_recent_items_are_distinct_newest_first_and_bounded() -> None:
    stats = UserStats()
    for k in range(50):
        stats.add_action(action(T0 + k, f"i{k % 30}"))
    recent = stats.values(T0)["recent_items"]
    assert recent == [f"i{k % 30}" for k in range(49, 49 - RECENT_ITEMS, -1)]
    stats.add_action(action(T0 - 1, "late"))
    assert stats.values(T0)["recent_items"] == recent


def test_an_action_from_the_future_counts_when_it_was_taken_and_stops_nothing() -> None:
    stats = UserStats()
    stats.add_action(action(T0, "old"))
    stats.add_action(replace(action(T0 + HOUR_MS, "ahead"), received_at=T0 + 1_000))
    stats.add_action(action(T0 + 2_000, "new"))
    row = stats.row("u", T0 + 2_000)
    assert (row.ts, row.values["last_action_ts"], row.values["recent_items"]) == (
        T0 + 2_000,
        T0 + 2_000,
        ["new", "ahead", "old"],
    )
    assert row.values["actions_1h"] == pytest.approx(3.0, rel=1e-2)


def test_item_counts_of_two_arms_add_up() -> None:
    one, other, both = ItemStats(), ItemStats(), ItemStats()
    for k in range(20):
        for stats in (one if k % 3 else other, both):
            stats.add(T0 + k * 60_000, impressions=3, positives=k % 2, rating=4.0 if k % 5 == 0 else None)
    for name in ("impressions_1h", "positives_1h"):
        summed = sum(decayed(getattr(part, name), both.at - part.at, HOUR_MS) for part in (one, other))
        assert summed == pytest.approx(getattr(both, name))
    assert (both.rating_sum, both.rating_count) == (16.0, 4)
    assert both.row("i", "online", T0).entities == {"item": "i", "arm": "online"}


def test_the_key_of_a_row_names_view_and_entities() -> None:
    assert feature_key("item_stats", {"item": "i1", "arm": ""}) == "item_stats|i1|"
