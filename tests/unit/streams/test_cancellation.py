"""Whoever is asked to end ends, also where what it waited for comes at the same moment."""

import asyncio

import pytest

from streams.cancellation import answered


async def _asked_to_end_with_the_answer() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(answered("a question", answer, 60.0))
    await asyncio.sleep(0)
    answer.set_result(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_an_end_that_comes_with_the_answer_is_not_lost() -> None:
    asyncio.run(_asked_to_end_with_the_answer())


def test_who_waits_too_long_says_for_what() -> None:
    async def wait() -> None:
        await answered("a question", asyncio.get_running_loop().create_future(), 0.01)

    with pytest.raises(TimeoutError, match=r"no answer to a question in 0\.01 s"):
        asyncio.run(wait())
