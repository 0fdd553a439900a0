"""Fees of customers that change plans, on a real Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from fixtures.invoice_parts import DECEMBER, LATER, NOVEMBER, PRICES, Invoicing, Rater, invoice_card
from fixtures.ledger_parts import verify

from sidecar.domain.invoices import InvoiceState
from sidecar.domain.period_prices import Flat, Minimum
from sidecar.domain.pricing import OnChange

NANO = 10**9
MIDDLE = datetime(2026, 11, 11, tzinfo=UTC)  # A third of November is over.


def cards(on_change: OnChange):
    return tuple(
        invoice_card(
            PRICES
            | {"": Flat(amount_nano=flat * NANO), "floor": Minimum(amount_nano=least * NANO)},
            plan=plan,
            on_change=on_change,
        )
        for plan, flat, least in (("small", 30, 60), ("large", 90, 120))
    )


@pytest.mark.parametrize(
    ("on_change", "fees"),
    [
        # A third of the one and two thirds of the other: each tops up to its own minimum.
        (OnChange.PRORATE, [10 * NANO, 60 * NANO, 10 * NANO, 20 * NANO - 10 * 500]),
        (OnChange.RESET, [10 * NANO, 60 * NANO, 10 * NANO, 20 * NANO - 10 * 500]),
        (OnChange.CARRY, [90 * NANO, 30 * NANO - 10 * 500]),
    ],
)
async def test_each_plan_of_a_period_is_charged_for_its_part(postgres_pool, on_change, fees):
    small, large = cards(on_change)
    invoicing = Invoicing(postgres_pool, cards=(small, large))
    await invoicing.add_customer(plan="small")
    await invoicing.round_at(NOVEMBER)
    await invoicing.change_plan("large", MIDDLE)
    await invoicing.settle(
        Rater(large).capture(1, {"input-tokens": 10}, MIDDLE + timedelta(days=1))
    )
    preview = (await invoicing.service.preview("cus_a")).invoice
    await invoicing.round_at(DECEMBER)
    (invoice,) = await invoicing.invoices()
    assert [line.amount_nano for line in invoice.lines if line.charge] == fees
    assert preview.lines == invoice.lines
    owed = -(await invoicing.balance())["customer_receivable_nano"]
    assert invoice.total_nano == owed
    assert (await verify(invoicing.pool)).intact


async def test_a_plan_that_begins_after_the_period_charges_nothing_of_it(postgres_pool):
    invoicing = Invoicing(postgres_pool, cards=cards(OnChange.CARRY))
    await invoicing.add_customer(plan="small")
    await invoicing.round_at(NOVEMBER)
    await invoicing.change_plan("large", datetime(2026, 12, 1, tzinfo=UTC))
    await invoicing.round_at(DECEMBER)
    await invoicing.round_at(LATER)
    november, december = await invoicing.invoices()
    assert (november.total_nano, december.total_nano) == (60 * NANO, 120 * NANO)


async def test_an_invoice_waits_for_a_plan_that_is_not_in_the_policy(postgres_pool):
    small, large = cards(OnChange.PRORATE)
    invoicing = Invoicing(postgres_pool, cards=(large,))
    await invoicing.add_customer(plan="small")
    await invoicing.round_at(NOVEMBER)
    await invoicing.change_plan("large", MIDDLE)
    preview = await invoicing.service.preview("cus_a")
    assert (preview.unknown_plans, preview.invoice.lines) == (("small",), ())
    done = await invoicing.round_at(DECEMBER)
    assert (done.cut, done.closed) == (1, 0)
    assert done.problems[-1] == "cus_a: unknown plan small"
    invoicing.cards = (large, small)
    await invoicing.round_at(DECEMBER)
    assert [one.state for one in await invoicing.invoices()] == [InvoiceState.CLOSED]


async def test_each_change_of_a_plan_is_noted_in_the_order_in_which_they_count(postgres_pool):
    invoicing = Invoicing(postgres_pool)
    await invoicing.add_customer()
    await asyncio.gather(
        *(
            postgres_pool.execute("UPDATE customers SET plan = $1", f"plan-{number % 3}")
            for number in range(12)
        )
    )
    await postgres_pool.execute("UPDATE customers SET plan = plan, labels = '{}'")
    rows = await postgres_pool.fetch("SELECT plan FROM customer_plans ORDER BY since")
    plans = [row["plan"] for row in rows]
    assert plans[0] == "plan"
    assert plans[-1] == await postgres_pool.fetchval("SELECT plan FROM customers")
    assert all(one != after for one, after in pairwise(plans))
