"""Work that must end although the call that began it has gone; owned, bounded, drained."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sidecar import telemetry
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus

T = TypeVar("T")


class OwnedTasks:
    """Holds a reference to each task it starts, so that none is lost or forgotten at the end."""

    def __init__(self, name: str, maximum: int) -> None:
        """
        Own nothing yet.

        Args:
            name: For logs and the failure count.
            maximum: Tasks that `start` accepts at a time.
        """
        self._name = name
        self._maximum = maximum
        self._tasks: set[asyncio.Task[Any]] = set()
        self._known_loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """
        Begin work whose outcome the caller awaits.

        Raises:
            GrpcError: RESOURCE_EXHAUSTED if too much is under way; the work was not begun.
        """
        if len(self._tasks) >= self._maximum:
            work.close()
            raise GrpcError(GrpcStatus.RESOURCE_EXHAUSTED, "too many calls in progress")
        return self._own(work)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """That of the first task, and of all: until Python 3.12 each look asks for the pid."""
        loop = self._known_loop
        if loop is None:
            loop = self._known_loop = asyncio.get_running_loop()
        return loop

    async def wait(self, task: asyncio.Task[Any], seconds: float) -> None:
        """
        Wait until a task has ended or the time is up, whichever comes first.

        As `asyncio.wait` of one task, without its sets: a check spends a tenth of its time there.
        """
        loop = self._loop
        waiter = loop.create_future()

        def wake(_task: asyncio.Task[Any] | None = None) -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = loop.call_later(seconds, wake)
        task.add_done_callback(wake)
        try:
            await waiter
        finally:
            timer.cancel()
            task.remove_done_callback(wake)

    def leave(self, work: Coroutine[Any, Any, object]) -> None:
        """
        Begin work that nobody awaits: the end of something that `start` began.

        Never refused: there is at most one for each task that `start` accepted.
        """
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

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _log_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            telemetry.WORKER_FAILURES.labels(self._name).inc()
            telemetry.get_logger().error("task_failed", task=self._name, error=type(error).__name__)
