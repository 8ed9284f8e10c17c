"""One batch over several cores: kernels release the GIL and take a range, threads take a piece each."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from online_learning.table.sharing import WORDS, end_helpers, help_out, shared

SMALLEST_PIECE = 512
"""Items handed out at a time, at least: some 10 us of work, so that the 0.1 us of handing out does not show, and short
enough that nobody waits long for the last piece."""


class _Helpers:
    """Threads that help one caller at a time."""

    def __init__(self, count: int) -> None:
        self.words = np.zeros(WORDS, np.int64)
        self.taken = threading.Lock()
        self.owner = os.getpid()
        for number in range(count):
            # The thread must not hold this object, or neither would ever end.
            threading.Thread(target=help_out, args=(self.words,), name=f"table-{number}", daemon=True).start()
        weakref.finalize(self, end_helpers, self.words)


class Workers:
    """Runs `kernel(*arguments, begin, end)` over [0, n) by several threads; results never depend on who does what.

    Plain threads and not numba's own layer: that one cannot be entered from two Python threads at once, nor used
    after a fork. See sharing.py for how they meet.
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, min(threads, os.cpu_count() or 1))
        self._helpers: _Helpers | None = None

    def run(self, kernel: Callable[..., Any], items: int, *arguments: Any, piece: int = SMALLEST_PIECE) -> None:
        """Returns when all items are done; the calling thread works, too. `piece`: items handed out at least.

        Where the helpers are helping another thread, the caller does all of it. Raises RuntimeError where a shared
        kernel failed.
        """
        # Two pieces are done about as soon alone: a helper that lost its core with one of them would be waited for.
        if items <= 2 * piece or self.threads == 1:
            kernel(*arguments, 0, items)
            return
        helpers = self._running_helpers()
        if not helpers.taken.acquire(blocking=False):
            kernel(*arguments, 0, items)
            return
        try:
            went_well = shared(kernel)(helpers.words, items, piece, self.threads, *arguments)
        finally:
            helpers.taken.release()
        if not went_well:
            raise RuntimeError(f"{kernel.__name__} failed on some of {items} items (out of memory?)")

    def _running_helpers(self) -> _Helpers:
        # Threads do not survive a fork, the object would.
        if self._helpers is None or self._helpers.owner != os.getpid():
            self._helpers = _Helpers(self.threads - 1)
        return self._helpers
