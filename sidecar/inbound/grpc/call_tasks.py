"""What calls begin: it must end although the call has gone; bounded."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus
from sidecar.services.owned_tasks import OwnedTasks

T = TypeVar("T")


class CallTasks(OwnedTasks):
    """
    Tasks of calls, of which only so many may be under way.

    What is left behind (`leave`) is the end of something that `start` began, so that there is at
    most one for each task that was accepted.
    """

    def __init__(self, name: str, maximum: int) -> None:
        """
        Own nothing yet.

        Args:
            name: For logs and the failure count.
            maximum: Tasks that `start` accepts at a time.
        """
        super().__init__(name)
        self._maximum = maximum

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
