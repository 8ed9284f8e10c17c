"""One batch over several cores: kernels release the GIL and take a range, threads take a range each."""

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

# Items handed out at a time, at least and at most: some 10 us of work, so that the 1 us of handing out does not show,
# and short enough that nobody waits long for the last piece.
SMALLEST_PIECE, LARGEST_PIECE = 1024, 16384
# So many pieces for each thread, so that one that was held up leaves its share to the others.
PIECES_PER_THREAD = 2


class _Job:
    """A share of a batch for one helper: it is taken by the helper, or back by whoever gave it out."""

    __slots__ = ("_done", "_error", "_taken", "_work")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._taken = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()
        self._error: BaseException | None = None

    def run(self) -> None:
        if self._taken.acquire(blocking=False):
            try:
                if self._work is not None:
                    self._work()
            except BaseException as error:
                self._error = error
            finally:
                # The work holds the arrays of its batch, and their buffers are wanted again.
                self._work = None
                self._done.release()

    def finish(self) -> None:
        """Returns when the helper is through, at once if it never began."""
        if self._taken.acquire(blocking=False):
            self._work = None
            return
        self._done.acquire()
        if self._error is not None:
            raise self._error


def _help(jobs: "SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job


def _dismiss(jobs: "SimpleQueue[_Job | None]", helpers: int) -> None:
    for _ in range(helpers):
        jobs.put(None)


class Workers:
    """Runs `kernel(*arguments, begin, end)` over [0, n) by several threads; results never depend on who does what.

    Plain threads and not numba's own layer: that one cannot be entered from two Python threads at once, nor used
    after a fork. Not concurrent.futures either, whose future costs more than the work on a thousand keys. Whoever is
    free takes the next piece, so that on a busy machine a helper that gets no core holds nobody up.
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, min(threads, os.cpu_count() or 1))
        self._jobs: SimpleQueue[_Job | None] | None = None
        self._owner = 0

    def run(self, kernel: Callable[..., Any], items: int, *arguments: Any, piece: int = 0) -> None:
        """Returns when all items are done; the calling thread works, too. `piece`: items handed out at a time."""
        if not piece:
            piece = max(SMALLEST_PIECE, min(LARGEST_PIECE, -(-items // (self.threads * PIECES_PER_THREAD))))
        pieces = -(-items // piece)
        if pieces < 2 or self.threads == 1:
            kernel(*arguments, 0, items)
            return
        numbers = itertools.count()

        def work() -> None:
            while (number := next(numbers)) < pieces:
                kernel(*arguments, number * piece, min(items, (number + 1) * piece))

        queue = self._running_helpers()
        given = [_Job(work) for _ in range(min(self.threads, pieces) - 1)]
        for job in given:
            queue.put(job)
        try:
            work()
        finally:
            for job in given:
                job.finish()

    def _running_helpers(self) -> "SimpleQueue[_Job | None]":
        # Threads do not survive a fork, the object would.
        if self._jobs is None or self._owner != os.getpid():
            self._jobs = SimpleQueue()
            self._owner = os.getpid()
            for number in range(self.threads - 1):
                # The thread must not hold this object, or neither would ever end.
                threading.Thread(target=_help, args=(self._jobs,), name=f"table-{number}", daemon=True).start()
            weakref.finalize(self, _dismiss, self._jobs, self.threads - 1)
        return self._jobs
