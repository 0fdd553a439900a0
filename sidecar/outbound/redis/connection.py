"""
The one way to Redis: bounded connections, a deadline on every call, no retry.

What is behind it is one server or a cluster of them, as the URL says.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError

from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.redis.cluster import Cluster
from sidecar.outbound.redis.cluster_url import is_cluster_url, parse_cluster_url
from sidecar.outbound.redis.exchanges import Exchange, translate
from sidecar.outbound.redis.keys import META, Keyspace
from sidecar.outbound.redis.scripts import ALL, Script
from sidecar.outbound.redis.server import Argument, Batch, Command, Replies, Server
from sidecar.outbound.redis.shard_homes import ShardHomes
from sidecar.outbound.redis.shard_watch import ELSEWHERE, Position, ShardWatch

__all__ = ["Argument", "Link", "RedisConnection", "fix_shards"]

_WITHOUT_ANSWER = 3
"""Parts of a script's reply that stand before its answer: epoch, seq before and seq after."""


class Link(Protocol):
    """One server, or a cluster: where batches go. Drivers' errors pass through it."""

    @property
    def calls(self) -> int:
        """Round trips so far."""

    @property
    def is_cluster(self) -> bool:
        """Whether a part of it may be away while the rest serves."""

    async def exchange(
        self, batch: Batch, *, timeout_seconds: float, wait_seconds: float, shared: bool = False
    ) -> Replies:
        """
        All replies in the order of the commands, and the first that is a refusal.

        `shared` sends a single, short command over a connection that all such calls share.
        """

    async def exchange_each(
        self, batch: Batch, *, timeout_seconds: float, wait_seconds: float
    ) -> list[Any]:
        """
        For each command its reply or error, over connections that such calls share.

        Raises where nothing was sent.
        """

    async def everywhere(self, batch: Batch, *, timeout_seconds: float) -> None:
        """Send the same to every server that takes writes."""

    async def each(self, command: Command, *, timeout_seconds: float) -> dict[str, Any]:
        """What every server that takes writes answers, or the exception instead, by its name."""

    async def refresh(self, *, timeout_seconds: float) -> None:
        """Look again at which server has what, if that can change."""

    async def ping(self, *, timeout_seconds: float) -> None:
        """Whether any server answers."""

    def dedicated(self) -> AbstractAsyncContextManager[AbstractConnection]:
        """A connection outside the pool, to where the push channel is; closed at the end."""

    def is_current(self, connection: AbstractConnection) -> bool:
        """Whether the push channel is still where this connection leads."""

    async def aclose(self) -> None:
        """Close all connections."""


