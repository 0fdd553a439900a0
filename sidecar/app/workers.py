"""Background work of one process: kept running, counted when it fails, ended together."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from sidecar import telemetry
from sidecar.domain.errors import ConfigError

RESTART_SECONDS = 1.0

Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Works until the event is set."""


class Workers:
    """
    Owns the process's background tasks.

    A worker that fails for a reason nobody foresaw is counted, logged and started again: a
    bug in settlement must not take the checks of the same process down. A ConfigError ends
    the process, since nothing that runs can mend it.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        """All workers end when `stop` is set."""
        self._stop = stop
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Begin to own tasks."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until all have ended. Raises the ConfigError that ended one of them."""
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # Not `except*`: what is raised inside one comes wrapped in a group again.
            wrong = next((one for one in group.exceptions if isinstance(one, ConfigError)), None)
            if wrong is None:
                raise
            raise wrong from None

    def start(
        self, name: str, run: Run, *, after: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """
        Begin a worker.

        Args:
            name: For the failure count and the log.
            run: The work.
            after: Awaited first.
        """
        self._group.create_task(self._keep_running(name, run, after), name=name)

    async def sleep(self, seconds: float) -> None:
        """Wait, or return at once when the process is to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _keep_running(
        self, name: str, run: Run, after: Callable[[], Awaitable[None]] | None
    ) -> None:
        if after is not None:
            await after()
        while not self._stop.is_set():
            try:
                await run(self._stop)
            except ConfigError:
                raise
            except Exception as error:  # noqa: BLE001  The top of a worker; see the class.
                telemetry.WORKER_FAILURES.labels(name).inc()
                telemetry.get_logger().error(
                    "worker_failed", worker=name, error=f"{type(error).__name__}: {error}"
                )
                await self.sleep(RESTART_SECONDS)
            else:
                return
