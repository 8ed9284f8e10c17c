"""The stream of items: drawn from as it is, corrected for as it is drawn from, and the same again from a checkpoint."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_learning.sampling.item_stream import ItemStream

ITEMS = st.lists(st.sampled_from([f"i{k}" for k in range(12)]), max_size=60)


@given(ITEMS, st.integers(1, 20))
def test_probabilities_are_the_shares_of_the_newest_items(items: list[str], window: int):
    stream = ItemStream(window, seed=0)
    for start in range(0, len(items), 7):
        stream.add(items[start : start + 7])
    newest = Counter(items[-window:])
    assert len(stream) == newest.total()
    names = list(newest)
    expected = [np.log(newest[name] / newest.total()) for name in names]
    assert stream.log_probabilities(names) == pytest.approx(expected, abs=1e-6)


def test_draws_follow_the_probabilities():
    stream = ItemStream(100, seed=1)
    stream.add(["often"] * 70 + ["seldom"] * 25 + ["once"] * 5)
    found = Counter(stream.draw(20_000))
    for name, share in (("often", 0.7), ("seldom", 0.25), ("once", 0.05)):
        # Five standard deviations of a binomial.
        assert abs(found[name] / 20_000 - share) < 5 * np.sqrt(share * (1 - share) / 20_000)


def test_what_has_left_the_window_is_drawn_no_more():
    stream = ItemStream(10, seed=0)
    stream.add(["old"] * 10)
    stream.add([f"new{k}" for k in range(10)])
    assert "old" not in stream.draw(1_000)
    # It counts as seen once, so that its correction stays finite.
    assert stream.log_probabilities(["old"]) == pytest.approx([np.log(0.1)])


def test_before_the_first_item_nothing_is_drawn():
    assert ItemStream(10, seed=0).draw(5) == []


@given(ITEMS.filter(bool), ITEMS, st.integers(1, 20))
def test_a_restored_stream_goes_on_as_the_kept_one(before: list[str], after: list[str], window: int):
    kept = ItemStream(window, seed=3)
    kept.add(before)
    kept.draw(4)
    restored = ItemStream(window, seed=3)
    restored.restore(kept.state())
    for stream in (kept, restored):
        stream.add(after)
    assert restored.draw(30) == kept.draw(30)
    assert restored.state() == kept.state()


@given(ITEMS.filter(bool), st.integers(1, 20), st.integers(1, 20))
def test_another_window_keeps_the_newest(items: list[str], window: int, other: int):
    kept = ItemStream(window, seed=0)
    kept.add(items)
    restored = ItemStream(other, seed=0)
    restored.restore(kept.state())
    newest = Counter(items[-window:][-other:])
    names = list(newest)
    expected = [np.log(newest[name] / newest.total()) for name in names]
    assert restored.log_probabilities(names) == pytest.approx(expected, abs=1e-6)
    restored.add(["x"] * other)
    assert set(restored.draw(50)) == {"x"}


def test_no_draw_is_drawn_twice():
    stream = ItemStream(1_000, seed=0)
    stream.add([f"i{k}" for k in range(1_000)])
    assert stream.draw(20) != stream.draw(20)
