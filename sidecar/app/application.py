"""
Makes the parts that the settings ask for, and starts and stops them in order.

A store that is away at the start is waited for: the process listens, and is not ready meanwhile.
"""

import asyncio
import os
import secrets
import socket
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from sidecar import telemetry
from sidecar.app.data_plane import DataPlane
from sidecar.app.foresight import Foresight
from sidecar.app.journaling import Journaling
from sidecar.app.keys import load_secrets
from sidecar.app.loop_watch import watch_loop
from sidecar.app.parts import SystemClock
from sidecar.app.recovery import Recovery
from sidecar.app.servers import Servers
from sidecar.app.stores import STORE_PAUSE_SECONDS, Stores
from sidecar.app.workers import Workers
from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.domain.identity import key_sets
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.outbound.embedded import default_data_dir
from sidecar.outbound.jwks import JwksVerifier
from sidecar.outbound.keyed_hashes import KeyedDigests, SignedHoldTokens
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.outbound.redis.allotting import RedisBlocks
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.directory import RedisDirectory
from sidecar.outbound.redis.health import server_version
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.push import Caches, PushListener
from sidecar.outbound.redis.quarantine import RedisQuarantine
from sidecar.outbound.redis.rate_cards import RedisRateCards
from sidecar.services.allotments import AllottedHolds
from sidecar.services.check import CheckService
from sidecar.services.metering import MeteringService
from sidecar.services.publishing import PublishedPolicies
from sidecar.settings import Role, Settings
from sidecar.settings_allotments import Allotments

if TYPE_CHECKING:
    from sidecar.app.control_plane import ControlPlane
    from sidecar.outbound.postgres.pool import Pool

SETTLED_POLL_SECONDS = 0.05


