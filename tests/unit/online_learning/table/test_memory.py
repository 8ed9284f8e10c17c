"""Memory taken ahead of use: it is there, and what a writer has put there meanwhile stays."""

import resource
import threading

import numpy as np
import pytest

from online_learning.table.memory import HUGE_PAGE_BYTES, SMALL_PAGE_BYTES, populate, reserve
from online_learning.table.workers import Workers

WORDS = HUGE_PAGE_BYTES // 8
PAGES = 8


@pytest.mark.parametrize("workers", [None, Workers(2)])
def test_memory_taken_ahead_is_there_and_holds_what_it_held(workers: Workers | None) -> None:
    array = reserve(PAGES * WORDS + 3, np.int64)
    array[:WORDS:100] = 7
    populate(array, 5, PAGES * WORDS, workers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array[: PAGES * WORDS : 64] += 1
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < PAGES * HUGE_PAGE_BYTES // SMALL_PAGE_BYTES // 10
    assert np.flatnonzero(array > 1).tolist() == list(range(0, WORDS, 100))


def test_a_writer_and_what_takes_memory_under_it_do_not_undo_each_other() -> None:
    array = reserve(PAGES * WORDS, np.int64)
    taking = threading.Thread(target=populate, args=(array, 0, len(array)))
    taking.start()
    rounds = 0
    while rounds == 0 or taking.is_alive():
        # The very words that are touched.
        array[:: SMALL_PAGE_BYTES // 8] += 1
        rounds += 1
    taking.join()
    assert (array[:: SMALL_PAGE_BYTES // 8] == rounds).all()


def test_nothing_is_taken_behind_the_end_or_of_nothing() -> None:
    array = reserve(3, np.int64)
    populate(array, 0, 3)
    populate(array, 3, 3)
    assert not array.any()
