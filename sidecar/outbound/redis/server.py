"""
One Redis server: bounded connections, each exchange within its time, no retry.

redis-py retries ten times by default and connects as often; here neither happens, because a
check has no time for it and a capture's sender repeats by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from sidecar.domain.errors import ConfigError
from sidecar.outbound.redis.pipeline import Pipeline

Argument = str | bytes | int
Command = Sequence[Argument]
Batch = Sequence[Command]
Replies = tuple[list[Any], ResponseError | None]
"""One reply for each command, a refusal as its error; and the first refusal, if there is one."""

_LAST_ROUNDS = 4
"""Of the loop: the socket is read in one, the reader wakes in the next, with some to spare."""


class Server:
    """
    A pool of connections to one server, and one that short calls share.

    An exchange that is cancelled or out of time closes its connection: the reply may still be
    on the way, and the next caller must not read it. Drivers' errors pass through.
    """

    def __init__(self, pool: BlockingConnectionPool, *, connect_seconds: float) -> None:
        """Use a pool whose connections do not retry; `from_url` makes one."""
        self._pool = pool
        self._shared = Pipeline(pool.make_connection, connect_seconds=connect_seconds)
        self.calls = 0

    @classmethod
    def from_url(cls, url: str, *, connections_max: int, timeout_seconds: float) -> Self:
        """
        Describe the connections to a `redis://`, `rediss://` or `unix://` URL; opens none yet.

        Args:
            url: May hold user and password; it never appears in an error.
            connections_max: Callers beyond it wait, within their own timeout.
            timeout_seconds: For connecting.

        Raises:
            ConfigError: If the URL cannot be used.
        """
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=connections_max,
                timeout=None,
                retry=Retry(NoBackoff(), 0),
                retry_on_timeout=False,
                socket_timeout=None,
                socket_connect_timeout=timeout_seconds,
                decode_responses=False,
                protocol=2,
                driver_info=None,
            )
        except ValueError as error:
            # Its words may quote the URL, and with it the password.
            raise ConfigError(
                "redis_url must be redis://HOST:PORT/DB, rediss://..., unix://PATH, or "
                "redis+cluster://HOST:PORT,HOST:PORT"
            ) from error
        return cls(pool, connect_seconds=timeout_seconds)

    @property
    def is_cluster(self) -> bool:
        """No: it is there or it is away."""
        return False

    async def exchange(
        self, batch: Batch, *, timeout_seconds: float, wait_seconds: float, shared: bool = False
    ) -> Replies:
        """
        Send commands together and read every reply, in one round trip.

        Args:
            batch: One command or more.
            timeout_seconds: For the server's answers.
            wait_seconds: For a free connection, before that.
            shared: Over the connection that calls share: for a single command that neither
                blocks nor takes long, since the others wait behind it.

        Raises:
            TimeoutError, RedisError, OSError: They may have been carried out or not.
        """
        self.calls += 1
        if shared:
            (command,) = batch
            reply = await self._shared.ask(
                tuple(command), timeout_seconds=timeout_seconds, wait_seconds=wait_seconds
            )
            return [reply], reply if isinstance(reply, ResponseError) else None
        async with asyncio.timeout(wait_seconds):
            connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's decorator.
        complete = False
        try:
            packed = connection.pack_commands(batch)
            async with _Patience(timeout_seconds):
                await connection.send_packed_command(packed, check_health=False)
                replies = await _read_replies(connection, len(batch))
            complete = True
        finally:
            try:
                if not complete:
                    await connection.disconnect(nowait=True)
            finally:
                await self._pool.release(connection)
        return replies

    async def exchange_each(
        self, batch: Batch, *, timeout_seconds: float, wait_seconds: float
    ) -> list[Any]:
        """
        Send commands over the connection that calls share, in one write; each has its own end.

        Args: As `exchange`, each command as one that is shared.

        Returns:
            For each its reply, or the error that `exchange` would answer or raise for it alone.

        Raises:
            TimeoutError, RedisError, OSError: None of them was sent.
        """
        self.calls += 1
        return await self._shared.ask_each(
            [tuple(command) for command in batch],
            timeout_seconds=timeout_seconds,
            wait_seconds=wait_seconds,
        )

    async def everywhere(self, batch: Batch, *, timeout_seconds: float) -> None:
        """Send to this server, which is all there is. Raises the first refusal."""
        _, refusal = await self.exchange(
            batch, timeout_seconds=timeout_seconds, wait_seconds=timeout_seconds
        )
        if refusal is not None:
            raise refusal

    async def each(self, command: Command, *, timeout_seconds: float) -> dict[str, Any]:
        """What this server answers to a command, as the only one of them."""
        (reply,), _ = await self.exchange(
            [command], timeout_seconds=timeout_seconds, wait_seconds=timeout_seconds
        )
        return {"": reply}

    async def refresh(self, *, timeout_seconds: float) -> None:
        """Nothing: one server has everything."""

    async def ping(self, *, timeout_seconds: float) -> None:
        """Whether it answers."""
        await self.everywhere([("PING",)], timeout_seconds=timeout_seconds)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[AbstractConnection]:
        """A connection outside the pool; closed at the end."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
        finally:
            await connection.disconnect(nowait=True)

    def is_current(self, connection: AbstractConnection) -> bool:
        """Always: there is no other server that the channel could be on."""
        return connection is not None

    async def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        await self._pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._shared.aclose()
        await self._pool.disconnect(inuse_connections=True)


async def _read_replies(connection: AbstractConnection, count: int) -> Replies:
    """Read every reply, also behind one that is an error, so that none is left for the next."""
    replies: list[Any] = []
    refusal: ResponseError | None = None
    for _ in range(count):
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
            refusal = refusal or error
    return replies, refusal


class _Patience:
    """
    A timeout for the server that does not punish it for this process's being late.

    Where the loop is busy, an answer may lie in the socket when the time is up, unread. So
    the loop gets a few rounds to read it before the wait ends.

    A class, since a function that names itself is a cycle: what hung on it, a check's task and
    decision, was freed only by the collector, and was 10 MiB by then.
    """

    __slots__ = ("_handle", "_loop", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._handle: asyncio.Handle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._handle = self._loop.call_later(self._seconds, self._end, _LAST_ROUNDS)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        await self._timeout.__aexit__(kind, error, trace)

    def _end(self, rounds: int) -> None:
        if rounds:
            self._handle = self._loop.call_soon(self._end, rounds - 1)
        else:
            self._timeout.reschedule(self._loop.time())
