"""Subscriptions and invoices of the Stripe stand-in through time, as the official SDK sees them."""

from datetime import timedelta

import pytest
import stripe
from fixtures.stripe_world import NOON, stripe_world

from sidecar.standins.stripe_settings import StripeSettings

START = int(NOON.timestamp())
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MONTH = timedelta(days=30)  # From 20 November to 20 December.


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


async def metered(world, **price):
    """A metered monthly price of 1 cent a unit, or as given."""
    meter = world.standin.add_meter("tokens")
    price = price or {"unit_amount": 1}
    made = await world.v1.prices.create_async(
        {
            "currency": "usd",
            "product_data": {"name": "Tokens"},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
            **price,
        }
    )
    return made.id


async def fixed(world, amount=1_000):
    made = await world.v1.prices.create_async(
        {
            "currency": "usd",
            "product_data": {"name": "Seat"},
            "unit_amount": amount,
            "recurring": {"interval": "month"},
        }
    )
    return made.id


async def subscribe(world, *prices, customer="cus_1", card="pm_card_visa", **params):
    if customer not in world.standin.account.customers.room.items:
        world.standin.add_customer(customer, card=card)
    return await world.v1.subscriptions.create_async(
        {"customer": customer, "items": [{"price": price} for price in prices], **params}
    )


async def use(world, value, identifier):
    now = int(world.standin.clock().timestamp())
    await world.v1.billing.meter_events.create_async(
        {
            "event_name": "tokens",
            "identifier": identifier,
            "timestamp": now,
            "payload": {"stripe_customer_id": "cus_1", "value": str(value)},
        },
        {"idempotency_key": identifier},
    )


async def newest_invoice(world, **filters):
    return (await world.v1.invoices.list_async({"limit": 1, **filters})).data[0]


async def test_usage_of_a_period_is_on_its_invoice_until_finalization_and_never_afterwards():
    async with stripe_world() as world:
        made = await subscribe(world, await metered(world))
        item = made.items.data[0] if not callable(made.items) else made["items"].data[0]
        assert (made.status, item.current_period_start) == ("active", START)
        await use(world, 100, "in-period")
        world.standin.advance(MONTH)
        draft = await newest_invoice(world)
        assert (draft.status, draft.total, draft.billing_reason) == (
            "draft",
            100,
            "subscription_cycle",
        )
        assert draft.period_end - draft.period_start == MONTH.total_seconds()
        late = {"stripe_customer_id": "cus_1", "value": "11"}
        await world.v1.billing.meter_events.create_async(
            {
                "event_name": "tokens",
                "identifier": "in-grace",
                "timestamp": START + 60,
                "payload": late,
            }
        )
        assert (await world.v1.invoices.retrieve_async(draft.id)).total == 111
        world.standin.advance(HOUR)
        paid = await world.v1.invoices.retrieve_async(draft.id)
        assert (paid.status, paid.amount_paid, paid.lines.data[0].quantity) == ("paid", 111, 111)
        await world.v1.billing.meter_events.create_async(
            {
                "event_name": "tokens",
                "identifier": "too-late",
                "timestamp": START + 120,
                "payload": late,
            }
        )
        world.standin.advance(MONTH + 2 * DAY)
        assert (await world.v1.invoices.retrieve_async(draft.id)).total == 111
        following = await newest_invoice(world)
        assert (following.id != draft.id, following.total, following.status) == (True, 0, "paid")
        assert world.told("invoice.")[:4] == [
            "invoice.created",
            "invoice.finalized",
            "invoice.paid",
            "invoice.payment_succeeded",
        ]
        assert world.told("customer.subscription.") == [
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.subscription.updated",
        ]


@pytest.mark.parametrize(("hours", "status"), [(47, "draft"), (48, "paid")])
async def test_the_grace_is_a_setting(hours, status):
    settings = StripeSettings(finalization_grace=timedelta(hours=48))
    async with stripe_world(settings=settings) as world:
        await subscribe(world, await metered(world))
        world.standin.advance(MONTH + hours * HOUR)
        assert (await newest_invoice(world)).status == status


