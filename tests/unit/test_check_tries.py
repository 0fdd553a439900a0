"""One request that is asked about again while its first try is still under way."""

import asyncio

import pytest
from fixtures.grpc_edges import (
    CHECK_NANO,
    add_customer,
    allows,
    call_with,
    check_handler,
    check_request,
)
from fixtures.http_edges import World

from sidecar.services.releasing import CheckTries, HoldReleases

RAW = check_request().SerializeToString()


@pytest.fixture
async def world() -> World:
    world = World()
    await add_customer(world)
    return world


async def settled(handler) -> None:
    """Wait until nothing is left of the tries that nobody heard."""
    await handler.drain(5)


async def cut(handler) -> None:
    """Ask, and hang up while the store is thinking."""
    first = asyncio.create_task(handler.check(RAW, call_with()))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("tries", [1, 3])
async def test_a_try_that_was_cut_does_not_give_back_what_a_later_one_was_told_to_use(
    world: World, tries: int
):
    handler = check_handler(world)
    world.state.gate.clear()
    for _ in range(tries):
        await cut(handler)
    heard = asyncio.create_task(handler.check(RAW, call_with()))
    await asyncio.sleep(0.01)
    world.state.gate.set()
    assert allows(await heard)
    await settled(handler)
    assert world.held() == CHECK_NANO


async def test_the_last_try_that_nobody_heard_gives_the_hold_back(world: World):
    handler = check_handler(world)
    world.state.gate.clear()
    for _ in range(3):
        await cut(handler)
    world.state.gate.set()
    await settled(handler)
    assert world.held() == 0


def test_tries_are_counted_and_the_oldest_forgotten_first():
    tries = CheckTries(remembered_max=2)
    for hold_id in ("a", "a", "b"):
        tries.begin(hold_id)
    assert not tries.is_only("a")
    assert not tries.end("a")
    assert tries.is_only("a")
    assert tries.end("a")
    assert tries.end("never begun")
    for hold_id in ("b", "c", "d"):
        tries.begin(hold_id)
    assert tries.end("b")  # It was forgotten.
    assert tries.end("c")


async def test_a_release_that_is_cut_off_is_made_later():
    class Slow:
        def __init__(self) -> None:
            self.asked: list[str] = []
            self.slow = True

        async def release_hold(self, _customer_id: str, hold_id: str) -> bool:
            self.asked.append(hold_id)
            if self.slow:
                await asyncio.Event().wait()
            return True

    balances, stop = Slow(), asyncio.Event()
    releases = HoldReleases(balances, hold_ttl_seconds=10)
    release = asyncio.create_task(releases.release("cus_1", "h"))
    await asyncio.sleep(0)
    release.cancel()
    await asyncio.gather(release, return_exceptions=True)
    assert "h" in releases
    balances.slow = False
    worker = asyncio.create_task(releases.run(stop))
    await asyncio.sleep(0.01)
    assert "h" not in releases
    stop.set()
    await worker
    assert balances.asked == ["h", "h"]
