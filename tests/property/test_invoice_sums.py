"""
Whatever is split, late, corrected, credited or closed twice: invoices say what the ledger says.

Usage is rated by running totals in one order and posted in another, between rounds of invoicing.
"""

import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fixtures.invoice_parts import Invoicing, Rater, invoice_card
from fixtures.ledger_parts import verify
from fixtures.stream_records import grant_record, moved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.domain.errors import Conflict
from sidecar.domain.invoices import InvoiceState, LatePolicy
from sidecar.domain.pricing import Billing
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.services.control_ports import Grant
from sidecar.services.invoicing_ports import CreditNote

customers = itertools.count(1)
numbers = itertools.count(1)
START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 75
CREDIT = 10**15
END = datetime(2027, 6, 1, 2, tzinfo=UTC)
_METERS = ("input-tokens", "output-tokens", "cached")
_quantities = st.dictionaries(st.sampled_from(_METERS), st.integers(0, 40), min_size=1, max_size=3)
_usage = st.tuples(
    st.integers(0, DAYS - 1), _quantities, st.none() | _quantities, st.integers(0, 12)
)
steps = st.lists(
    st.sampled_from(["settle", "settle", "round", "twice", "credit", "void"]),
    min_size=4,
    max_size=14,
)
# Each usage line's place, by the rule that makes it: its period's invoice, unless it is late.
PLACES = """
SELECT l.hold_id, l.kind, l.meter, l.amount_nano, p.invoice_id, p.line_number, u.write_off_id,
    coalesce(l.amount_nano - l.owed_nano, 0) AS paid_nano
FROM usage_events e
JOIN usage_lines l USING (customer_id, day, hold_id, kind)
LEFT JOIN late_usage u USING (customer_id, day, hold_id, kind)
LEFT JOIN invoices i ON i.customer_id = e.customer_id AND (
    i.invoice_id = u.invoice_id OR (u.hold_id IS NULL AND i.sequence = 0
        AND e.occurred_at >= i.period_start AND e.occurred_at < i.period_end))
LEFT JOIN invoice_parts p ON p.customer_id = i.customer_id AND p.invoice_id = i.invoice_id
    AND p.late = (u.hold_id IS NOT NULL)
    AND p.month = date_trunc('month', e.occurred_at, 'UTC') AND p.meter = l.meter
    AND p.price_version = e.price_version AND p.model = e.model AND p.prepaid = e.prepaid
WHERE e.customer_id = $1
"""


def make_records(rater: Rater, customer_id: str, usage) -> list:
    """Captures in the order of their intervals, corrections after them; sorted by when posted."""
    waiting = []
    for day, quantities, corrected, delay in usage:
        at = START + timedelta(days=day, hours=5)
        captured = rater.capture(next(numbers), quantities, at, customer_id=customer_id)
        first = rater.card.billing is Billing.CREDIT_THEN_INVOICE
        if captured.prepaid:  # Without a grant all of it is overage.
            captured = replace(captured, overage_nano=captured.amount_nano, movements=())
        waiting.append((day + delay, credit_first(captured, 3) if first else captured))
        if corrected is not None and not captured.prepaid:
            later = rater.correct(captured, corrected)
            if first:
                later = credit_first(later, 0, captured)
            waiting.append((day + delay + 9, later))
    return [record for _, record in sorted(waiting, key=lambda one: one[0])]


