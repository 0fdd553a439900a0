"""
The one way to Redis: bounded connections, a deadline on every call, no retry.

redis-py retries ten times by default and connects as often; here neither happens, because a
check has no time for it and a capture's sender repeats by itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sidecar import telemetry
from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import META, Keyspace
from sidecar.outbound.redis.scripts import ALL, Script
from sidecar.outbound.redis.shard_watch import ShardWatch

Argument = str | bytes | int
_ERROR_CHARS_MAX = 200
_WITHOUT_ANSWER = 2
"""Parts of a script's reply that stand before its answer: epoch and seq."""
_LAST_ROUNDS = 4
"""Of the loop: the socket is read in one, the reader wakes in the next, with some to spare."""


class RedisConnection:
    """
    Commands and scripts against one Redis, each within a timeout.

    A call that is cancelled or out of time closes its connection: its reply may still be on
    the way, and the next caller must not read it. `calls` counts round trips.
    """

    def __init__(self, pool: BlockingConnectionPool, *, timeout_seconds: float) -> None:
        """Use a pool whose connections do not retry; `from_url` makes one."""
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self.watch = ShardWatch()
        self.calls = 0

    @classmethod
    def from_url(cls, url: str, *, connections_max: int = 64, timeout_seconds: float = 2.0) -> Self:
        """
        Describe the connections to a `redis://`, `rediss://` or `unix://` URL; opens none yet.

        Args:
            url: May hold user and password; it never appears in an error.
            connections_max: Callers beyond it wait, within their own timeout.
            timeout_seconds: For connecting, and for calls that name no other timeout.

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
                "redis_url must be redis://HOST:PORT/DB, rediss://... or unix://PATH"
            ) from error
        return cls(pool, timeout_seconds=timeout_seconds)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.disconnect(inuse_connections=True)

    async def command(self, *command: Argument, timeout_seconds: float | None = None) -> Any:
        """
        Send one command and return its plain reply (bytes, int, None or a list of these).

        Raises:
            StoreUnavailable: No answer in time, or an error for an answer.
        """
        return (await self.commands([command], timeout_seconds=timeout_seconds))[0]

    async def commands(
        self, batch: Sequence[Sequence[Argument]], *, timeout_seconds: float | None = None
    ) -> list[Any]:
        """
        Send commands together and return their replies, in one round trip; not a transaction.

        Raises:
            StoreUnavailable: No answer in time, or an error for an answer.
        """
        with _measure(str(batch[0][0]).lower()), _translate_errors():
            timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
            return await self._exchange(batch, timeout_seconds=timeout, wait_seconds=timeout)

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        *,
        timeout_seconds: float | None = None,
        wait_seconds: float | None = None,
    ) -> Any:
        """
        Run a script, atomic on the server.

        One round trip; a second one where the server does not know the script yet (it was
        restarted), which cannot have had an effect.

        Args:
            script: One of `scripts`.
            keys, arguments: As its file lists them.
            timeout_seconds: For the server's answer.
            wait_seconds: For a free connection, before that; as long as the timeout if None.

        Raises:
            StoreUnavailable: No answer in time, an error for an answer, or a shard that lost data.
        """
        tail = (len(keys), *keys, *arguments)
        shard = keys[script.shard_key]
        asked = self.watch.known(shard)
        with _measure(script.name), _translate_errors():
            timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
            wait = timeout if wait_seconds is None else wait_seconds
            for command in (("EVALSHA", script.sha), ("EVAL", script.source)):
                try:
                    (reply,) = await self._exchange(
                        [(*command, *tail)], timeout_seconds=timeout, wait_seconds=wait
                    )
                except NoScriptError:
                    continue
                if not script.guarded:
                    return reply
                self.watch.take(shard, asked, (int(reply[0]), int(reply[1])))
                return reply[2] if len(reply) > _WITHOUT_ANSWER else None
            raise StoreUnavailable("redis takes no scripts")

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[AbstractConnection]:
        """
        A connection outside the pool, for a subscription; closed at the end.

        Raises:
            StoreUnavailable: It cannot be opened, or what the caller does with it fails.
        """
        with _translate_errors():
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                yield connection
            finally:
                await connection.disconnect(nowait=True)

    async def load_scripts(self) -> None:
        """Make every script known to the server, so that the first calls need one round trip."""
        await self.commands([("SCRIPT", "LOAD", script.source) for script in ALL])

    async def _exchange(
        self,
        batch: Sequence[Sequence[Argument]],
        *,
        timeout_seconds: float,
        wait_seconds: float,
    ) -> list[Any]:
        self.calls += 1
        async with asyncio.timeout(wait_seconds):
            connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's decorator.
        complete = False
        try:
            packed = connection.pack_commands(batch)
            async with _patience(timeout_seconds):
                await connection.send_packed_command(packed, check_health=False)
                replies, refusal = await _read_replies(connection, len(batch))
            complete = True
        finally:
            try:
                if not complete:
                    await connection.disconnect(nowait=True)
            finally:
                await self._pool.release(connection)
        if refusal is not None:
            raise refusal
        return replies


async def fix_shards(connection: RedisConnection, shards: int) -> Keyspace:
    """
    Fix the number of shards at the first start, and hold every later start to it.

    Raises:
        ConfigError: If the store was set up with another number.
        StoreUnavailable: Repeat it.
    """
    keyspace = Keyspace(shards)
    await connection.command("HSETNX", META, "shards", shards)
    stored = await connection.command("HGET", META, "shards")
    if stored != str(shards).encode():
        found = stored.decode(errors="replace") if isinstance(stored, bytes) else "nothing"
        raise ConfigError(
            f"shards is {shards}, but this Redis was set up with {found[:20]}; "
            "the number is fixed at the first start"
        )
    return keyspace


async def _read_replies(
    connection: AbstractConnection, count: int
) -> tuple[list[Any], ResponseError | None]:
    """Read every reply, also behind one that is an error, so that none is left for the next."""
    replies: list[Any] = []
    refusal: ResponseError | None = None
    for _ in range(count):
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            refusal = refusal or error
    return replies, refusal


@contextmanager
def _measure(call: str) -> Iterator[None]:
    """Observe a call under its script's name or its (first) command's."""
    started = time.perf_counter()
    outcome = "unavailable"
    try:
        yield
        outcome = "ok"
    finally:
        seconds = time.perf_counter() - started
        telemetry.STORE_CALL_DURATION.labels("redis", call, outcome).observe(seconds)


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[None]:
    """
    A timeout for the server that does not punish it for this process's being late.

    Where the loop is busy, an answer may lie in the socket when the time is up, unread. So
    the loop gets a few rounds to read it before the wait ends.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        handle: asyncio.Handle = loop.call_later(seconds, lambda: end(_LAST_ROUNDS))

        def end(rounds: int) -> None:
            nonlocal handle
            if rounds:
                handle = loop.call_soon(end, rounds - 1)
            else:
                timeout.reschedule(loop.time())

        try:
            yield
        finally:
            handle.cancel()


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise StoreUnavailable("redis gave no answer in time") from error
    except ResponseError as error:
        words = str(error)[:_ERROR_CHARS_MAX]
        if "WRONGTYPE" in words:
            raise StoreDamaged("redis: a key of ours has another type") from error
        raise StoreUnavailable(f"redis refused: {words}") from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"redis: {str(error)[:_ERROR_CHARS_MAX]}") from error
