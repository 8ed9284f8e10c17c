"""A blocking `run(settings, stop, health)` in a thread of the test's."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from streams.health import Health

T = TypeVar("T")

_END_S = 60.0


@contextmanager
def in_thread(run: Callable[[T, threading.Event, Health], None], settings: T) -> Iterator[Health]:
    """Runs it while the block does and lets it end in order; raises what it raised."""
    stop, health, failed = threading.Event(), Health(None), list[BaseException]()

    def work() -> None:
        try:
            run(settings, stop, health)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield health
    finally:
        stop.set()
        thread.join(_END_S)
        assert not thread.is_alive()
        if failed:
            raise failed[0]
