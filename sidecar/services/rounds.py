"""Work in rounds: what all background workers do between their rounds, and when one fails."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from sidecar import telemetry
from sidecar.domain.errors import SidecarError

T = TypeVar("T")


def _never(_done: object) -> bool:
    return False


async def try_each(
    works: Mapping[str, Callable[[], Awaitable[object]]],
    *,
    name: str,
    event: str = "",
    fact: str = "work",
) -> None:
    """
    Do works one after the other; one that fails is counted and logged, and keeps no other waiting.

    Args:
        works: By what the log calls them. May raise SidecarError.
        name, event: As of `run_rounds`.
        fact: Under which the log line names the work.
    """
    for called, work in works.items():
        try:
            await work()
        except SidecarError as error:
            _tell_failure(name, event, error, **{fact: called})


async def run_rounds(
    stop: asyncio.Event,
    work: Callable[[], Awaitable[T]],
    *,
    name: str,
    pause_seconds: float,
    event: str = "",
    backoff_seconds_max: float = 0.0,
    at_once: Callable[[T], bool] = _never,
    pause_first: bool = False,
    woken: asyncio.Event | None = None,
    **facts: str,
) -> None:
    """
    Do rounds until stopped; one that fails is counted and logged, and the next one tries again.

    Args:
        stop: Ends it, also in a pause.
        work: One round. May raise SidecarError.
        name: Of the worker, in its failure count.
        pause_seconds: Between rounds.
        event: Of the log line of a failure; NAME_failed if empty.
        backoff_seconds_max: Up to this the pause doubles with each failure in a row; 0 for not.
        at_once: Whether the next round follows what one has done without a pause.
        pause_first: Whether there is a pause before the first round, too.
        woken: Ends a pause; cleared as a round begins.
        facts: For the log line.
    """
    failures = 0
    if pause_first:
        await _pause(stop, woken, pause_seconds)
    while not stop.is_set():
        pause = pause_seconds
        if woken is not None:
            woken.clear()
        try:
            done = await work()
        except SidecarError as error:
            failures += 1
            if backoff_seconds_max:
                pause = min(backoff_seconds_max, pause_seconds * 2.0 ** min(failures, 30))
            _tell_failure(name, event, error, **facts)
        else:
            failures = 0
            if at_once(done):
                continue
        await _pause(stop, woken, pause)


async def _pause(stop: asyncio.Event, woken: asyncio.Event | None, seconds: float) -> None:
    if woken is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
        return
    ends = {asyncio.create_task(one.wait()) for one in (stop, woken)}
    try:
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()


def _tell_failure(name: str, event: str, error: SidecarError, **facts: str) -> None:
    telemetry.WORKER_FAILURES.labels(name).inc()
    telemetry.get_logger().warning(event or f"{name}_failed", **facts, error=str(error))
