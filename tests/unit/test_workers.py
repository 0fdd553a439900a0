"""Background work is kept running; only a wrong configuration ends the process."""

import asyncio

import pytest

from sidecar import telemetry
from sidecar.app import workers as module
from sidecar.app.workers import Workers
from sidecar.domain.errors import ConfigError


def failures(name: str) -> float:
    labels = {"worker": name}
    return telemetry.REGISTRY.get_sample_value("sidecar_worker_failures_total", labels) or 0


async def test_a_worker_that_fails_unforeseen_is_counted_and_started_again(monkeypatch):
    monkeypatch.setattr(module, "RESTART_SECONDS", 0)
    stop = asyncio.Event()
    runs = []

    async def fails_twice(event: asyncio.Event) -> None:
        runs.append(event)
        if len(runs) < 3:
            raise ZeroDivisionError
        stop.set()

    async with Workers(stop) as workers:
        workers.start("fails-twice", fails_twice)
    assert len(runs) == 3
    assert failures("fails-twice") == 2


async def test_a_failing_worker_leaves_the_others_running(monkeypatch):
    monkeypatch.setattr(module, "RESTART_SECONDS", 0)
    stop = asyncio.Event()
    finished = asyncio.Event()

    async def fails(_: asyncio.Event) -> None:
        raise ZeroDivisionError

    async def works(event: asyncio.Event) -> None:
        while failures("fails") < 2:  # noqa: ASYNC110  A counter has no event.
            await asyncio.sleep(0)
        finished.set()
        event.set()

    async with Workers(stop) as workers:
        workers.start("fails", fails)
        workers.start("works", works)
    assert finished.is_set()


async def test_a_wrong_configuration_ends_all_of_them():
    stop = asyncio.Event()

    async def misconfigured(_: asyncio.Event) -> None:
        raise ConfigError("shards differ")

    async def waits(event: asyncio.Event) -> None:
        await event.wait()

    async def work() -> None:
        async with Workers(stop) as workers:
            workers.start("waits", waits)
            workers.start("misconfigured", misconfigured)

    with pytest.raises(ConfigError, match="shards differ"):
        await work()


async def test_a_worker_begins_only_after_what_it_waits_for():
    stop = asyncio.Event()
    order = []

    async def first() -> None:
        order.append("first")

    async def then(_: asyncio.Event) -> None:
        order.append("then")

    async with Workers(stop) as workers:
        workers.start("then", then, after=first)
    assert order == ["first", "then"]
