"""What the stand-ins' servers have in common: listening, stopping, starting again, their faults."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from aiohttp import web

from sidecar.standins.stripe_faults import Fault
from sidecar.standins.stripe_replies import Delivery

BEFORE_COMMIT: Final[Mapping[Fault, Delivery]] = {
    Fault.DROP_BEFORE_COMMIT: Delivery.DROP,
    Fault.TIMEOUT_BEFORE_COMMIT: Delivery.HANG,
}
AFTER_COMMIT: Final[Mapping[Fault, Delivery]] = {
    Fault.DROP_AFTER_COMMIT: Delivery.DROP,
    Fault.TRUNCATE_AFTER_COMMIT: Delivery.TRUNCATE,
    Fault.TIMEOUT_AFTER_COMMIT: Delivery.HANG,
    Fault.NOT_JSON_AFTER_COMMIT: Delivery.NOT_JSON,
}


class RequestRecord(NamedTuple):
    """A request that was served; status 0 means that no answer was sent."""

    method: str
    path: str
    status: int


class HttpStandin(ABC):
    """A server whose state survives `stop` and a second `start`."""

    def __init__(self, *, body_bytes_max: int) -> None:
        """Prepare; nothing listens yet."""
        self._body_bytes_max = body_bytes_max
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()

    @abstractmethod
    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and answer the base URL; state survives `stop` and a second `start`."""
        assert self._runner is None, "the stand-in is running"
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=self._body_bytes_max)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0]
        return f"http://{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Close the server and every connection; hanging requests end unanswered."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen on a free port while the block runs; gives the base URL."""
        url = await self.start()
        try:
            yield url
        finally:
            await self.stop()
