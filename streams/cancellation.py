"""Waiting for a library without losing a task's own end: neither taken for the library's nor swallowed by it."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


def asked_to_end() -> bool:
    """Whether somebody cancelled the present task itself; call it where CancelledError was caught.

    aiokafka cancels futures that its callers wait for, as when a broker dies while it is asked for offsets. That
    reaches the caller as the same exception, and a task that lets it pass ends in silence, neither failed nor wanted.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def answered(what: str, waiting: Awaitable[T], within_s: float) -> T:
    """The answer to `waiting`. Raises TimeoutError, which says what was waited for."""
    try:
        # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together with the answer.
        async with asyncio.timeout(within_s):
            return await waiting
    except TimeoutError as error:
        raise TimeoutError(f"no answer to {what} in {within_s:g} s") from error
