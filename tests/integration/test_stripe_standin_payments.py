"""Checkout, payments, refunds and disputes of the Stripe stand-in, as the SDK sees them."""

from datetime import timedelta

import pytest
import stripe
from fixtures.stripe_world import stripe_world


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


LINE = {
    "quantity": 2,
    "price_data": {"currency": "usd", "unit_amount": 500, "product_data": {"name": "Credit"}},
}


def session(world, **params):
    return world.v1.checkout.sessions.create_async(
        {
            "mode": "payment",
            "line_items": [LINE],
            "success_url": "https://example.com/thanks",
            "metadata": {"top_up": "t-1"},
            **params,
        }
    )


async def paid_intent(world, amount=1_000):
    return await world.v1.payment_intents.create_async(
        {
            "amount": amount,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
        }
    )


async def test_a_paid_session_leaves_a_payment_and_a_card_for_later():
    async with stripe_world() as world:
        world.standin.add_customer("cus_1")
        made = await session(
            world,
            customer="cus_1",
            payment_intent_data={
                "setup_future_usage": "off_session",
                "metadata": {"customer_id": "c-1"},
            },
        )
        assert (made.status, made.amount_total, made.payment_intent) == ("open", 1_000, None)
        world.standin.complete_checkout(made.id)
        found = await world.v1.checkout.sessions.retrieve_async(
            made.id, {"expand": ["payment_intent"]}
        )
        intent = found.payment_intent
        assert (found.status, found.payment_status) == ("complete", "paid")
        assert (intent.status, intent.metadata.to_dict()) == ("succeeded", {"customer_id": "c-1"})
        completed = world.standin.snapshot_events[-1]
        assert completed["type"] == "checkout.session.completed"
        assert completed["data"]["object"]["metadata"] == {"top_up": "t-1"}
        cards = await world.v1.customers.payment_methods.list_async("cus_1")
        again = await world.v1.payment_intents.create_async(
            {
                "amount": 700,
                "currency": "usd",
                "customer": "cus_1",
                "payment_method": cards.data[0].id,
                "confirm": True,
                "off_session": True,
            }
        )
        assert (again.status, again.amount_received) == ("succeeded", 700)
        lines = await world.v1.checkout.sessions.line_items.list_async(made.id)
        assert [(line.quantity, line.amount_total) for line in lines.data] == [(2, 1_000)]
        with pytest.raises(stripe.InvalidRequestError, match="complete"):
            await world.v1.checkout.sessions.expire_async(made.id)


async def test_a_refused_card_leaves_the_session_open_and_time_closes_it():
    async with stripe_world() as world:
        made = await session(world)
        world.standin.complete_checkout(made.id, card="pm_card_visa_chargeDeclined")
        assert world.told("checkout.") == []
        assert world.told("payment_intent.payment_failed")
        world.standin.advance(timedelta(hours=24))
        found = await world.v1.checkout.sessions.retrieve_async(made.id)
        assert (found.status, found.url) == ("expired", None)
        assert world.told("checkout.") == ["checkout.session.expired"]


@pytest.mark.parametrize(
    ("paid", "told"),
    [
        (True, "checkout.session.async_payment_succeeded"),
        (False, "checkout.session.async_payment_failed"),
    ],
)
async def test_a_completed_session_may_still_be_unpaid(paid, told):
    async with stripe_world() as world:
        made = await session(world)
        world.standin.complete_checkout(made.id, delayed=True)
        found = await world.v1.checkout.sessions.retrieve_async(made.id)
        assert (found.status, found.payment_status) == ("complete", "unpaid")
        world.standin.settle_checkout(made.id, paid=paid)
        found = await world.v1.checkout.sessions.retrieve_async(made.id)
        assert (found.payment_status == "paid") is paid
        assert world.told("checkout.") == ["checkout.session.completed", told]


