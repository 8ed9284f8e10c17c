"""One batch over several cores: kernels release the GIL and take a range, threads take a range each."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Items handed out at a time: some 100 us of work, so that the few us of handing out do not show.
PIECE = 4096


class Workers:
    """Runs `kernel(*arguments, begin, end)` over [0, n) by several threads; results never depend on who does what.

    Plain threads and not numba's own layer: that one cannot be entered from two Python threads at once, nor used
    after a fork. Whoever is free takes the next piece, so that on a busy machine a helper that gets no core holds
    nobody up.
    """

    def __init__(self, threads: int) -> None:
        self._threads = max(1, min(threads, os.cpu_count() or 1))
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0

    def run(self, kernel: Callable[..., Any], items: int, *arguments: Any, piece: int = PIECE) -> None:
        """Returns when all items are done; the calling thread works, too."""
        pieces = -(-items // piece)
        if pieces < 2 or self._threads == 1:
            kernel(*arguments, 0, items)
            return
        numbers = itertools.count()

        def work() -> None:
            while (number := next(numbers)) < pieces:
                kernel(*arguments, number * piece, min(items, (number + 1) * piece))

        pool = self._running_pool()
        helpers = [pool.submit(work) for _ in range(min(self._threads, pieces) - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()

    def _running_pool(self) -> ThreadPoolExecutor:
        # Threads do not survive a fork, the object would.
        if self._pool is None or self._owner != os.getpid():
            self._pool = ThreadPoolExecutor(self._threads - 1, thread_name_prefix="table")
            self._owner = os.getpid()
        return self._pool
