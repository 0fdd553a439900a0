"""An account that Stripe bills in another currency: seen at once, reported to no more, told."""

from contextlib import asynccontextmanager

import pytest
from fixtures.inbox_world import PLANS
from fixtures.stripe_reports import API_KEY, METER, PastClock, RealClock, add_customers, settle
from fixtures.use_cases import FixedPolicies, make_policy

from sidecar.outbound.postgres.fetched import PostgresFetched
from sidecar.outbound.postgres.inbox import PostgresInbox
from sidecar.outbound.postgres.outbox import PostgresOutbox
from sidecar.outbound.postgres.report_rows import PostgresSettlements
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.objects import StripeObjects
from sidecar.outbound.stripe.reporter import StripeMeterReporter
from sidecar.services.control_ports import ReportState
from sidecar.services.inbox_handlers import ObjectHandlers
from sidecar.services.inbox_ports import InboxState
from sidecar.services.reporting import Reporter
from sidecar.services.settlements import SettlementService
from sidecar.services.stripe_events import read_event
from sidecar.standins.stripe import StripeStandin


class Accounts:
    """Two customers in USD, a stand-in, and what reports to it and reads from it."""

    def __init__(self, pool, standin, connection, reporter) -> None:
        self.pool, self.standin, self.reporter = pool, standin, reporter
        self.v1 = connection.client.v1
        self.inbox = PostgresInbox(pool)
        self.handlers = ObjectHandlers(
            StripeObjects(connection),
            PostgresFetched(pool),
            None,
            FixedPolicies(make_policy()),
            plans=PLANS,
            report_errors=None,
            clock=RealClock(),
        )

    async def subscribe(self, customer: str, currency: str) -> str:
        (meter,) = (await self.v1.billing.meters.list_async({})).data
        price = await self.v1.prices.create_async(
            {
                "currency": currency,
                "product_data": {"name": "Tokens"},
                "unit_amount": 1,
                "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
                "lookup_key": f"price_{currency}",
                "transfer_lookup_key": True,
            }
        )
        made = await self.v1.subscriptions.create_async(
            {"customer": customer, "items": [{"price": price.id}]}
        )
        return str(made.id)

    async def hear(self) -> dict[str, str]:
        """All events so far; returns why subscriptions are parked."""
        for event in map(read_event, self.standin.snapshot_events):
            if event is not None and event.event_type.startswith("customer.subscription."):
                await self.inbox.receive(event)
        while claims := await self.inbox.claim("w", limit=10, lease_seconds=60):
            for claim in claims:
                await self.inbox.finish(claim, await self.handlers.handle(claim))
        parked = await self.inbox.list(state=InboxState.PARKED, after="", limit=100)
        return {one.ref.object_id: one.reason for one in parked}

    async def report(self) -> list[tuple[str, int]]:
        """One round; what the stand-in has counted by account."""
        await self.reporter.report_once(force=True)
        return sorted(
            (name, int(total)) for (name, _), total in self.standin.meter_totals().items()
        )

    async def failed(self) -> list[tuple[str, str]]:
        service = SettlementService(PostgresSettlements(self.pool))
        rows = await service.list(customer_id="", state=ReportState.FAILED, after=0, limit=100)
        return [(row.customer_id, row.error_code) for row in rows]


@asynccontextmanager
async def serving(pool):
    standin = StripeStandin()
    standin.add_meter(METER)
    await add_customers(pool, "ab")
    for name in "ab":
        standin.add_customer(f"cus_stripe_{name}")
    async with standin.serving() as url:
        connection = StripeConnection(API_KEY, base_url=url, timeout_seconds=5.0)
        provider = StripeMeterReporter(API_KEY, base_url=url, timeout_seconds=5.0)
        reporter = Reporter(PostgresOutbox(pool), provider, PastClock(), owner="w", lease_seconds=0)
        yield Accounts(pool, standin, connection, reporter)
        await provider.close()
        await connection.close()
    assert list(standin.bugs) == []


@pytest.fixture
async def accounts(postgres_pool):
    async with serving(postgres_pool) as made:
        yield made


async def test_usage_waits_for_people_until_the_account_is_the_right_one(accounts):
    wrong = await accounts.subscribe("cus_stripe_a", "eur")
    await accounts.subscribe("cus_stripe_b", "usd")
    assert (await accounts.hear())[wrong] == "other_currency"
    await settle(accounts.pool, 1, 5, customer="a")
    await settle(accounts.pool, 2, 7, customer="b")
    assert await accounts.report() == [("cus_stripe_b", 7)]
    assert await accounts.failed() == [("cus_a", "other_currency")]
    detail = await accounts.pool.fetchval(
        "SELECT last_detail FROM report_windows WHERE quantity = 5"
    )
    assert detail == "the account is billed in EUR, the customer in USD"
    # Asking again while nothing is mended changes nothing.
    service = SettlementService(PostgresSettlements(accounts.pool))
    (row,) = await service.list(customer_id="cus_a", state=None, after=0, limit=10)
    await service.retry(row.number)
    assert await accounts.report() == [("cus_stripe_b", 7)]
    assert await accounts.failed() == [("cus_a", "other_currency")]
    accounts.standin.add_customer("cus_stripe_new")
    await accounts.pool.execute(
        "UPDATE customers SET stripe_customer_id = 'cus_stripe_new' WHERE customer_id = 'cus_a'"
    )
    await service.retry(row.number)
    assert await accounts.report() == [("cus_stripe_b", 7), ("cus_stripe_new", 5)]
    assert await accounts.failed() == []


async def test_an_account_that_is_subscribed_anew_in_the_right_currency_is_reported_to(accounts):
    wrong = await accounts.subscribe("cus_stripe_a", "eur")
    await accounts.hear()
    await accounts.v1.subscriptions.cancel_async(wrong)
    await accounts.subscribe("cus_stripe_a", "usd")
    await accounts.hear()
    await settle(accounts.pool, 1, 5, customer="a")
    assert await accounts.report() == [("cus_stripe_a", 5)]
