"""Slots are drawn with the probabilities that are logged."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pipeline.exploration import draw_slots, pool_of

sizes = st.integers(1, 30)


@given(pool=sizes, n=st.integers(0, 40), explore=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_every_slot_holds_another_item_of_the_pool(pool: int, n: int, explore: float, seed: int) -> None:
    ranks = [draw.rank for draw in draw_slots(pool, n, explore, np.random.default_rng(seed))]
    assert len(ranks) == min(n, pool) == len(set(ranks))
    assert all(0 <= rank < pool for rank in ranks)


@given(pool=sizes, n=sizes, seed=st.integers(0, 2**32))
def test_without_exploration_the_order_is_the_ranking_and_certain(pool: int, n: int, seed: int) -> None:
    draws = draw_slots(pool, n, 0.0, np.random.default_rng(seed))
    assert [draw.rank for draw in draws] == list(range(min(n, pool)))
    assert all(draw.propensity == 1.0 and not draw.explored for draw in draws)


@given(pool=sizes, n=sizes, explore=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_the_propensities_of_what_remains_sum_to_one(pool: int, n: int, explore: float, seed: int) -> None:
    draws = draw_slots(pool, n, explore, np.random.default_rng(seed))
    remaining = list(range(pool))
    for draw in draws:
        best = explore / len(remaining) + (1 - explore)
        other = explore / len(remaining)
        assert draw.propensity == pytest.approx(best if draw.rank == remaining[0] else other)
        assert best + other * (len(remaining) - 1) == pytest.approx(1.0)
        remaining.remove(draw.rank)


@pytest.mark.parametrize("explore", [0.0, 0.2, 1.0])
def test_answers_are_as_frequent_as_their_propensities_say(explore: float) -> None:
    pool, n, draws = 4, 3, 40_000
    rng = np.random.default_rng(7)
    seen: Counter[tuple[int, ...]] = Counter()
    logged: dict[tuple[int, ...], float] = {}
    for _ in range(draws):
        slots = draw_slots(pool, n, explore, rng)
        answer = tuple(slot.rank for slot in slots)
        seen[answer] += 1
        logged[answer] = float(np.prod([slot.propensity for slot in slots]))
    for answer in itertools.permutations(range(pool), n):
        p = logged.get(answer, 0.0)
        # Five standard deviations of a binomial share: none of the 24 x 3 answers should ever fail by chance.
        assert seen[answer] / draws == pytest.approx(p, abs=5 * (p * (1 - p) / draws) ** 0.5 + 1e-12)
    assert sum(logged.values()) == pytest.approx(1.0)


@given(cold=st.lists(st.booleans(), max_size=60), n=sizes, size=sizes)
def test_the_pool_keeps_the_best_and_lets_cold_items_in(cold: list[bool], n: int, size: int) -> None:
    pool = pool_of(np.array(cold, dtype=np.bool_), n, size)
    count = min(len(cold), max(n, size))
    assert len(pool) == count
    assert pool.tolist() == sorted(set(pool.tolist()))
    best = max(min(n, count), count - count // 2)
    assert pool[:best].tolist() == list(range(best))
    further = [rank for rank in range(best, len(cold)) if cold[rank]]
    assert set(further[: count - best]) <= set(pool.tolist())
