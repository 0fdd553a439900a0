"""How long an exchange with Redis waits, and that nothing of it is left for the collector."""

import asyncio
import gc
import time
import weakref

import pytest

from sidecar.outbound.redis.server import _Patience


async def test_who_gives_no_answer_is_left_after_that_time():
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with _Patience(0.05):
            await asyncio.Event().wait()
    assert 0.05 <= time.monotonic() - began < 5


async def test_an_answer_that_lies_there_unread_is_read_though_the_loop_was_late():
    answer = asyncio.get_running_loop().create_future()
    async with _Patience(0.01):
        time.sleep(0.05)  # noqa: ASYNC251  The loop is held up on purpose.
        asyncio.get_running_loop().call_soon(answer.set_result, "read")
        assert await answer == "read"
    # Nor does anything happen later.
    await asyncio.sleep(0.02)


async def test_other_errors_and_being_cancelled_pass_through():
    with pytest.raises(KeyError):
        async with _Patience(5):
            raise KeyError
    waiting = asyncio.create_task(_wait_for_ever())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def _wait_for_ever() -> None:
    async with _Patience(5):
        await asyncio.Event().wait()


@pytest.mark.parametrize("seconds", [0.0, 5.0])
async def test_it_is_freed_when_it_ends_and_not_by_the_collector(seconds: float):
    freed = []

    async def exchange() -> None:
        patience = _Patience(seconds)
        weakref.finalize(patience._timeout, freed.append, seconds)
        async with patience:
            await asyncio.sleep(0)

    gc.collect()
    gc.disable()
    try:
        await asyncio.create_task(exchange())
        for _ in range(10):  # A timer that was cancelled is dropped when its turn comes.
            await asyncio.sleep(0)
        assert freed == [seconds]
    finally:
        gc.enable()
