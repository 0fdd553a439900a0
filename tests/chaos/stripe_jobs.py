"""Jobs about customers at Stripe: their accounts, their payments for credit, what was counted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from chaos.parts import SHORT_SECONDS, STRIPE_KEY, policies_of
from chaos.points import Stores
from fixtures.live_store import SystemClock
from fixtures.stripe_reports import UnboundedReads

from sidecar.domain.errors import Conflict, SidecarError
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.provider_customers import PostgresProviderCustomers
from sidecar.outbound.postgres.report_rows import PostgresReconciliations
from sidecar.outbound.postgres.top_ups import PostgresTopUps
from sidecar.outbound.redis.accounts import RedisLiveAccounts
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.customers import BY_ID, StripeAccounts
from sidecar.outbound.stripe.summaries import StripeMeterSums
from sidecar.outbound.stripe.top_ups import StripePaymentPages, StripeTopUps
from sidecar.services.credits import CreditService
from sidecar.services.onboarding import Onboarding
from sidecar.services.pending_credits import PendingCredits
from sidecar.services.report_reconciling import ReconcileTimes, ReportReconciler
from sidecar.services.schedules import ScheduleService
from sidecar.services.top_up_sessions import TopUpSessionService
from sidecar.services.top_ups import TopUpWorker
from sidecar.services.withdrawals import WithdrawalService

AT_ONCE = ReconcileTimes(every_seconds=3_600, lag_seconds=0, reread_seconds=0)
"""The stand-in's sums do not lag, and time is let pass between two readings by the world."""
PAGE_NANO = 600_000_000
PAGES_READ_MAX = 10


async def onboard(stores: Stores) -> None:
    """Take newcomers to Stripe, and subscribe them to their plan."""
    reach = stores.points.reach
    async with _stripe(stores) as connection:
        accounts = StripeAccounts(
            connection, UnboundedReads(), field=BY_ID, pages_max=PAGES_READ_MAX
        )
        worker = Onboarding(
            reach("newcomers", PostgresProviderCustomers(stores.pool)),
            reach("stripe", accounts),
            await policies_of(stores),
            SystemClock(),
            creates=True,
            subscribes=True,
        )
        await worker.run_once()


async def compare(stores: Stores) -> None:
    """Compare what was reported with what Stripe counted, and mend it."""
    reach = stores.points.reach
    async with _stripe(stores) as connection:
        sums = StripeMeterSums(connection, UnboundedReads(), SystemClock())
        worker = ReportReconciler(
            reach("comparisons", PostgresReconciliations(stores.pool)),
            reach("stripe", sums),
            SystemClock(),
            times=AT_ONCE,
        )
        await worker.run_once()


async def top_up(stores: Stores) -> None:
    """Ask for payments where credit falls short, and give what was paid."""
    reach = stores.points.reach
    accounts, credit = await _credit(stores)

    async def find(customer_id: str) -> str | None:
        customer = await accounts.read_customer(customer_id)
        return customer.stripe_customer_id if customer else None

    async with _stripe(stores) as connection:
        worker = TopUpWorker(
            record=reach("top_ups", PostgresTopUps(stores.pool)),
            credit=credit,
            provider=reach("stripe", StripeTopUps(connection, find)),
            # Payments are looked for by the instant of Stripe's clock.
            clock=SystemClock(),
            interval_seconds=SHORT_SECONDS,
        )
        await worker.look_once()


async def open_pages(stores: Stores) -> None:
    """Open the pages that buyers ask for."""
    accounts, credit = await _credit(stores)
    async with _stripe(stores) as connection:
        pages = stores.points.reach("pages", StripePaymentPages(connection))
        service = TopUpSessionService(accounts=accounts, credit=credit, pages=pages)
        for customer_id, reference in stores.task.pages:
            try:
                await service.open(
                    customer_id,
                    amount_nano=PAGE_NANO,
                    currency="USD",
                    reference=reference,
                    success_url="https://example.test/done",
                    cancel_url="https://example.test/no",
                )
            except Conflict:
                raise  # Nothing here is to be refused.
            except SidecarError:
                continue  # The buyer tries again.


async def finish_credit(stores: Stores) -> None:
    """What was intended and did not reach the live store."""
    accounts, credit = await _credit(stores)
    live: Any = stores.points.reach("live", RedisLiveAccounts(stores.connection, stores.keyspace))
    withdrawals = WithdrawalService(accounts=accounts, live=live, credit=credit)
    worker = PendingCredits(
        accounts=accounts,
        credit=credit,
        withdrawals=withdrawals,
        schedules=ScheduleService(accounts=accounts, credit=credit, clock=stores.clock),
        interval_seconds=SHORT_SECONDS,
    )
    await worker.apply_grants()
    await worker.apply_withdrawals()


async def _credit(stores: Stores) -> tuple[Any, CreditService]:
    reach = stores.points.reach
    accounts: Any = reach("accounts", PostgresAccounts(stores.pool))
    live: Any = reach("live", RedisLiveAccounts(stores.connection, stores.keyspace))
    policies = await policies_of(stores)
    credit = CreditService(accounts=accounts, live=live, policies=policies, clock=stores.clock)
    return accounts, credit


@asynccontextmanager
async def _stripe(stores: Stores) -> AsyncIterator[StripeConnection]:
    connection = StripeConnection(STRIPE_KEY, base_url=stores.task.stripe_url, timeout_seconds=1.0)
    try:
        yield connection
    finally:
        await connection.close()
