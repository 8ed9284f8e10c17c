"""Hash spaces lose the share of ids that they were sized for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_learning.studies.hash_space import expected_loss, hashed, lost, slots_for


@given(st.integers(2, 100_000), st.floats(0.005, 0.95))
def test_the_space_is_the_smallest_that_loses_no_more(ids: int, loss: float) -> None:
    slots = slots_for(ids, loss)
    assert expected_loss(ids, slots) <= loss or slots == 1
    if slots > 1:
        assert expected_loss(ids, slots - 1) > loss


@pytest.mark.parametrize("loss", [0.029, 0.077, 0.25, 0.5])
def test_the_share_that_is_lost_is_the_one_that_was_expected(loss: float) -> None:
    ids = np.arange(20_000) * 7 + 3
    found = [lost(ids, hashed(ids, slots_for(len(ids), loss), seed)) for seed in range(5)]
    assert np.mean(found) == pytest.approx(loss, rel=0.05)
    assert len(set(found)) > 1


def test_repeats_and_missing_ids_do_not_count() -> None:
    ids = np.array([5, 5, 9, -1, 9, -1])
    slots = hashed(ids, 1, seed=0)
    assert slots.tolist() == [0, 0, 0, -1, 0, -1]
    assert lost(ids, slots) == 0.5
    assert lost(ids, ids) == 0.0


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=50), st.integers(1, 1000), st.integers(0, 10))
def test_equal_ids_share_a_slot_of_the_space(ids: list[int], slots: int, seed: int) -> None:
    where = hashed(np.array(ids), slots, seed)
    assert ((where >= 0) & (where < slots)).all()
    assert len(set(zip(ids, where.tolist(), strict=True))) == len(set(ids))


@pytest.mark.parametrize("loss", [0.0, 1.0, -0.1])
def test_a_share_outside_of_nothing_and_all_is_refused(loss: float) -> None:
    with pytest.raises(ValueError, match="`loss` == "):
        slots_for(10, loss)
