"""Work in rounds: what all background workers do between their rounds, and when one fails."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from sidecar import telemetry
from sidecar.domain.errors import SidecarError

T = TypeVar("T")


def _never(_done: object) -> bool:
    return False


async def run_rounds(
    stop: asyncio.Event,
    work: Callable[[], Awaitable[T]],
    *,
    name: str,
    pause_seconds: float,
    event: str = "",
    backoff_seconds_max: float = 0.0,
    at_once: Callable[[T], bool] = _never,
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
        facts: For the log line.
    """
    failures = 0
    while not stop.is_set():
        pause = pause_seconds
        try:
            done = await work()
        except SidecarError as error:
            failures += 1
            if backoff_seconds_max:
                pause = min(backoff_seconds_max, pause_seconds * 2.0 ** min(failures, 30))
            telemetry.WORKER_FAILURES.labels(name).inc()
            telemetry.get_logger().warning(event or f"{name}_failed", **facts, error=str(error))
        else:
            failures = 0
            if at_once(done):
                continue
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
