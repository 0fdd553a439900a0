"""Rounds of background work: pauses, failures, and the end."""

import asyncio

import pytest
from fixtures.use_cases import Grown

from sidecar.domain.errors import StoreUnavailable
from sidecar.services.rounds import run_rounds, try_each


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


async def test_a_pause_may_come_first_and_a_stop_in_it_is_the_end():
    done, seconds = await rounds_of([None], pause_seconds=0.05, pause_first=True)
    assert done == 1
    assert seconds >= 0.05
    stop = asyncio.Event()
    stop.set()
    work = [].pop  # Would fail.
    await run_rounds(stop, work, name="rounds_of_tests", pause_seconds=60.0, pause_first=True)


async def test_who_is_woken_does_a_round_for_each_news_and_misses_none():
    stop, woken, again, seen = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        seen.append(len(seen))
        if len(seen) == 1:
            woken.set()  # While a round is under way: the next one is for it.
        elif len(seen) == 2:
            again.set()
        else:
            stop.set()

    worker = asyncio.create_task(
        run_rounds(stop, work, name="rounds_of_tests", pause_seconds=60.0, woken=woken)
    )
    await again.wait()
    woken.set()
    await worker
    assert seen == [0, 1, 2]


async def test_works_of_a_round_keep_each_other_from_nothing():
    failures = Grown("sidecar_worker_failures_total", worker="rounds_of_tests")
    done = []

    async def fails() -> None:
        raise StoreUnavailable("away")

    async def works() -> None:
        done.append("works")

    await try_each({"one": fails, "two": works}, name="rounds_of_tests")
    assert (done, failures.by) == (["works"], 1)
