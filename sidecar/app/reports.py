"""The parts about reports to the billing provider, and which of them work in the background."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from sidecar import telemetry
from sidecar.app.keys import read_secret
from sidecar.app.workers import Run
from sidecar.domain.errors import ConfigError
from sidecar.inbound.http.admin_edge import ReportUseCases
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.pool import Pool
from sidecar.outbound.postgres.provider_customers import PostgresProviderCustomers
from sidecar.outbound.postgres.report_rows import (
    PostgresReadBudget,
    PostgresReconciliations,
    PostgresSettlements,
)
from sidecar.outbound.stripe.client import STRIPE_API, StripeConnection
from sidecar.outbound.stripe.customers import StripeAccounts
from sidecar.outbound.stripe.probing import Probed, StripeDoctor
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.outbound.stripe.summaries import StripeMeterSums
from sidecar.outbound.stripe.top_ups import StripePaymentPages, StripeTopUps
from sidecar.services.control_ports import Accounts, MeterReporter
from sidecar.services.credits import CreditService
from sidecar.services.invoice_sums import InvoiceSums
from sidecar.services.onboarding import Onboarding
from sidecar.services.ports import Clock, Policies
from sidecar.services.report_reconciling import ReconcileTimes, ReportReconciler
from sidecar.services.reporting import Reporter
from sidecar.services.rounds import run_rounds
from sidecar.services.settlements import SettlementService
from sidecar.services.top_up_sessions import TopUpSessionService
from sidecar.settings import Role, Settings
from sidecar.settings_reports import StripeCustomers, TopUpBy

WATCH_SECONDS = 30.0
"""How often the rows that the provider does not have are counted."""
RECONCILE_PAUSE_SECONDS = 600.0
RECONCILE_ROUNDS_A_DAY = 12
"""Lanes that wait for their second reading are looked at in time for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportParts:
    """The use cases, what a command may run once, and the background work by name."""

    use_cases: ReportUseCases
    reporter: Reporter | None = None
    reconciler: ReportReconciler | None = None
    onboarding: Onboarding | None = None
    sums: InvoiceSums | None = None
    workers: dict[str, Run] = field(default_factory=dict)


def connect_stripe(settings: Settings, stack: AsyncExitStack) -> StripeConnection | None:
    """A client, closed with the stack; None without a key. Raises ConfigError."""
    if settings.stripe_api_key_file is None:
        return None
    connection = StripeConnection(
        read_secret(settings.stripe_api_key_file), base_url=settings.stripe_base_url or STRIPE_API
    )
    stack.push_async_callback(connection.close)
    return connection


def make_stripe_top_ups(
    settings: Settings, stack: AsyncExitStack, accounts: Accounts
) -> StripeTopUps:
    """Who takes payments of automatic top-ups. Raises ConfigError without a key."""
    connection = connect_stripe(settings, stack)
    if connection is None:
        raise ConfigError("top_up_provider is stripe, which needs stripe_api_key_file")

    async def find(customer_id: str) -> str | None:
        customer = await accounts.read_customer(customer_id)
        return None if customer is None else customer.stripe_customer_id

    return StripeTopUps(connection, find)


def make_reports(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    reporter: MeterReporter | None,
    pool: Pool,
    accounts: Accounts,
    credit: CreditService,
    policies: Policies,
    clock: Clock,
    report_every: Callable[[], Mapping[str, int]],
    owner: str,
) -> ReportParts:
    """
    Make the parts; what has to be closed is registered on the stack.

    `reporter` is told of quantities in place of Stripe.

    Raises:
        ConfigError: A setting or the key's file cannot be used.
    """
    connection = connect_stripe(settings, stack)
    record, lanes = PostgresSettlements(pool), PostgresReconciliations(pool)
    use_cases = ReportUseCases(
        settlements=SettlementService(record),
        reconciliations=lanes,
        top_up_sessions=TopUpSessionService(
            accounts=accounts,
            credit=credit,
            pages=None if connection is None else StripePaymentPages(connection),
        ),
    )
    if connection is None and settings.stripe_customers is not StripeCustomers.OFF:
        raise ConfigError("stripe_customers needs stripe_api_key_file")
    if not settings.has(Role.SETTLEMENT):
        return ReportParts(use_cases=use_cases)
    workers: dict[str, Run] = {}
    told = reporter or _stripe_reporter(settings, stack)
    sender = None
    if told is None:
        telemetry.get_logger().info("reporting_off", reason="no SIDECAR_STRIPE_API_KEY_FILE")
    else:
        sender = Reporter(
            PostgresOutbox(pool, provider=settings.report_to.value),
            told,
            clock,
            owner=owner,
            meters=report_every,
            concurrency_max=settings.report_concurrency_max,
            poll_seconds=settings.report_interval_seconds,
        )
        workers["reporting"] = sender.run
        workers["report_rows"] = _RowsWatch(record, make_budget(settings, pool), settings).run
    if connection is None:
        return ReportParts(use_cases=use_cases, reporter=sender, workers=workers)
    reconciler = onboarding = None
    if reporter is None:
        reconciler = _make_reconciler(settings, connection, pool, clock)
        workers["report_reconcile"] = reconciler.run
    if settings.stripe_customers is not StripeCustomers.OFF:
        onboarding = _make_onboarding(settings, connection, pool, policies, clock)
        workers["onboarding"] = onboarding.run
    return ReportParts(
        use_cases=use_cases,
        reporter=sender,
        reconciler=reconciler,
        onboarding=onboarding,
        sums=None if reporter else _make_sums(settings, connection, pool, clock),
        workers=workers,
    )


