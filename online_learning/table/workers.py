"""One batch over several cores: kernels release the GIL and take a range, threads take a range each."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Below this many items a thread costs more (some 40 us to hand over) than it saves.
SMALLEST_SHARE = 8192


class Workers:
    """Runs `kernel(*arguments, begin, end)` over [0, n), in `threads` shares; results never depend on the shares.

    Plain threads and not numba's own layer: that one cannot be entered from two Python threads at once, nor used
    after a fork.
    """

    def __init__(self, threads: int) -> None:
        self._threads = max(1, min(threads, os.cpu_count() or 1))
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0

    def run(self, kernel: Callable[..., Any], items: int, *arguments: Any, smallest: int = SMALLEST_SHARE) -> None:
        """Returns when every share is done; the first share runs on the calling thread."""
        shares = min(self._threads, max(1, items // smallest))
        if shares == 1:
            kernel(*arguments, 0, items)
            return
        bounds = [items * share // shares for share in range(shares + 1)]
        pool = self._running_pool()
        pending = [pool.submit(kernel, *arguments, bounds[i], bounds[i + 1]) for i in range(1, shares)]
        kernel(*arguments, bounds[0], bounds[1])
        for share in pending:
            share.result()

    def _running_pool(self) -> ThreadPoolExecutor:
        # Threads do not survive a fork, the object would.
        if self._pool is None or self._owner != os.getpid():
            self._pool = ThreadPoolExecutor(self._threads - 1, thread_name_prefix="table")
            self._owner = os.getpid()
        return self._pool
