"""Telling a task's own end from a future that a library cancelled."""

import asyncio


def asked_to_end() -> bool:
    """Whether somebody cancelled the present task itself; call it where CancelledError was caught.

    aiokafka cancels futures that its callers wait for, as when a broker dies while it is asked for offsets. That
    reaches the caller as the same exception, and a task that lets it pass ends in silence, neither failed nor wanted.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
