"""Work in the background that somebody owns: none is lost, and all of it ends with the owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sidecar import telemetry

T = TypeVar("T")


class OwnedTasks:
    """Holds a reference to each task it begins, so that none is lost or forgotten at the end."""

    def __init__(self, name: str) -> None:
        """
        Own nothing yet.

        Args:
            name: For logs and the failure count.
        """
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._known_loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    def leave(self, work: Coroutine[Any, Any, object]) -> None:
        """Begin work that nobody awaits; how much of it there is, is for the caller to bound."""
        self._own(work).add_done_callback(self._log_failure)

    async def drain(self, grace_seconds: float) -> None:
        """Wait for what is under way, then cancel the rest and wait until it is gone."""
        waited = asyncio.get_running_loop().time() + grace_seconds
        while self._tasks and (left := waited - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)
        late = set(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """That of the first task, and of all: until Python 3.12 each look asks for the pid."""
        loop = self._known_loop
        if loop is None:
            loop = self._known_loop = asyncio.get_running_loop()
        return loop

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _log_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            telemetry.WORKER_FAILURES.labels(self._name).inc()
            telemetry.get_logger().error("task_failed", task=self._name, error=type(error).__name__)
