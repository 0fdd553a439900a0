"""The parts over the database of record: use cases of the admin role, and settlement."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

from sidecar.app.admin_server import start_admin
from sidecar.app.credits import make_credit
from sidecar.app.data_plane import DataPlane
from sidecar.app.explaining import make_explanations
from sidecar.app.inbox import make_inbox
from sidecar.app.invoicing import make_invoicing
from sidecar.app.notices import make_notices
from sidecar.app.providers import make_providers
from sidecar.app.rebuilding import make_claims
from sidecar.app.reconciling import make_reconciler
from sidecar.app.reports import make_reports
from sidecar.app.servers import new_id
from sidecar.app.workers import Workers
from sidecar.inbound.http.admin_edge import AdminUseCases
from sidecar.outbound.keyed_hashes import LedgerRootKeys
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.decisions import PostgresDecisions
from sidecar.outbound.postgres.idempotency import PostgresIdempotencyKeys
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.ledger_roots import PostgresLedgerRoots
from sidecar.outbound.postgres.meter_usage import PostgresMeterUsage
from sidecar.outbound.postgres.orphan_counts import PostgresOrphanCounts
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.postgres.reconcile_runs import PostgresReconcileRuns
from sidecar.outbound.postgres.thresholds import PostgresThresholds
from sidecar.outbound.redis.accounts import RedisLiveAccounts
from sidecar.outbound.redis.open_holds import RedisOpenHolds
from sidecar.outbound.redis.push import RedisPolicyNotices
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.outbound.redis.used_counters import RedisUsedCounters
from sidecar.services.accounts import AccountService
from sidecar.services.ledger_roots import DailyRoots
from sidecar.services.meter_queries import MeterQueries
from sidecar.services.orphans import OrphanSettlement
from sidecar.services.reloading import PolicyReloads
from sidecar.services.rounds import run_rounds
from sidecar.services.settlement import SettlementWorker
from sidecar.services.sweeping import Sweeper
from sidecar.services.thresholds import Thresholds
from sidecar.settings import Role
from sidecar.settings_reports import StripeCustomers

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
        self._make_billing(accounts, live)
        plane.foresight.use_table(PostgresDecisions(pool))
        self.reconciler = make_reconciler(plane.redis, plane.keyspace, pool, plane.clock)
        self.reconcile_runs = PostgresReconcileRuns(pool)
        self.ledger_roots = PostgresLedgerRoots(pool, LedgerRootKeys(plane.secrets.ring))
        if plane.settings.has(Role.SETTLEMENT):
            self._make_settlement()

    def _make_billing(self, accounts: PostgresAccounts, live: RedisLiveAccounts) -> None:
        """From settled usage to payments: reports, invoices, webhooks in, and who is told of it."""
        plane, pool, stack, owner = self._plane, self._pool, self._stack, self._owner
        self.notices = make_notices(
            plane.settings, stack, pool=pool, clock=plane.clock, owner=owner
        )
        self.providers = make_providers(
            plane.settings,
            stack,
            accounts=accounts,
            clock=plane.clock,
            pool=pool,
            shard_of=plane.keyspace.shard_of,
        )
        self.reports = make_reports(
            plane.settings,
            stack,
            reporter=self.providers.reporter,
            pool=pool,
            accounts=accounts,
            credit=self.credit.credit,
            policies=plane.loaded,
            clock=plane.clock,
            report_every=lambda: plane.loaded.loaded().report_every,
            owner=owner,
        )
        self.invoicing = make_invoicing(
            plane.settings,
            pool=pool,
            stream=RedisUsageStream(plane.redis, plane.keyspace),
            rate_cards=plane.rate_cards,
            policies=plane.policies,
            clock=plane.clock,
            shard_of=plane.keyspace.shard_of,
        )
        self.inbox = make_inbox(
            plane.settings,
            stack,
            accounts=accounts,
            live=live,
            policies=plane.loaded,
            clock=plane.clock,
            pool=pool,
            credit=self.credit,
            owner=owner,
            shard_of=plane.keyspace.shard_of,
            report_errors=self.reports.use_cases.settlements,
            news=self.providers.collections,
            sums=self.reports.sums,
        )

    @property
    def drain_shard(self) -> Callable[[int], Awaitable[int]] | None:
        """Settles one shard; None where this process does not settle."""
        settles = self._plane.settings.has(Role.SETTLEMENT)
        return self.settlement.drain_shard if settles else None

    async def serve(self, stack: AsyncExitStack) -> str:
        """The admin role's API, until the stack is closed; its address. Raises ConfigError."""
        return await start_admin(self._plane, stack, self.use_cases(), self._pool)

    def use_cases(self) -> AdminUseCases:
        """What the admin role serves."""
        plane, credit = self._plane, self.credit
        return AdminUseCases(
            accounts=self.accounts,
            credits=credit.credit,
            schedules=credit.schedules,
            top_ups=credit.top_ups,
            invoices=self.invoicing.invoices,
            provider_customers=self.providers.customers,
            collections=self.providers.collections,
            withdrawals=credit.withdrawals,
            decisions=plane.foresight.table,
            explanations=make_explanations(
                plane.loaded, plane.directory, plane.balances, plane.foresight.table
            ),
            meters=MeterQueries(PostgresMeterUsage(self._pool), plane.loaded, plane.clock),
            reloads=PolicyReloads(plane.loaded, RedisPolicyNotices(plane.redis)),
            thresholds=PostgresThresholds(self._pool),
            holds=RedisOpenHolds(plane.redis, plane.keyspace),
            reconciler=self.reconciler,
            reconcile_runs=self.reconcile_runs,
            ledger_roots=self.ledger_roots,
            notices=self.notices.list,
            reports=self.reports.use_cases,
            standings=self.inbox.standings,
            webhooks=self.inbox.webhooks,
        )

    def start(self, workers: Workers, *, after: Callable[[], Awaitable[None]]) -> None:
        """Start the background work of the process's roles; settlement's once Redis is there."""
        settings, start = self._plane.settings, workers.start
        if settings.has(Role.ADMIN):
            start("idempotency", self._forget_idempotency_keys)
        if settings.has(Role.SETTLEMENT):
            start("sweep", self.sweeper.run, after=after)
            start("settlement", self.settlement.run, after=after)
            start("thresholds", self.thresholds.run, after=after)
            start("ledger_roots", self.roots.run)
            seconds = settings.reconcile_interval_seconds
            keep = self.reconcile_runs.keep
            compare = partial(self.reconciler.run, interval_seconds=seconds, keep=keep)
            start("reconcile", compare, after=after)
            waiting = (self.credit.workers, self.invoicing.workers, self.inbox.workers)
            for name, run in (pair for workers in waiting for pair in workers.items()):
                start(name, run, after=after)
            for name, run in self.notices.workers.items():
                start(name, run)
            for name, run in self.providers.workers.items():
                start(name, run)
        for name, run in self.reports.workers.items():
            start(name, run)

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
                policies=plane.policies,
                counts=PostgresOrphanCounts(pool),
                clock=plane.clock,
                notices=self.notices.record,
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
            PostgresLedger(
                pool,
                provider=settings.report_to.value,
                accounts_come=settings.stripe_customers is not StripeCustomers.OFF,
            ),
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

    async def _forget_idempotency_keys(self, stop: asyncio.Event) -> None:
        """Drop answers that have been kept long enough."""
        await run_rounds(
            stop,
            PostgresIdempotencyKeys(self._pool).sweep,
            name="idempotency",
            pause_seconds=FORGET_PAUSE_SECONDS,
            event="idempotency_sweep_failed",
        )
