"""A blocking `run(settings, stop, health)` in a thread of the test's."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from streams.health import Health
from tests.stacks import wait_until

T = TypeVar("T")

_READY_S = 120.0
_END_S = 60.0


@contextmanager
def in_thread(
    run: Callable[[T, threading.Event, Health], None],
    settings: T,
    ready: Callable[[Health], bool] = lambda health: True,
) -> Iterator[Health]:
    """Runs it while the block does, which begins when it is ready, and lets it end in order; raises what it raised,
    which `failed` in its health tells at once."""
    stop, health, failed = threading.Event(), Health(None), list[BaseException]()

    def work() -> None:
        try:
            run(settings, stop, health)
        except BaseException as error:
            failed.append(error)
            health.report(failed=repr(error))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: failed or ready(health), _READY_S, "it is ready")
        if not failed:
            yield health
    finally:
        stop.set()
        thread.join(_END_S)
        assert not thread.is_alive()
        if failed:
            raise failed[0]
