"""An invoice comes up at the stand-in, and its period's sums are compared at once."""

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from fixtures.inbox_world import PLANS
from fixtures.stripe_reports import (
    API_KEY,
    METER,
    PastClock,
    RealClock,
    UnboundedReads,
    add_customers,
    settle,
)
from fixtures.use_cases import FixedPolicies, make_policy

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.postgres.fetched import PostgresFetched
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.report_rows import PostgresReconciliations
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.objects import StripeObjects
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.outbound.stripe.summaries import StripeMeterSums
from sidecar.services.inbox_handlers import ObjectHandlers
from sidecar.services.inbox_ports import InboxState
from sidecar.services.invoice_sums import InvoiceSums, whole_hours
from sidecar.services.report_ports import BudgetSpent
from sidecar.services.report_reconciling import ReconcileTimes, ReportReconciler
from sidecar.services.reporting import Reporter
from sidecar.services.stripe_events import read_event
from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_settings import MovableClock

NOW = RealClock().now()
MIDMONTH = (NOW - timedelta(days=32)).replace(minute=17, second=3, microsecond=0)
if whole_hours(MIDMONTH, NOW)[0].day == 1:
    MIDMONTH += timedelta(days=1)  # The period of a month that begins with it is the month's.


class NoReads:
    """A budget that is used up."""

    async def take(self) -> None:
        raise BudgetSpent("no read is left this month")


