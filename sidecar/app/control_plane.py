"""The parts over the database of record: use cases of the admin role, and settlement."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from sidecar import telemetry
from sidecar.app.credits import make_credit
from sidecar.app.data_plane import DataPlane
from sidecar.app.keys import read_secret
from sidecar.app.providers import make_providers
from sidecar.app.reconciling import make_reconciler
from sidecar.app.recovery import make_claims
from sidecar.app.servers import new_id
from sidecar.app.workers import Workers
from sidecar.domain.errors import SidecarError
from sidecar.inbound.http.edge import AdminUseCases
from sidecar.outbound.keyed_hashes import LedgerRootKeys
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.idempotency import PostgresIdempotencyKeys
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.ledger_roots import PostgresLedgerRoots
from sidecar.outbound.postgres.meter_usage import PostgresMeterUsage
from sidecar.outbound.postgres.orphan_counts import PostgresOrphanCounts
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.postgres.reconcile_runs import PostgresReconcileRuns
from sidecar.outbound.postgres.thresholds import PostgresThresholds
from sidecar.outbound.redis.accounts import RedisLiveAccounts
from sidecar.outbound.redis.open_holds import RedisOpenHolds
from sidecar.outbound.redis.push import RedisPolicyNotices
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.outbound.redis.used_counters import RedisUsedCounters
from sidecar.outbound.stripe.client import STRIPE_API
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.accounts import AccountService
from sidecar.services.ledger_roots import DailyRoots
from sidecar.services.meter_queries import MeterQueries
from sidecar.services.orphans import OrphanSettlement
from sidecar.services.reloading import PolicyReloads
from sidecar.services.reporting import Reporter
from sidecar.services.settlement import SettlementWorker
from sidecar.services.sweeping import Sweeper
from sidecar.services.thresholds import Thresholds
from sidecar.settings import Role

FORGET_PAUSE_SECONDS = 600.0


class ControlPlane:
    """What a process with the role admin or settlement has besides checks and usage."""

    def __init__(self, plane: DataPlane, pool: Pool, stack: AsyncExitStack, *, owner: str) -> None:
        """
        Make the parts; what has to be closed is registered on the stack.

        Args:
            plane: Checks and usage of this process.
            pool: The database of record.
            stack: Of what is closed at the end.
            owner: This process's name on leases.

        Raises:
            ConfigError: A setting or a file of a secret cannot be used.
        """
        self._plane = plane
        self._pool = pool
        self._stack = stack
        self._owner = owner
        self.reporter: Reporter | None = None
        accounts = PostgresAccounts(pool)
        live = RedisLiveAccounts(plane.redis, plane.keyspace)
        self.accounts = AccountService(
            accounts=accounts,
            live=live,
            policies=plane.loaded,
            digests=plane.digests,
            clock=plane.clock,
            new_id=new_id,
            new_secret=lambda: f"sk_{secrets.token_urlsafe(32)}",
        )
        self.credit = make_credit(
            plane.settings,
            stack,
            accounts=accounts,
            live=live,
            policies=plane.loaded,
            clock=plane.clock,
            pool=pool,
        )
        self.providers = make_providers(
            plane.settings, stack, accounts=accounts, clock=plane.clock, pool=pool
        )
        plane.foresight.use_postgres(pool)
        self.reconciler = make_reconciler(plane.redis, plane.keyspace, pool, plane.clock)
        self.reconcile_runs = PostgresReconcileRuns(pool)
        self.ledger_roots = PostgresLedgerRoots(pool, LedgerRootKeys(plane.secrets.ring))
        if plane.settings.has(Role.SETTLEMENT):
            self._make_settlement()
            self._make_reporter()

    @property
    def drain_shard(self) -> Callable[[int], Awaitable[int]] | None:
        """Settles one shard; None where this process does not settle."""
        settles = self._plane.settings.has(Role.SETTLEMENT)
        return self.settlement.drain_shard if settles else None

    def use_cases(self) -> AdminUseCases:
        """What the admin role serves."""
        plane, credit = self._plane, self.credit
        return AdminUseCases(
            accounts=self.accounts,
            credits=credit.credit,
            schedules=credit.schedules,
            top_ups=credit.top_ups,
            provider_customers=self.providers.customers,
            collections=self.providers.collections,
            withdrawals=credit.withdrawals,
            decisions=plane.foresight.table,
            explanations=plane.foresight.explanations(
                plane.loaded, plane.directory, plane.balances
            ),
            meters=MeterQueries(PostgresMeterUsage(self._pool), plane.loaded, plane.clock),
            reloads=PolicyReloads(plane.loaded, RedisPolicyNotices(plane.redis)),
            thresholds=PostgresThresholds(self._pool),
            holds=RedisOpenHolds(plane.redis, plane.keyspace),
            reconciler=self.reconciler,
            reconcile_runs=self.reconcile_runs,
            ledger_roots=self.ledger_roots,
        )

    def start(self, workers: Workers, *, after: Callable[[], Awaitable[None]]) -> None:
        """Start the background work of the process's roles; settlement's once Redis is there."""
        settings, start = self._plane.settings, workers.start
        if settings.has(Role.ADMIN):
            start("idempotency", partial(self._forget_idempotency_keys, workers))
        if settings.has(Role.SETTLEMENT):
            start("sweep", self.sweeper.run, after=after)
            start("settlement", self.settlement.run, after=after)
            start("thresholds", self.thresholds.run, after=after)
            start("ledger_roots", self.roots.run)
            seconds = settings.reconcile_interval_seconds
            keep = self.reconcile_runs.keep
            compare = partial(self.reconciler.run, interval_seconds=seconds, keep=keep)
            start("reconcile", compare, after=after)
            for name, run in self.credit.workers.items():
                start(name, run, after=after)
            for name, run in self.providers.workers.items():
                start(name, run)
        if self.reporter is not None:
            start("reporting", self.reporter.run)

    def _make_settlement(self) -> None:
        plane, pool = self._plane, self._pool
        settings, redis, keyspace = plane.settings, plane.redis, plane.keyspace
        shards = range(settings.shards)
        self.sweeper = Sweeper(
            balances=plane.balances,
            metering=plane.metering,
            shards=shards,
            interval_seconds=settings.sweep_interval_seconds,
            orphans=OrphanSettlement(
                policies=plane.policies, counts=PostgresOrphanCounts(pool), clock=plane.clock
            ),
        )
        self.thresholds = Thresholds(
            counters=RedisUsedCounters(redis, keyspace),
            record=PostgresThresholds(pool),
            accounts=PostgresAccounts(pool),
            policies=plane.policies,
            clock=plane.clock,
            shards=shards,
            interval_seconds=settings.sweep_interval_seconds,
        )
        self.stream = RedisUsageStream(redis, keyspace)
        self.settlement = SettlementWorker(
            self.stream,
            PostgresLedger(pool, provider=settings.report_to.value),
            plane.rate_cards,
            plane.clock,
            owner=self._owner,
            shards=shards,
            batch_max=settings.settle_batch_max,
            lease_seconds=settings.lease_seconds,
            poll_seconds=settings.settle_interval_seconds,
            claims=make_claims(pool, redis, keyspace, plane.metering),
        )
        self.roots = DailyRoots(self.ledger_roots, plane.clock)

    def _make_reporter(self) -> None:
        plane, settings = self._plane, self._plane.settings
        provider = self.providers.reporter
        if provider is None:
            if settings.stripe_api_key_file is None:
                telemetry.get_logger().info(
                    "reporting_off", reason="no SIDECAR_STRIPE_API_KEY_FILE"
                )
                return
            stripe = StripeMeterReporter(
                read_secret(settings.stripe_api_key_file),
                base_url=settings.stripe_base_url or STRIPE_API,
            )
            self._stack.push_async_callback(stripe.close)
            provider = stripe
        self.reporter = Reporter(
            PostgresOutbox(self._pool, provider=settings.report_to.value),
            provider,
            plane.clock,
            owner=self._owner,
            report_every=timedelta(seconds=plane.loaded.loaded().report_every_seconds),
            concurrency_max=settings.report_concurrency_max,
            poll_seconds=settings.report_interval_seconds,
        )

    async def _forget_idempotency_keys(self, workers: Workers, stop: asyncio.Event) -> None:
        """Drop answers that have been kept long enough."""
        keys = PostgresIdempotencyKeys(self._pool)
        while not stop.is_set():
            try:
                await keys.sweep()
            except SidecarError as error:
                telemetry.WORKER_FAILURES.labels("idempotency").inc()
                telemetry.get_logger().warning("idempotency_sweep_failed", error=str(error))
            await workers.sleep(FORGET_PAUSE_SECONDS)