async def look_at_stripe(settings: Settings) -> Sequence[Probed]:
    """What `doctor` says of Stripe; nothing without a key. Raises ConfigError."""
    async with AsyncExitStack() as stack:
        connection = connect_stripe(settings, stack)
        if connection is None:
            return []
        return await StripeDoctor(connection).look(
            creates=settings.stripe_customers is StripeCustomers.CREATE,
            tops_up=settings.top_up_provider is TopUpBy.STRIPE,
        )


def make_report_reconciler(
    settings: Settings, stack: AsyncExitStack, pool: Pool, clock: Clock
) -> ReportReconciler | None:
    """For a command; None without a key."""
    connection = connect_stripe(settings, stack)
    return None if connection is None else _make_reconciler(settings, connection, pool, clock)


def _make_sums(
    settings: Settings, connection: StripeConnection, pool: Pool, clock: Clock
) -> InvoiceSums:
    budget = make_budget(settings, pool)
    return InvoiceSums(
        PostgresReconciliations(pool),
        _make_reconciler(settings, connection, pool, clock, budget),
        clock,
        begin_run=budget.begin_run,
    )


def _make_reconciler(
    settings: Settings,
    connection: StripeConnection,
    pool: Pool,
    clock: Clock,
    budget: PostgresReadBudget | None = None,
) -> ReportReconciler:
    budget = budget or make_budget(settings, pool)
    return ReportReconciler(
        PostgresReconciliations(pool),
        StripeMeterSums(connection, budget, clock),
        clock,
        times=ReconcileTimes(
            every_seconds=int(settings.report_reconcile_seconds),
            lag_seconds=settings.report_lag_seconds,
            reread_seconds=settings.report_reread_seconds,
        ),
        begin_run=budget.begin_run,
        interval_seconds=min(
            RECONCILE_PAUSE_SECONDS, settings.report_reconcile_seconds / RECONCILE_ROUNDS_A_DAY
        ),
    )


def make_budget(settings: Settings, pool: Pool) -> PostgresReadBudget:
    """Reads of Stripe: by month over all processes, by run in one part of one process."""
    return PostgresReadBudget(
        pool,
        month_max=settings.provider_reads_month_max,
        run_max=settings.provider_reads_run_max,
    )


def _stripe_reporter(settings: Settings, stack: AsyncExitStack) -> StripeMeterReporter | None:
    """A client of its own: reads must not wait behind reports, nor these behind reads."""
    if settings.stripe_api_key_file is None:
        return None
    provider = StripeMeterReporter(
        read_secret(settings.stripe_api_key_file),
        base_url=settings.stripe_base_url or STRIPE_API,
        connections_max=settings.report_concurrency_max,
    )
    stack.push_async_callback(provider.close)
    return provider


def _make_onboarding(
    settings: Settings,
    connection: StripeConnection,
    pool: Pool,
    policies: Policies,
    clock: Clock,
) -> Onboarding:
    budget = make_budget(settings, pool)
    accounts = StripeAccounts(
        connection,
        budget,
        field=settings.stripe_customer_field,
        pages_max=settings.stripe_list_pages_max,
    )
    return Onboarding(
        PostgresProviderCustomers(pool),
        accounts,
        policies,
        clock,
        creates=settings.stripe_customers is StripeCustomers.CREATE,
        subscribes=settings.stripe_subscriptions,
        begin_run=budget.begin_run,
        interval_seconds=settings.sweep_interval_seconds,
    )


class _RowsWatch:
    """Shows what the provider does not have, and how many reads are left."""

    def __init__(
        self, record: PostgresSettlements, budget: PostgresReadBudget, settings: Settings
    ) -> None:
        self._record = record
        self._budget = budget
        self._month_max = settings.provider_reads_month_max

    async def run(self, stop: asyncio.Event) -> None:
        """Count until stopped."""
        await run_rounds(stop, self._look, name="report_rows", pause_seconds=WATCH_SECONDS)

    async def _look(self) -> None:
        found = await self._record.states()
        for state in ("open", "pending", "failed", "uncertain", "homeless"):
            telemetry.REPORT_ROWS.labels(state).set(found.get(state, 0))
        left = max(0, self._month_max - await self._budget.used())
        telemetry.PROVIDER_READS.labels("stripe").set(left)
