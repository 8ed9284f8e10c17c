"""Several threads share a batch: every item once, from any thread, after a fork, and until the interpreter's end."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from online_learning.table.compiled import kernels_of
from online_learning.table.sharing import SLEEPING
from online_learning.table.workers import Workers

DEADLINE_S = 20
kernel = kernels_of(Path(__file__).parent)


@kernel
def count_range(counts, begin, end):  # type: ignore[no-untyped-def]
    """counts[begin:end] += 1."""
    for i in range(begin, end):
        counts[i] += 1


@kernel
def fail_behind(first, begin, end):  # type: ignore[no-untyped-def]
    """Fails where items from `first` on are in the range."""
    if end > first:
        raise MemoryError


def counted(workers: Workers, items: int, piece: int) -> NDArray[np.int64]:
    """How often each item was done, and two behind the last that must not be."""
    counts = np.zeros(items + 2, np.int64)
    workers.run(count_range, items, counts, piece=piece)
    return counts


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def helpers() -> int:
    """Helping threads alive."""
    return sum(thread.name.startswith("table-") for thread in threading.enumerate())


@pytest.fixture(scope="module")
def two() -> Workers:
    """Workers that help each other, where the machine has two cores."""
    workers = Workers(2)
    if workers.threads < 2:
        pytest.skip("one core")
    return workers


@given(items=st.integers(0, 5_000), piece=st.integers(1, 600))
def test_every_item_is_done_once(two: Workers, items: int, piece: int) -> None:
    assert counted(two, items, piece).tolist() == [1] * items + [0, 0]


def test_many_threads_may_enter_at_once(two: Workers) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: counted(two, 20_000, 16), range(200)))
    assert all(result[:-2].min() == result[:-2].max() == 1 for result in results)


def test_a_failure_in_any_piece_reaches_the_caller_and_leaves_the_helpers_well(two: Workers) -> None:
    for first in (0, 900, 999):
        with pytest.raises(RuntimeError, match="fail_behind failed"):
            two.run(fail_behind, 1_000, first, piece=1)
    assert counted(two, 1_000, 1)[:-2].tolist() == [1] * 1_000


def test_a_child_of_a_fork_has_helpers_of_its_own(two: Workers) -> None:
    counted(two, 5_000, 16)
    child = os.fork()
    if child == 0:
        os._exit(0 if counted(two, 5_000, 16)[:-2].tolist() == [1] * 5_000 and helpers() == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_helpers_end_with_their_workers() -> None:
    before = helpers()
    workers = Workers(2)
    counted(workers, 5_000, 16)
    del workers
    gc.collect()
    until(lambda: helpers() <= before)


@pytest.mark.parametrize("wait", ["pass", "while not words[SLEEPING]: pass"], ids=["awake", "asleep"])
def test_the_interpreter_ends_with_helpers_awake_or_asleep(wait: str) -> None:
    script = f"""
import numpy as np
from online_learning.table.settings import TableSettings
from online_learning.table.sharing import SLEEPING
from online_learning.table.table import Table
table = Table(TableSettings(dim=4, threads=2))
keys = np.arange(1, 50_001, dtype=np.uint64)
table.find_or_insert(keys, np.zeros(len(keys), np.uint16), 0, 1)
table.lookup(keys)
words = table._workers._running_helpers().words
{wait}
print("through")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "through"), done.stderr


def test_helpers_fall_asleep_where_nothing_is_asked_of_them_and_wake_again(two: Workers) -> None:
    for _ in range(3):
        assert counted(two, 5_000, 16)[:-2].tolist() == [1] * 5_000
        words = two._running_helpers().words
        until(lambda: words[SLEEPING] == two.threads - 1)  # noqa: B023
