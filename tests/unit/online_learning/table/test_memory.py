"""Memory taken ahead of use: it is there, what a writer has put there meanwhile stays, and none waits for it."""

import ctypes
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from online_learning.table.memory import (
    HUGE_PAGE_BYTES,
    SMALL_PAGE_BYTES,
    WRITER_WORDS,
    WRITTEN,
    cgroup_limits,
    populate,
    reserve,
    take_ahead,
)
from online_learning.table.workers import Workers

WORDS = HUGE_PAGE_BYTES // 8
PAGES = 8
libc = ctypes.CDLL(None)
libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def in_memory(array: NDArray[np.int64]) -> list[float]:
    """The share in memory of each huge page of an array that begins at one."""
    pages = np.zeros(-(-array.nbytes // SMALL_PAGE_BYTES), np.uint8)
    assert libc.mincore(array.ctypes.data, array.nbytes, pages.ctypes.data) == 0
    size = HUGE_PAGE_BYTES // SMALL_PAGE_BYTES
    return [float((pages[start : start + size] & 1).mean()) for start in range(0, len(pages), size)]


def take(array: NDArray[np.int64], near: int, writer: NDArray[np.int64]) -> None:
    """Take all of an array beside a writer of words."""
    take_ahead(array, 0, len(array), 1, near, writer)


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_taken_ahead_is_there_and_holds_what_it_held(threads: int) -> None:
    array = reserve((PAGES + 1) * WORDS, np.int64)
    array[:WORDS:100] = 7
    populate(array, WORDS - 5, PAGES * WORDS - 5, Workers(threads))
    assert in_memory(array) == [1] * PAGES + [0]
    assert np.flatnonzero(array).tolist() == list(range(0, WORDS, 100))


def test_what_a_writer_may_come_to_meanwhile_is_left_to_it() -> None:
    array, writer = reserve(PAGES * WORDS, np.int64), np.zeros(WRITER_WORDS, np.int64)
    writer[WRITTEN] = WORDS + 1
    take(array, WORDS, writer)
    # The first two pages are being written, the third is too near.
    assert in_memory(array) == [0, 0, 0] + [1] * (PAGES - 3)


def test_a_writer_and_what_takes_memory_under_it_do_not_undo_each_other() -> None:
    array = reserve(PAGES * WORDS, np.int64)
    taking = threading.Thread(target=take, args=(array, 0, np.zeros(WRITER_WORDS, np.int64)))
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
    populate(array, 0, 3, Workers(1))
    populate(array, 3, 3, Workers(1))
    take_ahead(array, 3, 3, 1, 0, np.zeros(WRITER_WORDS, np.int64))
    assert not array.any()


def test_memory_ends_where_a_control_group_or_one_above_it_says(tmp_path: Path) -> None:
    for name, limit in (
        ("services/memory.max", "3000"),
        ("services/freshet/memory.max", "max"),
        ("memory/memory.limit_in_bytes", "7000"),
        ("memory/docker/memory.limit_in_bytes", "5000"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(limit + "\n")
    assert cgroup_limits("0::/services/freshet\n", tmp_path) == [3000]
    assert cgroup_limits("4:memory:/docker\n3:cpu:/docker\n", tmp_path) == [5000, 7000]
    # Of a container on a host's group only its own mount is seen.
    assert cgroup_limits("4:cpu,memory:/docker/0f3a:b\n", tmp_path) == [5000, 7000]
    assert cgroup_limits("0::/\n", tmp_path) == []
