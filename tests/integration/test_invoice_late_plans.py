"""Late usage: plans that say where it goes, and prices that the end of its period decided."""

from datetime import timedelta

import pytest
from fixtures.invoice_parts import DECEMBER, LATER, NOVEMBER, Invoicing, Rater, invoice_card
from fixtures.ledger_parts import verify

from sidecar.domain.invoices import FindingKind, LatePolicy
from sidecar.domain.period_prices import Flat, Volume
from sidecar.domain.price_models import PerUnit, Tier

USED = {"input-tokens": 10}
PLANS = {
    "next": LatePolicy.NEXT_PERIOD,
    "item": LatePolicy.INVOICE_ITEM,
    "off": LatePolicy.WRITE_OFF,
}


@pytest.mark.parametrize("default", list(LatePolicy))
async def test_each_plan_s_late_usage_goes_where_it_says(postgres_pool, default):
    cards = {plan: invoice_card(plan=plan) for plan in (*PLANS, "plan")}
    invoicing = Invoicing(
        postgres_pool, cards=tuple(cards.values()), late=default, plans_late=PLANS
    )
    raters = {plan: Rater(card) for plan, card in cards.items()}
    for plan in cards:
        await invoicing.add_customer(f"cus_{plan}", plan=plan)
    records = [
        [
            raters[plan].capture(place * 10 + n, USED, NOVEMBER, customer_id=f"cus_{plan}")
            for place, plan in enumerate(cards)
        ]
        for n in (1, 2)
    ]
    await invoicing.settle(*records[0])
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(*records[1])
    # One at a time, so that those whose usage waits for another period would be in the way.
    for hour in range(6):
        await invoicing.round_at(LATER - timedelta(days=10, hours=-hour), batch_max=1)
    await invoicing.round_at(LATER)
    invoices = await invoicing.invoices()
    for plan in cards:
        policy = PLANS.get(plan, default)
        own = [one for one in invoices if one.customer_id == f"cus_{plan}"]
        told = [(one.sequence, one.period.start.month, one.total_nano) for one in own]
        amount = 10 * 500
        assert (
            told
            == {
                LatePolicy.NEXT_PERIOD: [(0, 11, amount), (0, 12, amount)],
                LatePolicy.INVOICE_ITEM: [(0, 11, amount), (1, 11, amount)],
                LatePolicy.WRITE_OFF: [(0, 11, amount)],
            }[policy]
        )
        owed = -(await invoicing.balance(f"cus_{plan}"))["customer_receivable_nano"]
        assert owed == sum(one.total_nano for one in own)


TIERS = (Tier(up_to=100, amount_nano=900), Tier(up_to=None, amount_nano=400))


@pytest.mark.parametrize("policy", list(LatePolicy))
@pytest.mark.parametrize(("late", "change"), [(10, 10 * 900), (30, 120 * 400 - 90 * 900)])
async def test_late_usage_of_a_volume_is_charged_by_the_total_with_it(
    postgres_pool, policy, late, change
):
    card = invoice_card({"requests": Volume(tiers=TIERS)})
    invoicing = Invoicing(postgres_pool, cards=(card,), late=policy)
    await invoicing.add_customer()
    rater = Rater(card)
    await invoicing.round_at(NOVEMBER)
    await invoicing.settle(rater.capture(1, {"requests": 90}, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(rater.capture(2, {"requests": late}, NOVEMBER))
    for hour in (0, 2):
        await invoicing.round_at(LATER - timedelta(days=20, hours=-hour))
    await invoicing.round_at(LATER)
    november, after = await invoicing.invoices()
    assert november.total_nano == 90 * 900
    sequence = 1 if policy is LatePolicy.INVOICE_ITEM else 0
    assert (after.sequence, after.period == november.period) == (sequence, bool(sequence))
    charged = [
        (line.amount_nano, line.quantity, line.period) for line in after.lines if line.charge
    ]
    found = [(one.kind, one.captured_nano, one.expected_nano) for one in after.findings]
    if policy is LatePolicy.WRITE_OFF and change > 0:
        assert (charged, found) == ([], [(FindingKind.LATE_WRITTEN_OFF, 0, change)])
        change = 0
    else:
        assert (charged, found) == ([(change, late, november.period)], [])
    assert (after.total_nano, after.due_nano) == (change, max(0, change))
    owed = -(await invoicing.balance())["customer_receivable_nano"]
    assert owed == 90 * 900 + change
    assert (await verify(postgres_pool)).intact


async def test_late_usage_of_before_the_first_invoice_is_told_and_not_worked_out(postgres_pool):
    card = invoice_card({"requests": Volume(tiers=TIERS), "input-tokens": PerUnit(amount_nano=500)})
    invoicing = Invoicing(postgres_pool, cards=(card,), since=NOVEMBER)
    await invoicing.add_customer()
    rater = Rater(card)
    used = {"requests": 90, "input-tokens": 3}
    await invoicing.settle(rater.capture(1, used, DECEMBER))
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(rater.capture(2, used, NOVEMBER - timedelta(hours=1)))
    await invoicing.round_at(LATER)
    (invoice,) = await invoicing.invoices()
    assert [one.kind for one in invoice.findings] == [FindingKind.LATE_CHARGE]
    assert [line.amount_nano for line in invoice.lines if line.charge] == [90 * 900]


async def test_a_preview_shows_what_late_usage_changes(postgres_pool):
    card = invoice_card({"requests": Volume(tiers=TIERS), "": Flat(amount_nano=7)})
    invoicing = Invoicing(postgres_pool, cards=(card,))
    await invoicing.add_customer()
    rater = Rater(card)
    await invoicing.settle(rater.capture(1, {"requests": 90}, NOVEMBER))
    await invoicing.round_at(DECEMBER)
    await invoicing.settle(rater.capture(2, {"requests": 9}, NOVEMBER))
    preview = (await invoicing.service.preview("cus_a")).invoice
    await invoicing.round_at(LATER)
    _, december = await invoicing.invoices()
    assert preview.lines == december.lines
    assert {line.amount_nano for line in december.lines if line.charge} == {7, 9 * 900}


async def test_late_usage_that_waits_for_an_invoice_of_its_own_counts_on_no_other(postgres_pool):
    card = invoice_card({"requests": Volume(tiers=TIERS), "input-tokens": PerUnit(amount_nano=500)})
    invoicing = Invoicing(postgres_pool, cards=(card,), late=LatePolicy.INVOICE_ITEM)
    await invoicing.add_customer()
    rater = Rater(card)
    first = rater.capture(1, {"requests": 50, "input-tokens": 10}, NOVEMBER)
    await invoicing.round_at(NOVEMBER)
    await invoicing.settle(first)
    await invoicing.round_at(DECEMBER)
    # What costs less is for the next period's invoice, what costs 0 so far for one of its own.
    await invoicing.settle(
        rater.correct(first, {"requests": 45, "input-tokens": 5}),
        rater.capture(2, {"requests": 60}, NOVEMBER),
    )
    await invoicing.round_at(LATER)
    november, december, late = await invoicing.invoices()
    assert (december.sequence, late.sequence) == (0, 1)
    totals = [one.total_nano for one in (november, december, late)]
    assert totals == [
        50 * 900 + 10 * 500,
        45 * 900 - 50 * 900 - 5 * 500,
        105 * 400 - 45 * 900,
    ]
