"""
Prices that a period's end decides, and usage that comes after it, through a real ledger.

For any lateness: what all invoices say of a month, and what was written off of it, is the price of
the month's total.
"""

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

from fixtures.invoice_parts import Invoicing, Rater, invoice_card
from fixtures.ledger_parts import verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.domain.invoices import FindingKind, LatePolicy
from sidecar.domain.period_prices import Flat, FreeQuota, Minimum, Volume
from sidecar.domain.price_models import PerUnit, Tier
from sidecar.services.invoicing_ports import CreditNote

customers = itertools.count(1)
numbers = itertools.count(1)
START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2027, 3, 1, 2, tzinfo=UTC)
VOLUME = Volume(
    tiers=(Tier(up_to=60, amount_nano=900), Tier(up_to=None, amount_nano=400, flat_nano=5)), per=7
)
FREE, FLAT, LEAST, UNIT = 9, 2_000, 9_000, 100
PRICES = {
    "input-tokens": PerUnit(amount_nano=UNIT),
    "requests": FreeQuota(price=VOLUME, units=FREE),
    "": Flat(amount_nano=FLAT),
    "floor": Minimum(amount_nano=LEAST),
}
_METERS = ("input-tokens", "requests")
_quantities = st.dictionaries(st.sampled_from(_METERS), st.integers(0, 50), min_size=1)
_usage = st.tuples(st.integers(0, 60), _quantities, st.none() | _quantities, st.integers(0, 70))
SUMS = """
SELECT date_trunc('month', e.occurred_at, 'UTC') AS month, l.meter, sum(l.quantity)::bigint AS q
FROM usage_events e JOIN usage_lines l USING (customer_id, day, hold_id, kind)
LEFT JOIN late_usage u USING (customer_id, day, hold_id, kind)
WHERE e.customer_id = $1 AND u.write_off_id IS NULL
GROUP BY 1, 2
"""


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(usage=st.lists(_usage, min_size=2, max_size=8), policy=st.sampled_from(LatePolicy))
async def test_invoices_of_a_month_come_to_the_price_of_its_total(postgres_pool, usage, policy):
    customer_id = f"cus_{next(customers)}"
    card = invoice_card(PRICES)
    invoicing = Invoicing(postgres_pool, cards=(card,), shard=next(numbers), late=policy)
    await invoicing.add_customer(customer_id)
    rater = Rater(card)
    posted = []
    for day, quantities, corrected, delay in usage:
        at = START + timedelta(days=day, hours=5)
        captured = rater.capture(next(numbers), quantities, at, customer_id=customer_id)
        posted.append((day + delay, captured))
        if corrected is not None:
            posted.append((day + delay + 31, rater.correct(captured, corrected)))
    posted.sort(key=lambda one: one[0])
    await invoicing.round_at(START)
    now = START
    for day, records in itertools.groupby(posted, key=lambda one: one[0]):
        now = START + timedelta(days=day, hours=6)
        await invoicing.round_at(now)
        await invoicing.settle(*(record for _, record in records))
        # For a draft that a preview is of, all that waits is its own.
        await invoicing.service.preview(customer_id)
    for _ in range(2):
        now = max(now, END) + timedelta(days=40)
        await invoicing.round_at(now)
    await check(invoicing, customer_id)


async def check(invoicing: Invoicing, customer_id: str) -> None:
    quantities: Counter = Counter()
    for row in await invoicing.pool.fetch(SUMS, customer_id):
        quantities[row["month"], row["meter"]] = row["q"]
    invoices = [one for one in await invoicing.invoices() if one.customer_id == customer_id]
    told: Counter = Counter()
    written_off = 0
    for invoice in invoices:
        for line in invoice.lines:
            told[line.period.start] += line.amount_nano
        for finding in invoice.findings:
            assert finding.kind is FindingKind.LATE_WRITTEN_OFF, finding
            written_off += finding.expected_nano - finding.captured_nano
    months = {one.period.start for one in invoices if one.sequence == 0}
    expected = {}
    for month in months:
        rated = quantities[month, "input-tokens"] * UNIT
        volume = VOLUME.period_amount(max(0, quantities[month, "requests"] - FREE))
        expected[month] = max(LEAST, rated + volume + FLAT)
    assert sum(told.values()) + written_off == sum(expected.values())
    if invoicing.late is not LatePolicy.WRITE_OFF:
        assert dict(told) == expected
        assert written_off == 0
    balance = await invoicing.balance(customer_id)
    assert -balance["customer_receivable_nano"] == sum(told.values())
    # Once more: nothing is charged twice, and all of it can be credited.
    await invoicing.round_at(invoicing.clock.now())
    for number, invoice in enumerate(invoices):
        if invoice.total_nano > 0:
            note = CreditNote(
                credit_note_id=f"cn_{customer_id}_{number}",
                customer_id=customer_id,
                invoice_id=invoice.invoice_id,
                amount_nano=invoice.total_nano,
            )
            await invoicing.service.credit(note)
    await invoicing.round_at(invoicing.clock.now())
    left = -(await invoicing.balance(customer_id))["customer_receivable_nano"]
    assert left == sum(min(0, one.total_nano) for one in invoices)
    assert (await verify(invoicing.pool)).intact
