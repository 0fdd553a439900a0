"""What must be true of invoices, webhooks, standings and payments, whoever died on the way."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from chaos.outside import GRACE, Outside
from chaos.world import COLLECTED, REPORTED, World
from fixtures.stripe_world import sdk_client

from sidecar.outbound.postgres.pool import Pool

PACKAGES = {"input": 5, "output": 7}
"""Cents for each begun 500, as the plan that is invoiced has them."""
PACKAGE_SIZE = 500
DUE_AFTER = timedelta(days=14)
"""From when a customer is first asked until it counts as overdue."""
# By an event's own time, or by what settlement noted of it: never by what invoicing added up.
USAGE = """
SELECT coalesce(u.invoice_id, i.invoice_id) AS invoice_id, u.hold_id IS NOT NULL AS late,
    date_trunc('month', e.occurred_at, 'UTC') AS month, e.price_version, l.meter, e.model,
    e.prepaid, l.quantity, l.amount_nano
FROM usage_events e JOIN usage_lines l USING (customer_id, day, hold_id, kind)
LEFT JOIN late_usage u USING (customer_id, day, hold_id, kind)
LEFT JOIN invoices i ON u.hold_id IS NULL AND i.customer_id = e.customer_id AND i.sequence = 0
    AND i.period_start <= e.occurred_at AND e.occurred_at < i.period_end
"""
KEPT = ("invoices", "invoice_lines", "invoice_parts", "late_usage", "ledger_entries", "inbox")
KEPT += ("usage_events", "provider_invoices", "standings", "collections", "collection_attempts")
KEPT += ("grants", "withdrawals", "customers", "report_windows")


async def check_invoices(world: World) -> None:
    """Each event on one line, the lines are the ledger, one closed invoice a period."""
    pool = world.pool
    states = await pool.fetch("SELECT state, count(*) AS n FROM invoices GROUP BY 1")
    assert {row["state"] for row in states} == {"closed"}
    assert (
        await pool.fetchval(
            "SELECT max(n) FROM (SELECT count(*) AS n FROM invoices GROUP BY"
            " customer_id, currency, period_start) AS periods"
        )
        == 1
    )
    await _check_parts(pool)
    for customer, plan in world.customers:
        expected = world.expected(customer, plan).nano
        lines = await pool.fetch(
            "SELECT meter, sum(amount_nano)::bigint AS amount, sum(quantity)::bigint AS quantity"
            " FROM invoice_lines WHERE customer_id = $1 GROUP BY 1",
            customer,
        )
        amounts = {row["meter"]: row["amount"] for row in lines if row["amount"]}
        assert amounts == {meter: nano for meter, nano in expected.items() if nano}, customer
        await _check_ledger(pool, customer, sum(expected.values()))
    await _check_previews(world)
    counts = await pool.fetchrow(
        "SELECT count(*) AS invoices, sum(total_nano)::bigint AS total_nano,"
        " (SELECT count(*) FROM late_usage) AS late_events,"
        " (SELECT count(*) FROM invoice_lines WHERE late) AS late_lines FROM invoices"
    )
    world.totals |= dict(counts)


async def _check_parts(pool: Pool) -> None:
    """Every line of every event is in the one part that its own facts name."""
    expected: dict[tuple[Any, ...], list[int]] = {}
    for row in await pool.fetch(USAGE):
        *key, quantity, amount = row.values()
        assert key[0] is not None, row
        sums = expected.setdefault(tuple(key), [0, 0, 0])
        for place, number in enumerate((1, quantity, amount)):
            sums[place] += int(number)
    parts = await pool.fetch(
        "SELECT invoice_id, late, month, price_version, meter, model, prepaid, events, quantity,"
        " amount_nano FROM invoice_parts"
    )
    found = {}
    for row in parts:
        *key, events, quantity, amount = row.values()
        found[tuple(key)] = [int(events), int(quantity), int(amount)]
    assert found == expected


async def _check_ledger(pool: Pool, customer: str, expected: int) -> None:
    """Invoices and the ledger say the same, and each invoice is posted once."""
    row = await pool.fetchrow(
        "SELECT sum(total_nano)::bigint AS total, sum(charged_nano)::bigint AS charged,"
        " count(transaction_id) AS posted FROM invoices WHERE customer_id = $1",
        customer,
    )
    assert int(row["total"] or 0) == expected
    balance = await pool.fetchrow(
        "SELECT revenue_nano FROM account_balances WHERE customer_id = $1", customer
    )
    assert int(balance["revenue_nano"] if balance else 0) == expected
    posted = await pool.fetchval(
        "SELECT count(*) FROM ledger_transactions WHERE customer_id = $1 AND kind = 'invoice'",
        customer,
    )
    assert posted == row["posted"]


async def _check_previews(world: World) -> None:
    """Stripe's own preview of what was reported says our lines, month by month, to the cent."""
    instants = [sent.occurred_at for sent in world.sent]
    months = sorted(
        {one.replace(day=1, hour=0, minute=0, second=0, microsecond=0) for one in instants}
    )
    async with sdk_client(world.outside.stripe_url) as client:
        prices = {meter: await _price(world, client, meter) for meter in REPORTED}
        for customer in metered_customers(world):
            for month in months:
                told = await client.v1.invoices.create_preview_async(
                    {
                        "customer": world.outside.account_of(customer),
                        "subscription_details": {
                            "items": [{"price": price} for price in prices.values()],
                            "start_date": int(month.timestamp()),
                        },
                    }
                )
                theirs = dict(zip(prices, (line.amount for line in told.lines.data), strict=True))
                assert theirs == await _minor_units(world.pool, customer, month), customer


