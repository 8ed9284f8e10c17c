"""Candidates are the exact best of each source, allowed, and each there once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.pipeline.filters import without
from serving.pipeline.sources import first_allowed, highest, members, merge

scores = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(-5, 5, width=32).map(lambda x: round(x, 1)))


@given(scores=scores, data=st.data(), k=st.integers(1, 50))
def test_the_highest_are_the_same_as_by_sorting(scores: np.ndarray, data: st.DataObject, k: int) -> None:
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))), dtype=np.bool_)
    found = highest(scores, allowed, k)
    expected = sorted((-score for score, may in zip(scores.tolist(), allowed, strict=True) if may))[:k]
    assert [-s for s in scores[found].tolist()] == expected
    assert allowed[found].all()
    assert len(set(found.tolist())) == len(found)


def test_a_prepared_order_passes_over_what_is_not_allowed_and_what_is_gone() -> None:
    order = np.array([5, 2, 0, 1])
    assert first_allowed(order, np.array([True, False, True]), 10).tolist() == [2, 0]
    assert first_allowed(order, np.array([True, False, True]), 1).tolist() == [2]


def test_an_item_of_two_sources_belongs_to_the_first() -> None:
    merged = merge([("a", np.array([3, 1])), ("b", np.array([1, 2])), ("empty", np.array([], dtype=np.int64))], 4)
    assert merged.slots.tolist() == [3, 1, 2]
    assert [merged.names[source] for source in merged.source] == ["a", "a", "b"]


def test_no_candidates_are_no_error() -> None:
    assert len(merge([("a", np.array([], dtype=np.int64))], 0).slots) == 0


def test_members_are_found() -> None:
    assert members(np.array([4, 0, 2]), np.array([2, 4]), 5).tolist() == [True, False, True]


def test_named_items_are_left_out() -> None:
    allowed = np.ones(3, dtype=np.bool_)
    assert without(allowed, {"a": 0, "c": 2}, ["c", "unknown"]).tolist() == [True, True, False]
    assert allowed.all(), "the mask that was handed in is not changed"
