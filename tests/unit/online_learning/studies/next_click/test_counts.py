"""What the counts promise: the decayed counts of streams.decay, the most clicked exactly, bounded transitions."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from online_learning.studies.next_click.candidates import CONTEXT, FEATURES, NEXT_OF_LAST, SCALE, candidates_of
from online_learning.studies.next_click.counts import (
    CLICK_HALF_LIVES_MS,
    NEXT_HALF_LIVES_MS,
    Counts,
    grown,
    new_counts,
    note_click,
)
from online_learning.studies.next_click.forward_decay import NEVER, note_pair, raised
from streams.decay import DAY_MS, HOUR_MS, added, decayed

EVENTS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=4, unique=True), st.integers(0, 3 * HOUR_MS)),
    min_size=1,
    max_size=40,
)


def counted(events: list[tuple[int, list[int], int]], top_kept: int = 4) -> tuple[Counts, int]:
    """Counts of clicks (article, prefix, ms since the one before), and the time of the last one."""
    counts, now_ms = new_counts(10, next_kept=6, pairs_kept=6, top_kept=top_kept), 1_500_000_000_000
    for article, prefix, later_ms in events:
        now_ms += later_ms
        note_click(counts, article, np.array([one for one in prefix if one != article], np.int64), now_ms)
    return counts, now_ms


@given(st.lists(st.integers(0, 5 * HOUR_MS), min_size=1, max_size=30), st.integers(0, DAY_MS))
def test_a_level_is_the_decayed_count(gaps_ms: list[int], later_ms: int) -> None:
    level, count, now_ms = NEVER, 0.0, 1_500_000_000_000
    for gap_ms in gaps_ms:
        count = added(count, now_ms, 1.0, now_ms + gap_ms, HOUR_MS)
        now_ms += gap_ms
        level = raised(level, now_ms / HOUR_MS)
    told = math.pow(2.0, level - (now_ms + later_ms) / HOUR_MS)
    assert math.isclose(told, decayed(count, later_ms, HOUR_MS), rel_tol=1e-6)


@given(EVENTS)
def test_the_most_clicked_are_kept_exactly(events: list[tuple[int, list[int], int]]) -> None:
    counts, _ = counted(events)
    for h in range(len(CLICK_HALF_LIVES_MS)):
        levels = counts.follows[:, h]
        held = [one for one in counts.top[h].tolist() if one >= 0]
        there = int((levels > NEVER).sum())
        assert len(held) == len(set(held)) == min(there, 4)
        assert np.allclose(levels[held], np.sort(levels[levels > NEVER])[::-1][:4])


def test_a_full_list_lets_go_what_is_least() -> None:
    ids, levels, totals = np.full((1, 2), -1, np.int32), np.full((1, 2, 1), NEVER), np.full((1, 1), NEVER)
    for target, at in ((5, 1.0), (5, 1.5), (6, 1.0), (7, 2.0)):
        note_pair(ids, levels, totals, 0, target, np.array([at]), 0.0)
    assert ids[0].tolist() == [5, 7]
    assert levels[0, 1, 0] == 2.0
    assert math.isclose(totals[0, 0], math.log2(2 + 2**1.5 + 2 + 4))


def test_growing_changes_nothing_that_was_counted() -> None:
    counts, _ = counted([(1, [], 0), (2, [1], 5), (3, [1, 2], 5)])
    larger = grown(counts, 25)
    for old, new in zip(counts, larger, strict=True):
        assert (new[: len(old)] == old).all()
    assert (larger.next_ids[10:] == -1).all()


@given(EVENTS, st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), st.integers(0, 30 * HOUR_MS))
def test_candidates_are_active_distinct_and_not_in_the_session(
    events: list[tuple[int, list[int], int]], session: list[int], later_ms: int
) -> None:
    counts, now_ms = counted(events)
    where, out, features = np.full(10, -1, np.int32), np.zeros(8, np.int64), np.ones((8, FEATURES), np.float32)
    now_ms += later_ms
    found = candidates_of(counts, np.array(session), np.array([3, 4]), now_ms, where, out, features)
    told = out[:found].tolist()
    assert len(set(told)) == found <= 8
    assert not set(told) & set(session)
    assert all(counts.last_ms[one] >= now_ms - DAY_MS for one in told)
    assert (where == -1).all()
    assert np.isfinite(features[:found]).all()
    assert (features[:found, CONTEXT:] == features[:1, CONTEXT:]).all() or not found


def test_what_followed_the_last_click_is_told_of_a_candidate() -> None:
    counts, now_ms = counted([(1, [], 0), (2, [1], 1000), (3, [], 1000)])
    where, out, features = np.full(10, -1, np.int32), np.zeros(8, np.int64), np.ones((8, FEATURES), np.float32)
    found = candidates_of(counts, np.array([1]), np.empty(0, np.int64), now_ms, where, out, features)
    assert out[:found].tolist() == [2]
    expected = [SCALE * (6.0 - 1000 / half_life_ms) for half_life_ms in NEXT_HALF_LIVES_MS]
    assert np.allclose(features[0, NEXT_OF_LAST : NEXT_OF_LAST + 3], expected)