class RedisConnection:
    """
    Commands and scripts against one Redis or Redis Cluster, each within a timeout.

    A call that is cancelled or out of time closes its connection: its reply may still be on
    the way, and the next caller must not read it. `calls` counts round trips.
    """

    def __init__(self, link: Link, *, timeout_seconds: float) -> None:
        """Use a link that does not retry; `from_url` makes one."""
        self._link = link
        self._timeout_seconds = timeout_seconds
        self.watch = ShardWatch()
        self.homes = ShardHomes(self)

    @property
    def is_cluster(self) -> bool:
        """Whether a part of it may be away while the rest serves."""
        return self._link.is_cluster

    @property
    def calls(self) -> int:
        """Round trips so far."""
        return self._link.calls

    @classmethod
    def from_url(cls, url: str, *, connections_max: int = 64, timeout_seconds: float = 2.0) -> Self:
        """
        Describe the connections to a URL; opens none yet.

        Args:
            url: `redis://`, `rediss://` or `unix://` for one server, `redis+cluster://` or
                `rediss+cluster://` with some nodes for a cluster. May hold user and password; it
                never appears in an error.
            connections_max: To one server; callers beyond it wait, within their own timeout.
            timeout_seconds: For connecting, and for calls that name no other timeout.

        Raises:
            ConfigError: If the URL cannot be used.
        """
        link: Link
        if is_cluster_url(url):
            link = Cluster(
                parse_cluster_url(url),
                connections_max=connections_max,
                timeout_seconds=timeout_seconds,
            )
        else:
            link = Server.from_url(
                url, connections_max=connections_max, timeout_seconds=timeout_seconds
            )
        return cls(link, timeout_seconds=timeout_seconds)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._link.aclose()

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
        with Exchange(str(batch[0][0]).lower()):
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
        restarted), which cannot have had an effect. The first call after a shard's slot has moved
        also looks where it is.

        Args:
            script: One of `scripts`.
            keys, arguments: As its file lists them.
            timeout_seconds: For the server's answer.
            wait_seconds: For a free connection, before that; as long as the timeout if None.

        Raises:
            StoreUnavailable: No answer in time, an error for an answer, or a shard that lost data.
        """
        shard = keys[script.shard_key]
        asked = self.watch.known(shard)
        timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        wait = timeout if wait_seconds is None else wait_seconds
        given = (*arguments, *(asked if script.guarded else ()))
        with Exchange(script.name):
            started = time.monotonic()
            reply = await self._call(script, keys, given, timeout, wait)
            if not script.guarded:
                return reply
            if _is_elsewhere(reply):
                # Nothing was done, so it may be asked for again.
                left = max(0.0, wait + timeout - (time.monotonic() - started))
                async with asyncio.timeout(left):
                    if await self.homes.settle_in(shard):
                        reply = await self._call(script, keys, given, left, left)
            return self._heard(shard, asked, reply)

    async def run_each(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """
        Run a guarded script once for each call, all of them sent by one write.

        Args:
            script: One that is `frequent`.
            calls: Keys and arguments of each, as `run` takes them.

        Returns:
            For each call what `run` would answer, or the StoreUnavailable that it would raise.
        """
        assert script.guarded, script.name
        if not calls:
            return []
        place, known, timeout = script.shard_key, self.watch.known, self._timeout_seconds
        asked = [known(keys[place]) for keys, _ in calls]
        batch = [
            ("EVALSHA", script.sha, len(keys), *keys, *arguments, *position)
            for (keys, arguments), position in zip(calls, asked, strict=True)
        ]
        try:
            with Exchange(script.name) as exchange:
                replies = await self._link.exchange_each(
                    batch, timeout_seconds=timeout, wait_seconds=timeout
                )
                exchange.failed = any(isinstance(reply, Exception) for reply in replies)
        except StoreUnavailable as error:
            return [error] * len(calls)
        answers = []
        for (keys, arguments), position, reply in zip(calls, asked, replies, strict=True):
            try:
                if not isinstance(reply, Exception) and not _is_elsewhere(reply):
                    answers.append(self._heard(keys[place], position, reply))
                elif isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                    ours = translate(reply)
                    raise (reply if ours is None else ours) from reply
                else:
                    # Nothing was done, so it may be asked for again, with more patience.
                    answers.append(await self.run(script, keys, arguments))
            except StoreUnavailable as error:
                answers.append(error)
        return answers

    def _heard(self, shard: str, asked: Position, reply: Any) -> Any:
        """A guarded script's answer. Raises StoreUnavailable: the shard has lost data."""
        epoch, before, after = int(reply[0]), int(reply[1]), int(reply[2])
        self.watch.take(shard, asked, (epoch, after), before=(epoch, before))
        return reply[_WITHOUT_ANSWER] if len(reply) > _WITHOUT_ANSWER else None

    async def _call(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        timeout_seconds: float,
        wait_seconds: float,
    ) -> Any:
        tail = (len(keys), *keys, *arguments)
        for command in (("EVALSHA", script.sha), ("EVAL", script.source)):
            try:
                (reply,) = await self._exchange(
                    [(*command, *tail)],
                    timeout_seconds=timeout_seconds,
                    wait_seconds=wait_seconds,
                    shared=script.frequent,
                )
            except NoScriptError:
                continue
            return reply
        raise StoreUnavailable("redis takes no scripts")

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[AbstractConnection]:
        """
        A connection outside the pool, for a subscription; closed at the end.

        Raises:
            StoreUnavailable: It cannot be opened, or what the caller does with it fails.
        """
        with Exchange(""):
            async with self._link.dedicated() as connection:
                yield connection

    def is_current(self, connection: AbstractConnection) -> bool:
        """Whether a dedicated connection still leads to where the push channel is."""
        return self._link.is_current(connection)

    async def load_scripts(self) -> None:
        """Make every script known to the server, so that the first calls need one round trip."""
        batch = [("SCRIPT", "LOAD", script.source) for script in ALL]
        with Exchange("script"):
            await self._link.everywhere(batch, timeout_seconds=self._timeout_seconds)

    async def each(self, *command: Argument) -> dict[str, Any]:
        """
        What each server that takes writes answers, by name; of one server the name is empty.

        Where a node of a cluster does not answer, its answer is the exception.

        Raises:
            StoreUnavailable: None of them answered.
        """
        with Exchange(str(command[0]).lower()):
            return await self._link.each(command, timeout_seconds=self._timeout_seconds)

    async def refresh(self) -> None:
        """Look again at which node of a cluster has what. Raises StoreUnavailable."""
        with Exchange(""):
            await self._link.refresh(timeout_seconds=self._timeout_seconds)

    async def ping(self) -> None:
        """Whether the server, or any node of a cluster, answers. Raises StoreUnavailable."""
        with Exchange("ping"):
            await self._link.ping(timeout_seconds=self._timeout_seconds)

    async def _exchange(
        self,
        batch: Sequence[Sequence[Argument]],
        *,
        timeout_seconds: float,
        wait_seconds: float,
        shared: bool = False,
    ) -> list[Any]:
        replies, refusal = await self._link.exchange(
            batch, timeout_seconds=timeout_seconds, wait_seconds=wait_seconds, shared=shared
        )
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


def _is_elsewhere(reply: Any) -> bool:
    """Whether a guarded script says that its shard is on another node than it was."""
    return (int(reply[0]), int(reply[2])) == ELSEWHERE