class World:
    """One customer who subscribes to a meter, with usage that was settled and reported."""

    def __init__(self, pool: Any, standin: StripeStandin, connection: StripeConnection) -> None:
        self.pool, self.standin = pool, standin
        self.client = connection.client
        self.inbox = PostgresInbox(pool)
        self.record = PostgresReconciliations(pool)
        self.reads = UnboundedReads()
        self.connection = connection
        self.handlers = self.handle_with(self.reads)
        self.told = 0

    def handle_with(self, reads: Any) -> ObjectHandlers:
        sums = StripeMeterSums(self.connection, reads, RealClock())
        times = ReconcileTimes(every_seconds=3_600, lag_seconds=0, reread_seconds=0)
        reconciler = ReportReconciler(self.record, sums, RealClock(), times=times)
        return ObjectHandlers(
            StripeObjects(self.connection),
            PostgresFetched(self.pool),
            None,
            FixedPolicies(make_policy()),
            plans=PLANS,
            report_errors=None,
            clock=RealClock(),
            sums=InvoiceSums(self.record, reconciler, RealClock(), begin_run=lambda: None),
        )

    async def subscribe(self) -> None:
        v1 = self.client.v1
        (meter,) = (await v1.billing.meters.list_async({})).data
        price = await v1.prices.create_async(
            {
                "currency": "usd",
                "product_data": {"name": "Tokens"},
                "unit_amount": 1,
                "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            }
        )
        await v1.subscriptions.create_async(
            {"customer": "cus_stripe_a", "items": [{"price": price.id}]}
        )

    async def hear(self, prefix: str = "invoice.", times: int = 1) -> None:
        """Webhooks about invoices since the last time, so often each, and what they ask for."""
        fresh = list(self.standin.snapshot_events)[self.told :]
        self.told += len(fresh)
        for number in range(times):
            for event in map(read_event, fresh):
                if event.event_type.startswith(prefix):
                    again = f"{event.event_id}.{number}"
                    await self.inbox.receive(type(event)(**fields(event) | {"event_id": again}))
        while claims := await self.inbox.claim("w", limit=10, lease_seconds=60):
            for claim in claims:
                assert await self.inbox.finish(claim, await self.handlers.handle(claim)) is not None

    async def found(self) -> list[tuple[str, int, int]]:
        """What was kept of the period that the invoice is for."""
        first, _ = whole_hours(MIDMONTH, NOW)
        kept = await self.record.list(customer_id="cus_a", outcome=None, limit=100)
        return [
            (one.outcome.value, one.expected, int(one.found or 0))
            for one in kept
            if one.period_start == first
        ]

    async def due(self) -> bool:
        """Whether the next round looks at the meter."""
        return bool(
            await self.pool.fetchval(
                "SELECT checked_at < now() - interval '1 hour' FROM report_lanes"
            )
        )


def fields(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in type(event).__dataclass_fields__}


@asynccontextmanager
async def a_period_is_over(pool: Any):
    """The stand-in has made the draft of a month with usage of 5 and 6; the look was just now."""
    clock = MovableClock(now=MIDMONTH)
    standin = StripeStandin(clock=clock)
    standin.add_meter(METER)
    standin.add_customer("cus_stripe_a")
    await add_customers(pool, "a")
    async with standin.serving() as url:
        connection = StripeConnection(API_KEY, base_url=url, timeout_seconds=5.0)
        provider = StripeMeterReporter(API_KEY, base_url=url, timeout_seconds=5.0)
        reporter = Reporter(PostgresOutbox(pool), provider, PastClock(), owner="w", lease_seconds=0)
        world = World(pool, standin, connection)
        await world.subscribe()
        await settle(pool, 1, 5, at=NOW - timedelta(days=9))
        await settle(pool, 2, 6, at=NOW - timedelta(days=8))
        await settle(pool, 3, 100, at=NOW - timedelta(hours=3))  # Of the next period.
        standin.advance(NOW - MIDMONTH - timedelta(days=4))
        while "invoice.created" not in [e["type"] for e in standin.snapshot_events][-3:]:
            standin.advance(timedelta(minutes=30))
        clock.now = RealClock().now()
        await reporter.report_once(force=True)
        await pool.execute("UPDATE report_lanes SET checked_at = now()")
        try:
            yield world
        finally:
            await provider.close()
            await connection.close()
    assert list(standin.bugs) == []


async def test_a_draft_has_its_sums_compared_at_once_and_once(postgres_pool):
    async with a_period_is_over(postgres_pool) as world:
        await world.hear(times=3)
        assert await world.found() == [("same", 11, 11)]
        assert world.reads.taken == 2  # The list of meters, and one sum.
        assert not await world.due()
        assert await world.inbox.count() == {}
        await world.hear(times=2)
        assert world.reads.taken == 2


async def test_a_difference_is_told_and_mended_by_the_months_alone(postgres_pool):
    async with a_period_is_over(postgres_pool) as world:
        (lost,) = [one for one in world.standin.meter_events if str(one.value) == "6"]
        lost.error = "meter_event_invalid_value"
        await world.hear(times=2)
        assert await world.found() == [("waiting", 11, 5)]
        assert await world.due()
        rows = await postgres_pool.fetch("SELECT state FROM report_windows WHERE quantity = 6")
        assert [row["state"] for row in rows] == ["sent"]


async def test_without_a_read_left_it_waits_for_the_next_round(postgres_pool):
    async with a_period_is_over(postgres_pool) as world:
        world.handlers = world.handle_with(NoReads())
        await world.hear()
        assert await world.found() == []
        assert await world.due()
        assert await world.inbox.count() == {}


async def test_other_events_of_invoices_compare_nothing(postgres_pool):
    async with a_period_is_over(postgres_pool) as world:
        await world.hear(prefix="invoice.updated")
        assert await world.found() == []
        assert world.reads.taken == 0


async def test_a_provider_that_is_away_holds_up_the_comparison_and_not_the_invoice(postgres_pool):
    async with a_period_is_over(postgres_pool) as world:

        class Away:
            async def take(self) -> None:
                raise StoreUnavailable("the record of reads is away")

        world.handlers = world.handle_with(Away())
        with pytest.raises(StoreUnavailable):
            await world.hear()
        kinds = await postgres_pool.fetch("SELECT kind, state FROM inbox_objects ORDER BY kind")
        assert [(row["kind"], row["state"]) for row in kinds] == [
            ("invoice", InboxState.IDLE.value),
            ("invoice_sums", InboxState.PENDING.value),
        ]
        assert await postgres_pool.fetchval("SELECT count(*) FROM provider_invoices") == 1


def test_whole_hours_of_a_period_and_of_less_than_one():
    hour = MIDMONTH.replace(minute=0, second=0)
    first, last = whole_hours(MIDMONTH, MIDMONTH + timedelta(hours=3))
    assert (first, last) == (hour + timedelta(hours=1), hour + timedelta(hours=3))
    first, last = whole_hours(MIDMONTH, MIDMONTH + timedelta(minutes=5))
    assert first == last
    assert whole_hours(hour, hour + timedelta(hours=1)) == (hour, hour + timedelta(hours=1))