class Application:
    """
    One process in its roles, as an async context manager.

    Inside the context it serves; `problems()` says what keeps it from being ready. Leaving
    it drains: listeners close first, checks in progress end, workers stop after their round.
    """

    def __init__(
        self, settings: Settings, *, workers: bool = True, is_worker: bool = False
    ) -> None:
        """
        Take the settings; nothing is opened before `async with`.

        Args:
            settings: As they were read.
            workers: Whether settlement's rounds run by themselves; the caller runs them if not.
            is_worker: Whether other processes like it serve beside it, under a supervisor.
        """
        self.settings = settings
        self._is_worker = is_worker
        self._runs_workers = workers
        self.data_dir = settings.data_dir or default_data_dir()
        self.clock = SystemClock()
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.stop = asyncio.Event()
        self.stores = Stores(settings, self.data_dir)
        self.grpc_address = self.grpc_fast_address = ""
        self.http_address = self.admin_address = ""
        self.keyspace = Keyspace(settings.shards)
        self.loaded = PolicyHolder(settings.policy_dir)
        self.journaling = Journaling()
        self._stack = AsyncExitStack()
        self.plane: DataPlane
        self.control: ControlPlane
        self._workers: Workers

    async def __aenter__(self) -> Self:
        """Start everything; on failure what was started is stopped again."""
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """
        Stop in the reverse order of the start.

        Raises:
            ConfigError: Why it stopped by itself, if that is why.
        """
        await self._close()

    async def _close(self) -> None:
        try:
            await self._stack.aclose()
        except ExceptionGroup as group:
            # What a worker found out that ends the process, in the words of its own error.
            found = group.subgroup(ConfigError)
            if found is None:
                raise
            raise ConfigError("; ".join(str(error) for error in found.exceptions)) from group

    def problems(self) -> list[str]:
        """What keeps this process from being ready; empty if nothing does."""
        found = [f"{store}: {problem}" for store, problem in sorted(self.stores.problems.items())]
        if not self.policies.ready:
            found.append("policy: not published yet")
        return found

    def look_at_policy(self) -> None:
        """Look at the policy files now; nothing before they were first loaded."""
        self.loaded.look_soon()

    @property
    def pool(self) -> "Pool":
        """The database of record; only with a role that needs it."""
        return self.stores.pool

    async def redis_version(self) -> str:
        """The live store's version."""
        return await server_version(self.stores.redis)

    async def wait_settled(self) -> None:
        """Wait until the workers have taken everything off the streams; bound it yourself."""
        for shard in range(self.settings.shards):
            while await self.control.stream.read(shard, "0-0", 1):
                await self._workers.sleep(SETTLED_POLL_SECONDS)

    async def _start(self) -> None:
        self.secrets = load_secrets(self.settings, self.data_dir)
        self._stack.push_async_callback(self.loaded.close)
        await self.loaded.load_initial()
        await self.stores.open(self._stack)
        await self.journaling.open(self._stack, self.settings, self.data_dir, self.keyspace)
        self._make_data_plane()
        self.plane = self._plane()
        if self.stores.wants_postgres:
            # Half of a gateway's start, and a fifth of its memory, were what this imports.
            from sidecar.app.control_plane import ControlPlane  # noqa: PLC0415  Gateways need none.
            from sidecar.app.rebuilding import look_for_lost_shards  # noqa: PLC0415  Nor this.

            self.control = ControlPlane(self.plane, self.pool, self._stack, owner=self.owner)
            look_for_lost_shards(self.recovery, self.plane, self.pool, self.control.drain_shard)
        with suppress(StoreUnavailable):
            # A store that does not answer yet is waited for by the workers.
            await self.stores.look_at_redis()
            await self.policies.publish()
            await self.recovery.open_if_new()
        self._workers = await self._stack.enter_async_context(Workers(self.stop))
        # Registered after the group, so it runs before the group waits for its tasks; the
        # listeners are registered later still, so they have closed by then.
        self._stack.callback(self.stop.set)
        self._start_workers()
        await self._start_servers()
        telemetry.get_logger().info(
            "sidecar_started",
            roles=sorted(self.settings.roles),
            grpc=self.grpc_address,
            grpc_fast=self.grpc_fast_address,
            http=self.http_address,
            admin=self.admin_address,
        )

    def _make_data_plane(self) -> None:
        settings, clock = self.settings, self.clock
        self.foresight = Foresight(settings, self.stores.redis, self.keyspace)
        self.rate_cards = RedisRateCards(self.stores.redis)
        self.policies = PublishedPolicies(
            self.loaded, self.rate_cards, poll_seconds=STORE_PAUSE_SECONDS
        )
        self.loaded.on_change = self.policies.notice
        self.digests = KeyedDigests(self.secrets.ring)
        self.tokens = SignedHoldTokens(self.secrets.ring)
        self.balances = RedisBalances(
            self.stores.redis,
            self.keyspace,
            clock,
            store_timeout_seconds=settings.store_timeout_ms / 1_000,
            teller=self.owner,
        )
        self.directory = RedisDirectory(
            self.stores.redis,
            self.keyspace,
            entries_max=settings.directory_entries_max,
            seconds=settings.directory_seconds,
        )
        self.recovery = Recovery(settings, self.stores.redis, self.keyspace)
        self.recovery.show_facts_again(self.rate_cards, self.directory)
        self.allotted = self._make_allotted()
        self.push = self._make_push()
        self.jwt_keys = JwksVerifier(lambda: key_sets(self.loaded.current().identity))
        self.checks = CheckService(
            policies=self.policies,
            directory=self.directory,
            balances=self.allotted or self.balances,
            tokens=self.tokens,
            digests=self.digests,
            clock=clock,
            read_facts=read_request_facts,
            hold_ttl_ms=settings.hold_ttl_seconds * 1_000,
            decision_log=self.foresight.log,
            jwt_verifier=self.jwt_keys,
        )
        self.quarantine = RedisQuarantine(self.stores.redis, self.keyspace)
        self.metering = MeteringService(
            balances=self.balances,
            directory=self.directory,
            rate_cards=self.rate_cards,
            tokens=self.tokens,
            digests=self.digests,
            policies=self.policies,
            quarantine=self.quarantine,
            hold_ttl_ms=settings.hold_ttl_seconds * 1_000,
            journal=self.journaling.journal,
        )
        self.journaling.connect(self.stores.redis, self.keyspace, self.balances, self.quarantine)
        self.recovery.show_journal_again(self.journaling)

    def _make_allotted(self) -> AllottedHolds | None:
        settings = self.settings
        if settings.allotments is Allotments.OFF or not settings.has(Role.GATEWAY):
            return None
        return AllottedHolds(
            self.balances,
            RedisBlocks(self.stores.redis, self.keyspace, teller=self.owner),
            self.clock,
            monotonic=time.monotonic,
            random_bytes=secrets.token_bytes,
            blocks_max=settings.allotment_blocks_max,
            holds_max=settings.allotment_holds_max,
        )

    def _make_push(self) -> PushListener:
        look_soon = self.loaded.look_soon
        if self.allotted is None:
            return PushListener(self.stores.redis, self.directory, on_policy=look_soon)
        caches = Caches(self.directory, self.allotted)
        return PushListener(
            self.stores.redis, caches, on_policy=look_soon, on_recall=self.allotted.recall
        )

    def _plane(self) -> DataPlane:
        return DataPlane(
            settings=self.settings,
            secrets=self.secrets,
            clock=self.clock,
            redis=self.stores.redis,
            keyspace=self.keyspace,
            loaded=self.loaded,
            policies=self.policies,
            rate_cards=self.rate_cards,
            balances=self.balances,
            directory=self.directory,
            digests=self.digests,
            tokens=self.tokens,
            quarantine=self.quarantine,
            checks=self.checks,
            metering=self.metering,
            foresight=self.foresight,
            problems=self.problems,
        )

    async def _start_servers(self) -> None:
        servers = Servers(self.plane)
        if self.settings.has(Role.GATEWAY):
            self.grpc_address, self.grpc_fast_address = await servers.start_grpc(self._stack)
            self.http_address = await servers.start_http(self._stack, shared_port=self._is_worker)
        if self.settings.has(Role.ADMIN):
            self.admin_address = await self.control.serve(self._stack)

    def _start_workers(self) -> None:
        settings, start = self.settings, self._workers.start
        known = partial(self.stores.wait_for_redis, self.stop)
        start("loop_watch", watch_loop)
        start("redis_watch", self.stores.watch_redis)
        start("policy_watch", lambda stop: self.loaded.watch(stop, settings.policy_watch_seconds))
        start("publishing", self.policies.run, after=known)
        start("releases", self.checks.run_releases, after=known)
        self.recovery.start(self._workers, after=known, looks=self._runs_workers)
        self.foresight.start(self._workers, after=known, moves=self._runs_workers)
        if settings.has(Role.GATEWAY):
            start("jwt_keys", self.jwt_keys.run)
            start("push", self.push.run, after=known)
        if self.allotted is not None:
            start("allotments", self.allotted.run, after=known)
        self.journaling.start(self._workers, after=known)
        if self.stores.wants_postgres:
            start("postgres_watch", self.stores.watch_postgres)
        if self._runs_workers and self.stores.wants_postgres:
            self.control.start(self._workers, after=known)
