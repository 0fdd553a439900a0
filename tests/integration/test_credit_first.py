"""Credit first, an invoice for the rest: from the live store to ledger and invoice, and back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.invoice_parts import Invoicing, invoice_card
from fixtures.ledger_parts import verify
from fixtures.live_store import SystemClock
from fixtures.losing_redis import losing_redis
from fixtures.recovering import CARD, POLICY, Recovering, recovering
from fixtures.stream_records import grant_record, moved, usage_record

from sidecar.app.reconciling import make_reconciler
from sidecar.domain.invoices import LatePolicy
from sidecar.domain.pricing import Billing, Package
from sidecar.domain.usage import TokenUsage, UsageReport
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.services.control_ports import Grant
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.ports import CaptureStatus, PlaceHold, PlaceStatus

ADA = "cus_ada"
ANYONE = MeterPrincipal(name="gateway")
FIRST = replace(CARD, billing=Billing.CREDIT_THEN_INVOICE)
NOVEMBER, LATER = datetime(2026, 11, 10, 12, tzinfo=UTC), datetime(2027, 1, 5, tzinfo=UTC)


@pytest.fixture
def redis():
    with losing_redis() as redis:
        yield redis


@pytest.fixture
async def world(redis, postgres_pool):
    redis.start()
    async with recovering(
        redis.url, postgres_pool, replace(POLICY, cards={"prepaid": FIRST})
    ) as world:
        await world.customer(ADA, 1_000)
        yield world


async def place(world: Recovering, number: int, amount: int) -> PlaceHold:
    """A hold as a check of the plan places it."""
    return await world.place(ADA, number, amount, credit_required=False, owes=True)


async def report(world: Recovering, hold: PlaceHold, output: int | None) -> None:
    usage = TokenUsage() if output is None else TokenUsage(input=0, output=output)
    await world.metering.capture(
        UsageReport(
            edge="otlp",
            gateway_id="gateway-1",
            received_at=datetime.now(UTC),
            usage=usage,
            hold_token=world.tokens.sign(hold.terms),
            status=200,
        ),
        ANYONE,
    )


async def accounts(world: Recovering) -> dict[str, int]:
    row = await world.pool.fetchrow(
        "SELECT customer_credit_nano AS credit, customer_overage_nano AS overage,"
        " -customer_receivable_nano AS owed, revenue_nano AS revenue, used_nano AS used,"
        " used_prepaid_nano AS paid FROM account_balances WHERE customer_id = $1",
        ADA,
    )
    return {name: int(nano) for name, nano in row.items()}


async def in_agreement(world: Recovering) -> None:
    """Store, stream and ledger say the same, and the chain holds."""
    await world.assert_equal(ADA)
    compared = await make_reconciler(
        world.store.connection, world.store.keyspace, world.pool, SystemClock()
    ).run_once()
    assert (compared.customers, compared.differences) == (1, [])
    assert (await verify(world.pool)).intact
    fields = await world.store.fields(ADA)
    assert fields[b"deficit"] == b"0"


async def lose(world: Recovering, redis) -> None:
    redis.wipe()
    assert await world.refused(ADA, 999)


async def test_what_credit_does_not_pay_is_owed_and_never_refused(world):
    first, second = await place(world, 1, 900), await place(world, 2, 900)
    probe = await world.hold(ADA, 3, 900, credit_required=False, owes=True)
    third = await world.store.balances.place_hold(probe)
    assert (third.status, third.numbers.available_nano) == (PlaceStatus.PLACED, 0)
    await world.store.balances.release_hold(ADA, probe.terms.hold_id)
    await report(world, first, 700)
    await report(world, second, 600)
    await in_agreement(world)
    assert await accounts(world) == {
        "credit": 0,
        "overage": 0,
        "owed": 300,
        "revenue": 1_300,
        "used": 1_300,
        "paid": 1_000,
    }
    lines = await world.pool.fetch(
        "SELECT amount_nano, owed_nano FROM usage_lines WHERE meter = 'output' ORDER BY hold_id"
    )
    assert [tuple(line) for line in lines] == [(700, 0), (600, 300)]
    assert await world.pool.fetchval("SELECT count(*) FROM report_windows") == 0
    assert await world.pool.fetchval("SELECT count(*) FROM quarantine") == 0


async def test_credit_that_comes_later_pays_no_usage_of_before(world):
    await report(world, await place(world, 1, 1_500), 1_500)
    grant = Grant(grant_id="late", customer_id=ADA, amount_nano=400, currency="USD")
    await world.store.accounts.apply_grant(await world.record.create_grant(grant))
    await report(world, await place(world, 2, 100), 100)
    await in_agreement(world)
    told = await accounts(world)
    assert (told["credit"], told["owed"], told["paid"]) == (300, 500, 1_100)


@pytest.mark.parametrize("measured", [0, 4, 15, 40])
@pytest.mark.parametrize("loses", [False, True])
async def test_a_correction_splits_anew_with_and_without_a_loss_in_between(
    world, redis, measured, loses
):
    """The estimate is 20 of output and 10 of input (7 nano), of which little is left to pay."""
    await report(world, await place(world, 1, 990), 990)
    second = await place(world, 2, 27)
    assert await world.metering.charge_orphan(second.terms) is CaptureStatus.CAPTURED
    await in_agreement(world)
    told = await accounts(world)
    assert (told["paid"], told["owed"]) == (1_000, 17)
    if loses:
        await lose(world, redis)
        await world.recover()
    for _ in range(2):
        await report(world, second, measured)
        await world.settle()
    await in_agreement(world)
    told = await accounts(world)
    # The grant is spent: what it paid too much comes off the invoice.
    assert (told["used"], told["paid"]) == (990 + measured, 1_000)
    assert told["owed"] == measured - 10


async def settled(invoicing: Invoicing, **changes) -> None:
    """One event of 1,000 (packages of 7 at 100) of which credit paid 400."""
    record = usage_record(1, quantities={"input-tokens": 70}, unit_nano=0, at=NOVEMBER)
    line = replace(record.event.lines[0], amount_nano=1_000)
    event = replace(record.event, lines=(line,), price_version=invoicing.cards[0].version)
    await invoicing.settle(
        replace(
            record,
            event=event,
            amount_nano=1_000,
            prepaid=True,
            owed=(("input-tokens", 600),),
            movements=moved("g1", -400),
            **changes,
        )
    )


@pytest.fixture
async def invoicing(postgres_pool):
    card = invoice_card(
        {"input-tokens": Package(amount_nano=100, per=7)}, billing=Billing.CREDIT_THEN_INVOICE
    )
    made = Invoicing(postgres_pool, cards=(card,))
    await made.add_customer()
    grant = Grant(grant_id="g1", customer_id="cus_a", amount_nano=400, currency="USD")
    await PostgresAccounts(postgres_pool).create_grant(grant)
    await made.settle(grant_record("g1", 400, entry=1))
    return made


async def test_the_invoice_shows_what_credit_paid_and_asks_for_the_rest(invoicing):
    await settled(invoicing)
    await invoicing.round_at(LATER)
    (invoice,) = [one for one in await invoicing.invoices() if one.total_nano]
    assert (invoice.total_nano, invoice.credit_nano, invoice.overage_nano) == (1_000, 400, 0)
    assert (invoice.due_nano, invoice.findings) == (600, ())
    (line,) = invoice.lines
    assert (line.quantity, line.amount_nano, line.credit_nano, line.due_nano) == (
        70,
        1_000,
        400,
        600,
    )
    (event,) = await invoicing.book.list_line_events(invoice, 1, after=("", ""), limit=10)
    (traced,) = await invoicing.book.trace_hold(event.hold_id, "cus_a")
    assert (event.amount_nano, event.owed_nano) == (1_000, 600)
    assert (traced.amount_nano, traced.owed_nano, traced.line_number) == (1_000, 600, 1)
    assert -(await invoicing.balance())["customer_receivable_nano"] == 600
    assert (await verify(invoicing.pool)).intact


@pytest.mark.parametrize("policy", list(LatePolicy))
async def test_only_what_is_owed_of_late_usage_goes_by_the_policy(invoicing, policy):
    invoicing.late = policy
    await invoicing.round_at(datetime(2026, 12, 10, tzinfo=UTC))
    await settled(invoicing)
    for days in (1, 40):
        await invoicing.round_at(LATER + timedelta(days=days))
    due = sum(one.due_nano for one in await invoicing.invoices())
    assert due == (0 if policy is LatePolicy.WRITE_OFF else 600)
    assert -(await invoicing.balance())["customer_receivable_nano"] == due
