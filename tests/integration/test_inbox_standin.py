"""The inbox against the Stripe stand-in: its events, and its objects by the real SDK."""

import random
from datetime import timedelta

from fixtures.fake_provider import CUSTOMER
from fixtures.stripe_inbox import Joined, billed, joined

from sidecar.inbound.webhooks.stripe import StripeWebhooks
from sidecar.services.payments import CUSTOMER_KEY, TOP_UP_KEY
from sidecar.services.stripe_events import read_event

DAY = timedelta(days=1)
TEN = 10_000_000_000
LINE = {
    "quantity": 1,
    "price_data": {"currency": "usd", "unit_amount": 1_000, "product_data": {"name": "Credit"}},
}


async def available(world: Joined) -> int:
    return (await world.inbox.cases.credits.read_balance("cus_1")).available_nano


async def test_an_invoice_that_is_not_paid_in_time_and_then_is():
    async with joined() as world:
        name = await billed(world, collection_method="send_invoice", days_until_due=1)
        await world.hear()
        assert world.inbox.standing() == "good"
        for step, standing in ((DAY, "grace"), (3 * DAY, "delinquent")):
            world.stripe.standin.advance(step)
            await world.hear()
            assert world.inbox.standing() == standing
        await world.stripe.v1.invoices.pay_async(name, {"paid_out_of_band": True})
        await world.hear(random.Random(3))
        assert world.inbox.standing() == "good"


async def test_invoices_that_are_voided_or_given_up():
    async with joined() as world:
        params = {"collection_method": "send_invoice", "days_until_due": 1}
        first, second = await billed(world, **params), await billed(world, **params)
        await world.stripe.v1.invoices.mark_uncollectible_async(first)
        await world.hear()
        assert world.inbox.standing() == "delinquent"
        await world.stripe.v1.invoices.void_invoice_async(first)
        await world.stripe.v1.invoices.void_invoice_async(second)
        await world.hear(random.Random(4))
        assert world.inbox.standing() == "good"


async def test_a_checkout_for_credit_its_refund_and_its_dispute():
    async with joined() as world:
        v1, standin = world.stripe.v1, world.stripe.standin
        made = await v1.checkout.sessions.create_async(
            {
                "mode": "payment",
                "customer": CUSTOMER,
                "line_items": [LINE],
                "success_url": "https://example.com/thanks",
                "metadata": {TOP_UP_KEY: "order-7", CUSTOMER_KEY: "cus_1"},
            }
        )
        standin.complete_checkout(made.id)
        await world.hear(random.Random(1))
        assert await available(world) == TEN
        assert ("cus_1", "top:order-7") in world.inbox.cases.record.grants
        session = await v1.checkout.sessions.retrieve_async(made.id)
        intent = await v1.payment_intents.retrieve_async(session.payment_intent)
        refund = await v1.refunds.create_async({"payment_intent": intent.id, "amount": 300})
        await world.hear(random.Random(2))
        assert await available(world) == 7 * TEN // 10
        dispute = standin.open_dispute(intent.latest_charge, amount=500)
        await world.hear(random.Random(3))
        assert await available(world) == 2 * TEN // 10
        standin.close_dispute(dispute["id"], won=True)
        standin.fail_refund(refund.id)
        await world.hear(random.Random(4))
        assert await available(world) == TEN


async def test_a_dispute_of_a_paid_invoice():
    async with joined() as world:
        v1, standin = world.stripe.v1, world.stripe.standin
        name = await billed(world, collection_method="charge_automatically")
        await world.hear()
        assert world.inbox.standing() == "good"
        links = await v1.invoice_payments.list_async({"invoice": name})
        intent = await v1.payment_intents.retrieve_async(links.data[0].payment.payment_intent)
        dispute = standin.open_dispute(intent.latest_charge)
        await world.hear(random.Random(1))
        assert world.inbox.standing() == "delinquent"
        standin.close_dispute(dispute["id"], won=True)
        await world.hear(random.Random(2))
        assert world.inbox.standing() == "good"


async def test_a_subscription_gives_its_plan_until_it_ends():
    async with joined() as world:
        v1 = world.stripe.v1
        price = await v1.prices.create_async(
            {
                "currency": "usd",
                "product_data": {"name": "Pro"},
                "unit_amount": 1_000,
                "lookup_key": "price_pro",
                "recurring": {"interval": "month"},
            }
        )
        made = await v1.subscriptions.create_async(
            {"customer": CUSTOMER, "items": [{"price": price.id}]}
        )
        await world.hear(random.Random(1))
        assert world.inbox.cases.record.customers["cus_1"].plan == "postpaid"
        await v1.subscriptions.cancel_async(made.id)
        await world.hear(random.Random(2))
        assert world.inbox.cases.record.customers["cus_1"].plan == "prepaid"


async def test_its_lists_and_its_reports_of_errors_are_read():
    async with joined() as world:
        objects = world.inbox.handlers._objects
        name = await billed(world, collection_method="send_invoice", days_until_due=1)
        found = await objects.list_open_invoices(None)
        assert [one.invoice_id for one in found.invoices] == [name]
        assert found.invoices[0] == await objects.fetch_invoice(name)
        events = await objects.list_events(None, since=world.stripe.standin.clock() - DAY)
        assert "invoice.finalized" in {event.event_type for event in events.events}
        await world.stripe.v1.billing.meter_events.create_async(
            {
                "event_name": "unheard_of",
                "identifier": "tl1:a",
                "payload": {"stripe_customer_id": CUSTOMER, "value": "1"},
            },
            {"idempotency_key": "tl1:a:0"},
        )
        report = world.stripe.standin.error_reports[-1].event
        thin = {name: value for name, value in report.items() if name != "data"}
        event = read_event(thin)
        await world.inbox.inbox.receive(event)
        await world.inbox.work()
        assert world.inbox.reports.noted == [("tl1:a:0", "no_meter")]
        assert StripeWebhooks(("whsec_x",)).parse(b"{}").reason == "not_an_event"
