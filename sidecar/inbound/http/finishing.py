"""Work that must end although the request that began it has gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sidecar import telemetry

T = TypeVar("T")


class Finishing:
    """
    Tasks that outlive their request's handler; each is held, and its failure logged.

    Their number is bounded by that of the requests in progress, which the edge bounds.
    """

    def __init__(self) -> None:
        """Nothing is under way."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that no cancelled request interrupts."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def leave(self, work: Coroutine[Any, Any, object]) -> None:
        """Begin work that nobody awaits."""
        self.start(work).add_done_callback(_log_failure)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work; if the caller is cancelled the work goes on to its end."""
        task = self.start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for what is under way, then cancel the rest."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        telemetry.get_logger().error("http_task_failed", exc_info=error)
