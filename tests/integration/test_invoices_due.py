"""What is to be collected of the ledger's closed invoices, on a real Postgres."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fixtures.invoice_tables import MAY, NANO, TABLES, close

from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.collections import PostgresCollections
from sidecar.outbound.postgres.invoices_due import PostgresInvoicesDue
from sidecar.outbound.postgres.payers import PostgresPayers
from sidecar.services.collecting_ports import InvoiceLine, NewCollection
from sidecar.services.control_ports import Customer
from sidecar.services.provider_ports import Payer

LINE = """
INSERT INTO invoice_lines (customer_id, invoice_id, line_number, meter, models, plan,
    price_version, price, rounding, charge, late, period_start, period_end, events, quantity,
    amount_nano, credit_nano, amount_minor, due_minor)
VALUES ($1, $2, $3, $4, '{}', 'plan', 'v1', '{}', 'half_up', false, false, $5, $6, 1, 1,
    $7, $8, $9, $10)
"""
NOTE = """
INSERT INTO credit_notes (customer_id, credit_note_id, invoice_id, void, currency, amount_nano,
    amount_minor)
VALUES ('cus_a', $1, $2, $3, 'NGN', $4, $5)
"""


@pytest.fixture
async def pool(postgres_pool):
    await postgres_pool.execute(TABLES)
    accounts = PostgresAccounts(postgres_pool)
    for name in ("cus_a", "cus_b"):
        await accounts.create_customer(Customer(customer_id=name, plan="plan", currency="NGN"))
    await collect(postgres_pool, "cus_a")
    return postgres_pool


async def collect(pool, customer_id: str, provider: str = "paystack") -> None:
    payer = Payer(customer_id=customer_id, provider=provider, email="a@b.c", collect=True)
    await PostgresPayers(pool).put(payer, keep_authorization=False)
    await pool.execute("UPDATE payers SET collect_since = $1", MAY)


async def adopt(pool, number: int) -> int:
    new = NewCollection(
        customer_id="cus_a",
        invoice_id=f"inv_{number}",
        provider="paystack",
        currency="NGN",
        attempts_max=4,
    )
    return await PostgresCollections(pool).adopt([new])


async def add_line(pool, number: int, line: int, meter: str, amount: int, *, credit: int = 0):
    start = MAY + timedelta(days=number)
    due_minor = (amount - credit) // 10_000_000
    await pool.execute(
        LINE,
        *("cus_a", f"inv_{number}", line, meter, start, start + timedelta(days=1)),
        *(amount, credit, amount // 10_000_000, due_minor),
    )


async def test_closed_invoices_with_something_due_of_customers_with_a_provider(pool):
    await close(pool, 1)
    await close(pool, 2, state="draft")
    await close(pool, 3, due=0)
    await close(pool, 4, customer="cus_b")
    await close(pool, 5)
    source = PostgresInvoicesDue(pool)
    found = await source.due(limit=10)
    assert [(one.invoice_id, one.number, one.provider) for one in found] == [
        ("inv_1", "1", "paystack"),
        ("inv_5", "5", "paystack"),
    ]
    assert [one.invoice_id for one in await PostgresInvoicesDue(pool).due(limit=1)] == ["inv_1"]
    assert [await adopt(pool, 1) for _ in range(2)] == [1, 0]
    assert [one.invoice_id for one in await PostgresInvoicesDue(pool).due(limit=10)] == ["inv_5"]
    await collect(pool, "cus_b", "webhook")
    assert {one.invoice_id for one in await PostgresInvoicesDue(pool).due(limit=10)} == {
        "inv_4",
        "inv_5",
    }


async def test_what_credit_has_paid_and_credit_notes_took_is_not_due(pool):
    await close(pool, 1)
    await add_line(pool, 1, 1, "input-tokens", 3 * NANO)
    await add_line(pool, 1, 2, "output-tokens", 4 * NANO, credit=2 * NANO)
    await add_line(pool, 1, 3, "free-tokens", NANO, credit=NANO)
    source = PostgresInvoicesDue(pool)
    await adopt(pool, 1)
    whole = await source.read("cus_a", "inv_1", lines_max=2)
    assert (whole.due_nano, whole.due_minor) == (5 * NANO, 500)
    assert whole.lines == (
        InvoiceLine(text="input-tokens", amount_nano=3 * NANO, amount_minor=300),
        InvoiceLine(text="output-tokens", amount_nano=2 * NANO, amount_minor=200),
    )
    assert (await source.read("cus_a", "inv_1", lines_max=1)).lines == ()
    await pool.execute(NOTE, "cn_1", "inv_1", False, NANO, 100)
    less = await source.read("cus_a", "inv_1", lines_max=9)
    assert (less.due_nano, less.due_minor, less.lines) == (4 * NANO, 400, ())
    await pool.execute(NOTE, "cn_2", "inv_1", True, 4 * NANO, 400)
    assert await source.read("cus_a", "inv_1", lines_max=9) is None
    assert await source.due(limit=9) == []


async def test_what_was_rounded_for_another_provider_is_rounded_anew(pool):
    await close(pool, 1, provider="stripe")
    await add_line(pool, 1, 1, "input-tokens", 5 * NANO)
    await adopt(pool, 1)
    found = await PostgresInvoicesDue(pool).read("cus_a", "inv_1", lines_max=9)
    assert (found.due_minor, found.lines[0].amount_minor) == (None, None)


async def test_a_customer_whose_usage_stripe_rates_is_told_apart(pool):
    await close(pool, 1)
    await pool.execute(
        "UPDATE customers SET stripe_customer_id = 'cus_s' WHERE customer_id = 'cus_a'"
    )
    (found,) = await PostgresInvoicesDue(pool).due(limit=9)
    assert found.metered_by == "stripe"


async def test_what_was_closed_before_a_provider_collected_is_left_alone(pool):
    await close(pool, 1)
    await close(pool, 3)
    await pool.execute("UPDATE payers SET collect_since = $1", MAY + timedelta(days=2))
    found = await PostgresInvoicesDue(pool).due(limit=9)
    assert [one.invoice_id for one in found] == ["inv_3"]
    customers = PostgresPayers(pool)
    payer = await customers.read("cus_a", "paystack")
    await customers.put(payer, keep_authorization=True)
    assert len(await PostgresInvoicesDue(pool).due(limit=9)) == 1
    for collects in (False, True):
        await customers.put(replace(payer, collect=collects), keep_authorization=True)
    assert await PostgresInvoicesDue(pool).due(limit=9) == []


async def test_old_invoices_are_looked_at_now_and_then(pool):
    await close(pool, 1)
    source = PostgresInvoicesDue(pool)
    assert [len(await source.due(limit=9)) for _ in range(2)] == [1, 0]
    # A full page is no end: the next round looks at everything again.
    source = PostgresInvoicesDue(pool)
    assert [len(await source.due(limit=1)) for _ in range(2)] == [1, 1]


async def test_without_invoices_nothing_is_due(postgres_pool):
    source = PostgresInvoicesDue(postgres_pool)
    assert await source.due(limit=9) == []
    assert await source.read("cus_a", "inv_1", lines_max=9) is None