@pytest.mark.parametrize("hours", [0, 73])
def test_a_grace_that_stripe_has_not_is_refused(hours):
    with pytest.raises(ValueError, match="1 to 72"):
        StripeSettings(finalization_grace=timedelta(hours=hours))


@pytest.mark.parametrize(
    ("price", "units", "cents"),
    [
        (
            {"unit_amount": 50, "transform_quantity": {"divide_by": 1_000_000, "round": "up"}},
            30,
            50,
        ),
        ({"unit_amount_decimal": "0.15"}, 30, 5),  # 4.5 is rounded half up, once.
        (
            {
                "billing_scheme": "tiered",
                "tiers_mode": "graduated",
                "tiers": [
                    {"up_to": 10, "unit_amount": 0},
                    {"up_to": 20, "unit_amount": 3},
                    {"up_to": "inf", "unit_amount": 2},
                ],
            },
            30,
            50,
        ),
    ],
)
async def test_a_price_applies_to_the_whole_period_and_to_no_single_event(price, units, cents):
    async with stripe_world() as world:
        await subscribe(world, await metered(world, **price))
        for number in range(3):
            await use(world, units // 3, f"id-{number}")
        world.standin.advance(MONTH + HOUR)
        invoice = await newest_invoice(world)
        assert (invoice.total, invoice.lines.data[0].amount) == (cents, cents)


async def test_fixed_prices_are_paid_in_advance_and_usage_afterwards():
    async with stripe_world() as world:
        made = await subscribe(world, await metered(world), await fixed(world))
        first = await world.v1.invoices.retrieve_async(made.latest_invoice)
        assert (first.billing_reason, first.status, first.total) == (
            "subscription_create",
            "paid",
            1_000,
        )
        await use(world, 7, "id-1")
        world.standin.advance(MONTH)
        second = await newest_invoice(world)
        assert sorted(line.amount for line in second.lines.data) == [7, 1_000]


async def test_a_failing_card_leads_from_past_due_to_unpaid_and_new_invoices_stay_drafts():
    settings = StripeSettings(payment_retry_days=(3, 5), after_retries="unpaid")
    async with stripe_world(settings=settings) as world:
        made = await subscribe(world, await metered(world), card="pm_card_chargeCustomerFail")
        await use(world, 500, "id-1")
        world.standin.advance(MONTH + HOUR)
        failed = await newest_invoice(world)
        assert (failed.status, failed.attempt_count) == ("open", 1)
        assert failed.next_payment_attempt == START + (MONTH + HOUR + 3 * DAY).total_seconds()
        found = await world.v1.subscriptions.retrieve_async(made.id)
        customer = await world.v1.customers.retrieve_async("cus_1")
        assert (found.status, customer.delinquent) == ("past_due", True)
        world.standin.advance(9 * DAY)
        failed = await world.v1.invoices.retrieve_async(failed.id)
        assert (failed.attempt_count, failed.next_payment_attempt) == (3, None)
        assert (await world.v1.subscriptions.retrieve_async(made.id)).status == "unpaid"
        await use(world, 1, "id-2")
        world.standin.advance(MONTH)
        newer = await newest_invoice(world)
        assert (newer.id != failed.id, newer.status, newer.auto_advance) == (True, "draft", False)
        world.standin.set_card("cus_1", "pm_card_visa")
        await world.v1.invoices.pay_async(failed.id)
        assert (await world.v1.subscriptions.retrieve_async(made.id)).status == "unpaid"
        assert (await world.v1.customers.retrieve_async("cus_1")).delinquent is False
        await world.v1.invoices.finalize_invoice_async(newer.id)
        await world.v1.invoices.pay_async(newer.id)
        assert (await world.v1.subscriptions.retrieve_async(made.id)).status == "active"
        assert world.told("invoice.payment_failed") == ["invoice.payment_failed"] * 3


async def test_a_retry_that_succeeds_makes_the_subscription_active_again():
    async with stripe_world() as world:
        made = await subscribe(world, await metered(world), card="pm_card_chargeCustomerFail")
        await use(world, 500, "id-1")
        world.standin.advance(MONTH + HOUR)
        world.standin.set_card("cus_1", "pm_card_visa")
        world.standin.advance(3 * DAY)
        assert (await newest_invoice(world)).status == "paid"
        assert (await world.v1.subscriptions.retrieve_async(made.id)).status == "active"


@pytest.mark.parametrize("after_retries", ["past_due", "canceled"])
async def test_what_becomes_of_a_subscription_in_the_end_is_a_setting(after_retries):
    settings = StripeSettings(payment_retry_days=(), after_retries=after_retries)
    async with stripe_world(settings=settings) as world:
        made = await subscribe(world, await metered(world), card="pm_card_chargeCustomerFail")
        await use(world, 500, "id-1")
        world.standin.advance(MONTH + HOUR)
        found = await world.v1.subscriptions.retrieve_async(made.id)
        assert found.status == after_retries


@pytest.mark.parametrize("overdue_events", [True, False])
async def test_a_sent_invoice_falls_due_and_is_overdue(overdue_events):
    async with stripe_world(settings=StripeSettings(overdue_events=overdue_events)) as world:
        made = await subscribe(
            world, await metered(world), collection_method="send_invoice", days_until_due=10
        )
        await use(world, 500, "id-1")
        world.standin.advance(MONTH + HOUR)
        sent = await newest_invoice(world, status="open")
        assert sent.due_date == START + (MONTH + HOUR + 10 * DAY).total_seconds()
        world.standin.advance(10 * DAY)
        assert world.told("invoice.overdue") == ["invoice.overdue"] * overdue_events
        assert (await world.v1.subscriptions.retrieve_async(made.id)).status == "past_due"
        await world.v1.invoices.pay_async(sent.id, {"paid_out_of_band": True})
        assert (await world.v1.subscriptions.retrieve_async(made.id)).status == "active"


@pytest.mark.parametrize(
    ("verb", "status", "told"),
    [
        ("void_invoice_async", "void", "invoice.voided"),
        ("mark_uncollectible_async", "uncollectible", "invoice.marked_uncollectible"),
    ],
)
async def test_an_open_invoice_may_be_given_up(verb, status, told):
    async with stripe_world() as world:
        await subscribe(world, await metered(world), card="pm_card_chargeCustomerFail")
        await use(world, 500, "id-1")
        world.standin.advance(MONTH + HOUR)
        invoice = await newest_invoice(world)
        ended = await getattr(world.v1.invoices, verb)(invoice.id)
        assert ended.status == status
        assert world.told(told) == [told]
        world.standin.advance(20 * DAY)  # No retry wakes it up.
        assert (await world.v1.invoices.retrieve_async(invoice.id)).attempt_count == 1
        with pytest.raises(stripe.InvalidRequestError):
            await world.v1.invoices.finalize_invoice_async(invoice.id)


async def test_a_trial_is_free_and_turns_into_a_paid_period():
    async with stripe_world() as world:
        price = await metered(world)
        made = await subscribe(world, price, await fixed(world), trial_period_days=7)
        assert (made.status, made.latest_invoice) == ("trialing", None)
        await use(world, 9, "in-trial")
        world.standin.advance(7 * DAY + HOUR)
        found = await world.v1.subscriptions.retrieve_async(made.id)
        invoice = await newest_invoice(world)
        assert (found.status, invoice.total) == ("active", 1_000)
        assert world.told("customer.subscription.trial_will_end")


async def test_cancelling_at_the_end_of_the_period_bills_its_usage_and_nothing_more():
    async with stripe_world() as world:
        made = await subscribe(world, await metered(world), await fixed(world))
        await use(world, 5, "id-1")
        await world.v1.subscriptions.update_async(made.id, {"cancel_at_period_end": True})
        world.standin.advance(MONTH + HOUR)
        found = await world.v1.subscriptions.retrieve_async(made.id)
        invoice = await newest_invoice(world)
        assert (found.status, invoice.total, invoice.status) == ("canceled", 5, "paid")
        world.standin.advance(2 * MONTH)
        assert (await newest_invoice(world)).id == invoice.id
        assert (await world.v1.subscriptions.list_async()).data == []
        assert len((await world.v1.subscriptions.list_async({"status": "all"})).data) == 1


@pytest.mark.parametrize("invoice_now", [True, False])
async def test_cancelling_at_once_bills_usage_only_if_asked(invoice_now):
    async with stripe_world() as world:
        made = await subscribe(world, await metered(world))
        await use(world, 5, "id-1")
        world.standin.advance(HOUR)
        ended = await world.v1.subscriptions.cancel_async(made.id, {"invoice_now": invoice_now})
        assert (ended.status, world.told("invoice.paid")) == (
            "canceled",
            ["invoice.paid"] * invoice_now,
        )
        assert world.told("customer.subscription.deleted")


async def test_the_31st_comes_back_after_a_short_month():
    async with stripe_world() as world:
        anchor = START + int((11 * DAY).total_seconds()) + int((30 * DAY).total_seconds())
        made = await subscribe(world, await metered(world), billing_cycle_anchor=anchor)
        ends = []
        for _ in range(4):
            found = await world.v1.subscriptions.retrieve_async(made.id)
            ends.append(found["items"].data[0].current_period_end)
            world.standin.advance(
                timedelta(seconds=ends[-1])
                - (world.standin.clock() - NOON)
                - timedelta(seconds=START)
            )
        days = [(timedelta(seconds=end - START) + NOON).day for end in ends]
        assert days == [31, 31, 28, 31]


async def test_items_change_and_the_event_says_what_they_were():
    async with stripe_world() as world:
        old = await metered(world)
        made = await subscribe(world, old)
        item = made["items"].data[0]
        new = await world.v1.prices.create_async(
            {
                "currency": "usd",
                "product_data": {"name": "Dear tokens"},
                "unit_amount": 2,
                "recurring": item.price.recurring.to_dict() | {"meter": item.price.recurring.meter}
                if False
                else {
                    "interval": "month",
                    "usage_type": "metered",
                    "meter": item.price.recurring.meter,
                },
            }
        )
        await world.v1.subscriptions.update_async(
            made.id, {"items": [{"id": item.id, "price": new.id}]}
        )
        event = world.standin.snapshot_events[-1]
        before = event["data"]["previous_attributes"]["items"]["data"][0]["price"]["id"]
        after = event["data"]["object"]["items"]["data"][0]["price"]["id"]
        assert (event["type"], before, after) == ("customer.subscription.updated", old, new.id)
        listed = await world.v1.subscription_items.list_async({"subscription": made.id})
        assert [entry.id for entry in listed.data] == [item.id]
        with pytest.raises(stripe.APIError, match="does not model prorations"):
            await world.v1.subscriptions.update_async(
                made.id, {"items": [{"price": await fixed(world)}]}
            )


async def test_a_pending_item_comes_onto_the_next_invoice_once():
    async with stripe_world() as world:
        await subscribe(world, await metered(world))
        await world.v1.invoice_items.create_async(
            {"customer": "cus_1", "amount": 250, "currency": "usd", "description": "Late usage"}
        )
        world.standin.advance(MONTH + HOUR)
        invoice = await newest_invoice(world)
        assert (invoice.total, invoice.status) == (250, "paid")
        world.standin.advance(MONTH + 2 * DAY)
        assert (await newest_invoice(world)).total == 0


async def test_a_manual_invoice_is_made_of_its_items_and_may_be_expanded():
    async with stripe_world() as world:
        world.standin.add_customer("cus_1", card="pm_card_visa")
        draft = await world.v1.invoices.create_async({"customer": "cus_1", "currency": "usd"})
        await world.v1.invoice_items.create_async(
            {"customer": "cus_1", "invoice": draft.id, "amount": 300, "currency": "usd"}
        )
        world.standin.advance(HOUR)
        paid = await world.v1.invoices.retrieve_async(draft.id, {"expand": ["customer"]})
        assert (paid.status, paid.total, paid.customer.object) == ("paid", 300, "customer")
        found = await world.v1.invoice_payments.list_async({"invoice": draft.id})
        intent = await world.v1.payment_intents.retrieve_async(found.data[0].payment.payment_intent)
        assert (intent.status, intent.amount_received) == ("succeeded", 300)
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await world.v1.invoices.pay_async(draft.id)
        assert caught.value.code == "invoice_already_paid"


async def test_a_refused_payment_of_an_invoice_is_a_402_and_counts_as_an_attempt():
    async with stripe_world() as world:
        world.standin.add_customer("cus_1", card="pm_card_chargeCustomerFail")
        draft = await world.v1.invoices.create_async(
            {"customer": "cus_1", "currency": "usd", "auto_advance": False}
        )
        await world.v1.invoice_items.create_async(
            {"customer": "cus_1", "invoice": draft.id, "amount": 300, "currency": "usd"}
        )
        await world.v1.invoices.finalize_invoice_async(draft.id)
        with pytest.raises(stripe.CardError) as caught:
            await world.v1.invoices.pay_async(draft.id)
        assert (caught.value.http_status, caught.value.code) == (402, "card_declined")
        failed = await world.v1.invoices.retrieve_async(draft.id)
        assert (failed.attempt_count, failed.next_payment_attempt) == (1, None)


async def test_credit_notes_lower_an_open_invoice_and_give_back_from_a_paid_one():
    async with stripe_world() as world:
        world.standin.add_customer("cus_1")
        draft = await world.v1.invoices.create_async(
            {"customer": "cus_1", "currency": "usd", "auto_advance": False}
        )
        await world.v1.invoice_items.create_async(
            {"customer": "cus_1", "invoice": draft.id, "amount": 300, "currency": "usd"}
        )
        opened = await world.v1.invoices.finalize_invoice_async(draft.id)
        notes = world.v1.credit_notes
        line = opened.lines.data[0].id
        await notes.create_async(
            {
                "invoice": draft.id,
                "lines": [{"type": "invoice_line_item", "invoice_line_item": line, "amount": 100}],
            }
        )
        found = await world.v1.invoices.retrieve_async(draft.id)
        assert (found.total, found.amount_remaining) == (300, 200)
        with pytest.raises(stripe.InvalidRequestError, match="more than what is left"):
            await notes.create_async({"invoice": draft.id, "amount": 201})
        world.standin.set_card("cus_1", "pm_card_visa")
        await world.v1.invoices.pay_async(draft.id)
        note = await notes.create_async(
            {"invoice": draft.id, "amount": 150, "refund_amount": 90, "credit_amount": 60}
        )
        assert note.type == "post_payment"
        customer = await world.v1.customers.retrieve_async("cus_1")
        refunds = (await world.v1.refunds.list_async()).data
        assert (customer.balance, [item.amount for item in refunds]) == (-60, [90])
        listed = await notes.list_async({"invoice": draft.id})
        assert [item.amount for item in listed.data] == [150, 100]


async def test_invoices_are_listed_by_page_customer_and_status():
    async with stripe_world() as world:
        price = await metered(world)
        await subscribe(world, price)
        await subscribe(world, price, customer="cus_2")
        for _ in range(3):
            world.standin.advance(timedelta(days=31) + HOUR)
        paid = [
            item.id
            async for item in (
                await world.v1.invoices.list_async({"limit": 2, "customer": "cus_1"})
            ).auto_paging_iter()
        ]
        assert len(set(paid)) == len(paid) == 3
        assert (await world.v1.invoices.list_async({"status": "open"})).data == []