async def _price(world: World, client: Any, meter: str) -> str:
    meters = world.outside.stripe.account.meters
    made = await client.v1.prices.create_async(
        {
            "product_data": {"name": meter},
            "currency": "usd",
            "unit_amount": PACKAGES[meter],
            "recurring": {
                "interval": "month",
                "usage_type": "metered",
                "meter": meters.find(meter).id,
            },
            "transform_quantity": {"divide_by": PACKAGE_SIZE, "round": "up"},
        }
    )
    return str(made.id)


async def _minor_units(pool: Pool, customer: str, month: datetime) -> dict[str, int]:
    """What all invoices' lines ask for a month's usage, also where it came late."""
    rows = await pool.fetch(
        "SELECT l.meter, sum(l.due_minor)::bigint AS minor FROM invoice_lines l"
        " WHERE l.customer_id = $1 AND EXISTS (SELECT FROM invoice_parts p"
        " WHERE p.customer_id = l.customer_id AND p.invoice_id = l.invoice_id"
        " AND p.line_number = l.line_number AND p.month = $2) GROUP BY 1",
        customer,
        month,
    )
    return dict.fromkeys(REPORTED, 0) | {row["meter"]: row["minor"] for row in rows}


def metered_customers(world: World) -> list[str]:
    """Those whose quantities Stripe is told."""
    return [
        name for name, plan in world.users if plan == "invoiced" and (name, plan) not in COLLECTED
    ]


async def check_inbox(world: World) -> None:
    """Each webhook is there once and done, and what is on record is what Stripe has."""
    outside, pool = world.outside, world.pool
    left = await pool.fetch(
        "SELECT object_key, state, reason FROM inbox_objects WHERE state <> 'idle'"
    )
    assert not left, [tuple(row) for row in left]
    rows = await pool.fetch("SELECT event_id, done_at FROM inbox")
    assert {row["event_id"] for row in rows} == {
        event["id"] for event in outside.stripe.snapshot_events
    }
    assert all(row["done_at"] is not None for row in rows)
    known = await pool.fetch(
        "SELECT invoice_id, state FROM provider_invoices WHERE provider = 'stripe'"
    )
    assert {row["invoice_id"]: row["state"] for row in known} == {
        one["id"]: one["status"] for one in outside.invoices()
    }
    assert outside.answers["refused"] == 0
    world.totals |= {"webhook_events": len(rows), "stripe_invoices": len(known)}


async def check_standings(world: World) -> None:
    """By the provider's invoices as they are, in the ledger's record and at the gateways."""
    found: Counter[str] = Counter()
    for customer, plan in world.customers:
        expected = world.outside.standing(customer, world.now)
        if (customer, plan) in COLLECTED:
            expected = await _standing_of_payer(world, customer)
        recorded = await world.pool.fetchval(
            "SELECT standing FROM standings WHERE customer_id = $1", customer
        )
        live = await world.store.connection.command(
            "HMGET", world.store.keyspace.customer(customer), "standing"
        )
        assert (recorded or "good", (live[0] or b"good").decode()) == (expected, expected), customer
        found[expected] += 1
    world.totals["standings"] = dict(found)


async def _standing_of_payer(world: World, customer: str) -> str:
    """By payments that were asked for and never taken, since when they were first asked for."""
    found = "good"
    for row in await world.pool.fetch(
        "SELECT min(t.sent_at) AS first_at FROM collections c"
        " JOIN collection_attempts t USING (customer_id, invoice_id)"
        " WHERE c.customer_id = $1 AND c.state = 'failed' GROUP BY c.invoice_id",
        customer,
    ):
        due = row["first_at"] + DUE_AFTER
        if due + GRACE <= world.now:
            return "delinquent"
        found = "grace" if due <= world.now else found
    return found


async def check_collected(world: World) -> None:
    """What an invoice asks for was taken once where it is paid, and never where it is not."""
    pool = world.pool
    due = await pool.fetch(
        "SELECT i.invoice_id, i.due_minor, c.state FROM invoices i"
        " LEFT JOIN collections c USING (customer_id, invoice_id)"
        " WHERE i.customer_id = ANY ($1::text[]) AND i.due_minor > 0",
        [name for name, _ in COLLECTED],
    )
    names = {}
    for row in await pool.fetch(
        "SELECT invoice_id, reference, provider_reference FROM collection_attempts"
    ):
        names[row["reference"]] = names[row["provider_reference"]] = row["invoice_id"]
    taken = _taken(world.outside, names)
    for row in due:
        wanted = [row["due_minor"]] if row["state"] == "paid" else []
        assert taken.pop(row["invoice_id"], []) == wanted, row
        assert row["state"] in ("paid", "failed"), row
    assert taken == {}
    assert list(world.outside.bank.standin.bugs) == []
    states = Counter(row["state"] for row in due)
    world.totals |= {"collected": dict(states)}


def _taken(outside: Outside, names: dict[str, str]) -> dict[str, list[int]]:
    """What Paystack has of each invoice; a payment of no attempt of ours is a KeyError."""
    taken: dict[str, list[int]] = {}
    standin = outside.bank.standin
    for charge in standin.transactions.charges.values():
        if charge.status == "success":
            taken.setdefault(names[charge.reference], []).append(charge.amount)
    for request in standin.requests.requests.values():
        for _ in range(request.payments):
            taken.setdefault(names[request.code], []).append(request.amount)
    return taken


async def contents(pool: Pool) -> dict[str, list[str]]:
    """All rows that nothing may change any more."""
    return {
        table: [
            row[0]
            for row in await pool.fetch(
                f"SELECT to_jsonb(t) - 'leased_until' - 'lease_until' AS content FROM {table} t"
                " ORDER BY 1"
            )
        ]
        for table in KEPT
    }