async def test_a_payment_link_opens_sessions_of_its_own():
    async with stripe_world() as world:
        link = await world.v1.payment_links.create_async(
            {"line_items": [LINE], "metadata": {"top_up": "t-1"}, "customer_creation": "always"}
        )
        first = world.standin.visit_payment_link(link.id)
        second = world.standin.visit_payment_link(link.id)
        world.standin.complete_checkout(second["id"], email="a@example.com")
        found = await world.v1.checkout.sessions.list_async({"payment_link": link.id})
        assert {item.id: item.status for item in found.data} == {
            first["id"]: "open",
            second["id"]: "complete",
        }
        assert found.data[0].metadata.to_dict() == {"top_up": "t-1"}
        customer = await world.v1.customers.retrieve_async(found.data[0].customer)
        assert customer.email == "a@example.com"


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_chargeCustomerFail", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_authenticationRequired", "authentication_required", "authentication_required"),
    ],
)
async def test_a_card_that_refuses_off_session_is_a_402_that_names_the_intent(
    card, code, decline_code
):
    async with stripe_world() as world:
        world.standin.add_customer("cus_1")
        saved = await world.v1.payment_methods.attach_async(card, {"customer": "cus_1"})
        with pytest.raises(stripe.CardError) as caught:
            await world.v1.payment_intents.create_async(
                {
                    "amount": 500,
                    "currency": "usd",
                    "customer": "cus_1",
                    "payment_method": saved.id,
                    "confirm": True,
                    "off_session": True,
                }
            )
        error = caught.value
        assert (error.http_status, error.code) == (402, code)
        assert error.json_body["error"]["decline_code"] == decline_code
        intent_id = error.json_body["error"]["payment_intent"]["id"]
        intent = await world.v1.payment_intents.retrieve_async(intent_id)
        assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", code)
        paid = await world.v1.payment_intents.confirm_async(
            intent_id, {"payment_method": "pm_card_visa"}
        )
        assert paid.status == "succeeded"
        charges = await world.v1.charges.list_async({"payment_intent": intent_id})
        assert [charge.paid for charge in charges.data] == [True, False]


@pytest.mark.parametrize(
    ("confirmed", "status"), [(True, "succeeded"), (False, "requires_payment_method")]
)
async def test_a_payment_may_ask_its_owner(confirmed, status):
    async with stripe_world() as world:
        intent = await world.v1.payment_intents.create_async(
            {
                "amount": 500,
                "currency": "usd",
                "payment_method": "pm_card_authenticationRequired",
                "confirm": True,
            }
        )
        assert intent.status == "requires_action"
        world.standin.authenticate(intent.id, confirmed=confirmed)
        assert (await world.v1.payment_intents.retrieve_async(intent.id)).status == status


async def test_refunds_never_exceed_the_charge():
    async with stripe_world() as world:
        intent = await paid_intent(world)
        refunds = world.v1.refunds
        first = await refunds.create_async({"payment_intent": intent.id, "amount": 400})
        with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
            await refunds.create_async({"payment_intent": intent.id, "amount": 601})
        await refunds.create_async({"charge": first.charge})
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await refunds.create_async({"payment_intent": intent.id})
        assert caught.value.code == "charge_already_refunded"
        amounts = [
            event["data"]["object"]["amount_refunded"]
            for event in world.standin.snapshot_events
            if event["type"] == "charge.refunded"
        ]
        assert amounts == [400, 1_000]
        world.standin.fail_refund(first.id)
        charge = await world.v1.charges.retrieve_async(first.charge)
        assert (charge.amount_refunded, charge.refunded) == (600, False)
        assert world.told("refund.") == ["refund.created", "refund.created", "refund.failed"]


@pytest.mark.parametrize(("won", "status"), [(True, "won"), (False, "lost")])
async def test_a_dispute_is_opened_and_closed(won, status):
    async with stripe_world() as world:
        intent = await paid_intent(world)
        opened = world.standin.open_dispute(intent.latest_charge, amount=600)
        found = await world.v1.disputes.retrieve_async(opened["id"])
        assert (found.status, found.amount, found.payment_intent) == (
            "needs_response",
            600,
            intent.id,
        )
        world.standin.close_dispute(opened["id"], won=won)
        listed = await world.v1.disputes.list_async({"payment_intent": intent.id})
        assert [item.status for item in listed.data] == [status]
        told = world.told("charge.dispute.")
        assert told[:3] == [
            "charge.dispute.created",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
        ]
        assert (told[3:] == ["charge.dispute.funds_reinstated"]) is won


async def test_somebody_elses_card_pays_nothing():
    async with stripe_world() as world:
        world.standin.add_customer("cus_1", card="pm_card_visa")
        world.standin.add_customer("cus_2")
        [card] = (await world.v1.customers.payment_methods.list_async("cus_1")).data
        with pytest.raises(stripe.InvalidRequestError, match="another customer"):
            await world.v1.payment_intents.create_async(
                {
                    "amount": 500,
                    "currency": "usd",
                    "customer": "cus_2",
                    "payment_method": card.id,
                    "confirm": True,
                }
            )
        assert (await world.v1.payment_intents.list_async()).data == []
