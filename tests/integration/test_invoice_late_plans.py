"""Late usage of plans that say where it goes, beside one that leaves it to the setting."""

from datetime import timedelta

import pytest
from fixtures.invoice_parts import DECEMBER, LATER, NOVEMBER, Invoicing, Rater, invoice_card

from sidecar.domain.invoices import LatePolicy

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