def credit_first(record, share: int, before=None):
    """Credit pays a part of each meter's amount (1 / share, or nothing), an invoice the rest."""
    known = {line.meter: line.amount_nano for line in before.event.lines} if before else {}
    amounts = {
        line.meter: line.amount_nano - known.get(line.meter, 0) for line in record.event.lines
    }
    paid = {meter: nano // share if share else 0 for meter, nano in amounts.items()}
    return replace(
        record,
        prepaid=True,
        owed=tuple((meter, nano - paid[meter]) for meter, nano in amounts.items()),
        movements=moved("g1", -sum(paid.values())),
    )


async def act(invoicing, step: str, waiting: list, now: list[datetime]) -> None:
    match step:
        case "settle" if waiting:
            count = 1 + len(waiting) // 3
            await invoicing.settle(*waiting[:count])
            del waiting[:count]
        case "round" | "twice":
            now[0] += timedelta(days=20)
            for _ in range(2 if step == "twice" else 1):
                await invoicing.round_at(now[0])
        case "credit" | "void":
            for invoice in await invoicing.invoices():
                if invoice.state is not InvoiceState.CLOSED or invoice.total_nano < 3:
                    continue
                name = f"cn_{next(numbers)}"
                try:
                    if step == "void":
                        await invoicing.service.void(
                            invoice.invoice_id, credit_note_id=name, reason=""
                        )
                    else:
                        await invoicing.service.credit(
                            CreditNote(
                                credit_note_id=name,
                                customer_id="",
                                invoice_id=invoice.invoice_id,
                                amount_nano=invoice.total_nano // 3,
                            )
                        )
                except Conflict:
                    pass  # Nothing is due of it, or nothing is left.
                return


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    usage=st.lists(_usage, min_size=3, max_size=12),
    steps=steps,
    how=st.tuples(
        st.sampled_from(list(LatePolicy)),
        st.sampled_from([Billing.POSTPAID, *Billing, Billing.CREDIT_THEN_INVOICE]),
        st.none() | st.integers(2, 30),
    ),
)
async def test_invoices_credit_notes_and_write_offs_are_what_the_ledger_says(
    postgres_pool, usage, steps, how
):
    policy, billing, anchor = how
    customer_id = f"cus_{next(customers)}"
    card = invoice_card(billing=billing)
    invoicing = Invoicing(postgres_pool, cards=(card,), shard=next(numbers), late=policy)
    await invoicing.add_customer(customer_id)
    if billing is Billing.CREDIT_THEN_INVOICE:
        grant = Grant(grant_id="g1", customer_id=customer_id, amount_nano=CREDIT, currency="USD")
        await PostgresAccounts(postgres_pool).create_grant(grant)
        await invoicing.settle(grant_record("g1", CREDIT, entry=1, customer_id=customer_id))
    records = make_records(Rater(card), customer_id, usage)
    now = [START]
    if anchor is not None:
        await invoicing.round_at(START)
        await invoicing.service.set_anchor(customer_id, START.replace(day=anchor))
    for step in steps:
        await act(invoicing, step, records, now)
    # What is left is posted in two parts, of which the second is late.
    for part in (records[: len(records) // 2], records[len(records) // 2 :], []):
        if part:
            await invoicing.settle(*part)
        now[0] = max(now[0], END) + timedelta(days=40)
        await invoicing.round_at(now[0])
    await check(invoicing, customer_id)


async def check(invoicing, customer_id: str) -> None:
    pool = invoicing.pool
    invoices = [one for one in await invoicing.invoices() if one.customer_id == customer_id]
    assert {one.state for one in invoices} <= {InvoiceState.CLOSED, InvoiceState.VOID}
    assert sorted(one.number for one in invoices) == list(range(1, len(invoices) + 1))
    balance = await invoicing.balance(customer_id)
    credited = sum(one.credited_nano for one in invoices)
    written_off = await pool.fetchval(
        "SELECT coalesce(sum(amount_nano), 0) FROM write_offs WHERE customer_id = $1", customer_id
    )
    lines = [line for one in invoices for line in one.lines]
    rows = await pool.fetch(PLACES, customer_id)
    # Where credit paid a part of usage whose rest is written off, that part is on no invoice.
    paid = sum(row["paid_nano"] for row in rows if row["write_off_id"] is not None)
    assert -balance["customer_receivable_nano"] == sum(n.due_nano for n in lines) - credited
    assert balance["revenue_nano"] == sum(n.amount_nano for n in lines) - credited + paid
    assert balance["used_nano"] == sum(n.amount_nano for n in lines) + written_off + paid
    # Every line of every event is in exactly one place, and each line is the sum of its events.
    places = Counter((row["hold_id"], row["kind"], row["meter"]) for row in rows)
    assert set(places.values()) <= {1}
    for row in rows:
        assert (row["line_number"] is None) != (row["write_off_id"] is None), dict(row)
    sums = Counter()
    for row in rows:
        if row["line_number"] is not None:
            sums[row["invoice_id"], row["line_number"]] += row["amount_nano"]
    for one in invoices:
        for line in one.lines:
            assert sums[one.invoice_id, line.number] == line.amount_nano
        assert one.due_nano >= 0
        assert one.total_nano == sum(line.amount_nano for line in one.lines)
    # What is due after all carrying is what is owed, unless the customer is owed.
    cursor = await pool.fetchrow(
        "SELECT carried_nano FROM invoice_cursors WHERE customer_id = $1", customer_id
    )
    standing = [one for one in invoices if one.state is InvoiceState.CLOSED]
    asked = sum(one.due_nano - one.credited_nano for one in standing)
    assert asked + cursor["carried_nano"] == -balance["customer_receivable_nano"]
    assert (await verify(pool)).intact
