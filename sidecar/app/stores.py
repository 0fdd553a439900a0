"""The stores of one process: opened, started where they are embedded, and watched."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.app.running import told
from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.embedded import EmbeddedRedis
from sidecar.outbound.redis.connection import RedisConnection, fix_shards
from sidecar.outbound.redis.keys import META, OPENED_FIELD
from sidecar.settings import Role, Settings

if TYPE_CHECKING:
    from sidecar.outbound.postgres.pool import Pool

STORE_PAUSE_SECONDS = 0.5
"""Between two looks at a store that is away."""


class Stores:
    """
    Redis and, where a role needs it, Postgres.

    `problems` says of each store what keeps it from being used; empty if nothing does.
    """

    redis: RedisConnection
    pool: "Pool"

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        """Take the settings; `open` opens."""
        self._settings = settings
        self._data_dir = data_dir
        self._redis_known = False
        self._redis_opened = False
        self.problems: dict[str, str] = {}
        self.redis_url = settings.redis_url
        self.postgres_dsn = settings.postgres_dsn

    @property
    def wants_postgres(self) -> bool:
        """Whether a role of this process works on Postgres."""
        return self._settings.has(Role.SETTLEMENT) or self._settings.has(Role.ADMIN)

    async def open(self, stack: AsyncExitStack) -> None:
        """Start embedded servers and open connections; the stack closes them."""
        settings = self._settings
        if settings.embedded_redis:
            redis = EmbeddedRedis(self._data_dir, settings.redis_server or None)
            self.redis_url = await stack.enter_async_context(redis)
        if settings.embedded_postgres:
            from sidecar.outbound.embedded.postgres_server import (  # noqa: PLC0415  The driver comes along.
                EmbeddedPostgres,
            )
            from sidecar.outbound.postgres.migrating import (  # noqa: PLC0415  SQLAlchemy comes along.
                migrate,
            )

            postgres = EmbeddedPostgres(self._data_dir)
            self.postgres_dsn = await stack.enter_async_context(postgres)

            await migrate(self.postgres_dsn)
        if settings.embedded_redis or settings.embedded_postgres:
            stack.enter_context(
                told(self._data_dir, redis_url=self.redis_url, postgres_dsn=self.postgres_dsn)
            )
        self.redis = RedisConnection.from_url(
            self.redis_url,
            connections_max=settings.redis_connections_max,
            timeout_seconds=settings.usage_store_timeout_ms / 1_000,
        )
        stack.push_async_callback(self.redis.aclose)
        if self.wants_postgres:
            from sidecar.outbound.postgres.pool import (  # noqa: PLC0415  Gateways need no driver.
                open_pool,
            )

            self.problems["postgres"] = "not looked at yet"
            self.pool = await open_pool(
                self.postgres_dsn, size_max=settings.postgres_connections_max
            )
            stack.push_async_callback(self.pool.close)

    async def look_at_redis(self) -> None:
        """
        Raises StoreUnavailable, or ConfigError for a store of another number of shards.

        Of a cluster, once it is known, one node that answers is enough: a process that serves
        the other nodes' shards must not be taken out because of one.
        """
        await self.redis.refresh()
        try:
            await fix_shards(self.redis, self._settings.shards)
        except StoreUnavailable:
            if not (self._redis_known and self.redis.is_cluster):
                raise
            await self.redis.ping()
        if not self._redis_known or "redis" in self.problems:
            await self.redis.load_scripts()
        self._redis_known = True

    async def wait_for_redis(self, stop: asyncio.Event) -> None:
        """Work on a store must not begin before it is known to have as many shards as we."""
        while not self._redis_known and not stop.is_set():
            await _pause(stop)

    async def watch_redis(self, stop: asyncio.Event) -> None:
        """Look at Redis until stopped."""
        while not stop.is_set():
            try:
                await self.look_at_redis()
                if await self._is_opened():
                    self.problems.pop("redis", None)
                else:
                    self.problems["redis"] = (
                        "its shards are not opened yet, which a settlement process does"
                    )
            except StoreUnavailable as error:
                self.problems["redis"] = str(error)
            await _pause(stop)

    async def _is_opened(self) -> bool:
        """Whether all shards were opened once; of a cluster, remembered while its node is away."""
        try:
            opened = bool(await self.redis.command("HEXISTS", META, OPENED_FIELD))
        except StoreUnavailable:
            if not (self._redis_opened and self.redis.is_cluster):
                raise
            return True
        self._redis_opened = opened
        return opened

    async def watch_postgres(self, stop: asyncio.Event) -> None:
        """Look at Postgres until stopped; it is usable once its schema is this version's."""
        from sidecar.outbound.postgres.pool import ping  # noqa: PLC0415  As above.

        migrated = False
        while not stop.is_set():
            try:
                if migrated:
                    await ping(self.pool)
                else:
                    migrated = await self._look_at_schema()
                if migrated:
                    self.problems.pop("postgres", None)
            except (StoreUnavailable, ConfigError) as error:
                self.problems["postgres"] = str(error)
            await _pause(stop)

    async def _look_at_schema(self) -> bool:
        from sidecar.outbound.postgres.migrating import (  # noqa: PLC0415  SQLAlchemy comes along.
            schema_status,
        )

        current, head = await schema_status(self.postgres_dsn)
        if current != head:
            self.problems["postgres"] = (
                f"its schema is {current}, this version needs {head}; run `sidecar migrate`"
            )
        return current == head


async def _pause(stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), STORE_PAUSE_SECONDS)
