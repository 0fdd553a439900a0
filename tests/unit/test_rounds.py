"""Rounds of background work: pauses, failures, and the end."""

import asyncio

import pytest
from fixtures.use_cases import Grown

from sidecar.domain.errors import StoreUnavailable
from sidecar.services.rounds import run_rounds


async def rounds_of(script: list[object], **options: object) -> tuple[int, float]:
    """How many rounds were done, and how much time of the loop's clock they took."""
    stop, done = asyncio.Event(), 0

    async def work() -> object:
        nonlocal done
        outcome = script[done]
        done += 1
        if done == len(script):
            stop.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    loop = asyncio.get_running_loop()
    started = loop.time()
    options = {"name": "rounds_of_tests", "pause_seconds": 0.0} | options
    await run_rounds(stop, work, **options)
    return done, loop.time() - started


async def test_a_round_that_fails_is_counted_and_tried_again():
    failures = Grown("sidecar_worker_failures_total", worker="rounds_of_tests")
    done, _ = await rounds_of([None, StoreUnavailable("away"), StoreUnavailable("away"), None])
    assert (done, failures.by) == (4, 2)


async def test_work_that_says_so_is_followed_at_once_and_all_else_by_a_pause():
    done, seconds = await rounds_of([1, 1, 1, 0, 1], pause_seconds=0.05, at_once=bool)
    assert done == 5
    assert seconds >= 0.05


async def test_the_pause_grows_with_failures_in_a_row_up_to_its_most():
    away = StoreUnavailable("away")
    _, seconds = await rounds_of(
        [away, away, away, None], pause_seconds=0.01, backoff_seconds_max=0.03
    )
    assert seconds >= 0.02 + 0.03 + 0.03


async def test_an_error_that_nobody_foresaw_ends_the_worker():
    with pytest.raises(ValueError, match="a bug"):
        await rounds_of([ValueError("a bug"), None])


async def test_a_stop_ends_a_pause():
    stop = asyncio.Event()

    async def work() -> None:
        asyncio.get_running_loop().call_soon(stop.set)

    await asyncio.wait_for(run_rounds(stop, work, name="rounds_of_tests", pause_seconds=60.0), 10)
