"""
What the Stripe stand-in assumes, asked of the stand-in and of a real Stripe sandbox.

The sandbox is asked only when STRIPE_SANDBOX_KEY holds a test key (`sk_test_` or `rk_test_`); it
leaves objects behind there. Where the two differ the stand-in is wrong.
"""

import asyncio
import os
import time
import uuid
from contextlib import asynccontextmanager

import pytest
import stripe
from fixtures.stripe_world import sdk_client

from sidecar.standins.stripe import StripeStandin

KEY = os.environ.get("STRIPE_SANDBOX_KEY", "")
API = "https://api.stripe.com"
PATIENCE_SECONDS = 120.0
pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)
SANDBOX = pytest.param(
    "sandbox",
    marks=pytest.mark.skipif(
        not KEY, reason="STRIPE_SANDBOX_KEY is not set: there is no Stripe sandbox to ask"
    ),
)


@pytest.fixture(params=["stand-in", SANDBOX])
def target(request, monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    return request.param


@asynccontextmanager
async def opened(target):
    if target == "sandbox":
        assert KEY.startswith(("sk_test_", "rk_test_")), "the key is not a test key"
        async with sdk_client(API, KEY) as client:
            yield client
        return
    standin = StripeStandin()
    async with standin.serving() as url, sdk_client(url) as client:
        yield client
    assert not standin.bugs, list(standin.bugs)


async def metered(client, **price):
    """A customer, a meter's event name and a metered monthly price, all new."""
    name = f"tokens_{uuid.uuid4().hex[:12]}"
    meter = await client.v1.billing.meters.create_async(
        {
            "display_name": name,
            "event_name": name,
            "default_aggregation": {"formula": "sum"},
        }
    )
    made = await client.v1.prices.create_async(
        {
            "currency": "usd",
            "product_data": {"name": name},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            **price,
        }
    )
    customer = await client.v1.customers.create_async({"name": name})
    return customer.id, name, made.id, meter.id


def send(client, customer, name, value, identifier, *, key=None, timestamp=None):
    return client.v1.billing.meter_events.create_async(
        {
            "event_name": name,
            "identifier": identifier,
            "timestamp": int(time.time()) if timestamp is None else timestamp,
            "payload": {"stripe_customer_id": customer, "value": value},
        },
        {"idempotency_key": key or f"{identifier}:0"},
    )


def fresh():
    return f"sandbox:{uuid.uuid4().hex}"


async def patiently(condition):
    """Whether a condition comes true while usage is aggregated."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not await condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(2)
    return True


async def test_a_duplicate_identifier_is_a_400_that_says_so(target):
    async with opened(target) as client:
        customer, name, _, _ = await metered(client, unit_amount=1)
        identifier = fresh()
        await send(client, customer, name, "5", identifier)
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await send(client, customer, name, "5", identifier, key=f"{identifier}:1")
        assert caught.value.http_status == 400
        assert "already exists with identifier" in caught.value.user_message
        assert caught.value.headers.get("stripe-should-retry") == "false"


async def test_an_idempotency_key_replays_the_first_answer(target):
    async with opened(target) as client:
        key = fresh()
        first = await client.v1.customers.create_async({"name": "Ada"}, {"idempotency_key": key})
        again = await client.v1.customers.create_async({"name": "Ada"}, {"idempotency_key": key})
        assert first.id == again.id
        with pytest.raises(stripe.IdempotencyError):
            await client.v1.customers.create_async({"name": "Bob"}, {"idempotency_key": key})


@pytest.mark.parametrize("seconds", [-36 * 86_400, 3_600])
async def test_a_timestamp_out_of_range_is_refused(target, seconds):
    async with opened(target) as client:
        customer, name, _, _ = await metered(client, unit_amount=1)
        instant = int(time.time()) + seconds
        with pytest.raises(stripe.InvalidRequestError):
            await send(client, customer, name, "5", fresh(), timestamp=instant)


async def test_an_unknown_customer_is_accepted_and_reported_later(target):
    async with opened(target) as client:
        _, name, _, _ = await metered(client, unit_amount=1)
        event = await send(client, "cus_doesnotexist", name, "5", fresh())
        assert event.event_name == name


@pytest.mark.parametrize(
    ("price", "value", "cents"),
    [
        (
            {"unit_amount": 50, "transform_quantity": {"divide_by": 1_000, "round": "up"}},
            "1001",
            100,
        ),
        ({"unit_amount_decimal": "0.15"}, "30", 5),
        (
            {
                "billing_scheme": "tiered",
                "tiers_mode": "graduated",
                "tiers": [{"up_to": 10, "unit_amount": 0}, {"up_to": "inf", "unit_amount": 3}],
            },
            "30",
            60,
        ),
        (
            {
                "billing_scheme": "tiered",
                "tiers_mode": "volume",
                "tiers": [{"up_to": 10, "unit_amount": 5}, {"up_to": "inf", "unit_amount": 3}],
            },
            "30",
            90,
        ),
    ],
)
async def test_a_line_is_the_price_of_the_whole_period_rounded_half_up(target, price, value, cents):
    async with opened(target) as client:
        customer, name, made, _ = await metered(client, **price)
        subscription = await client.v1.subscriptions.create_async(
            {
                "customer": customer,
                "items": [{"price": made}],
                "collection_method": "send_invoice",
                "days_until_due": 30,
            }
        )
        await send(client, customer, name, value, fresh())
        totals = []

        async def billed():
            preview = await client.v1.invoices.create_preview_async(
                {"subscription": subscription.id}
            )
            totals.append(preview.total)
            return preview.total == cents

        assert await patiently(billed), totals[-1]


async def test_a_summary_holds_events_of_its_first_second_and_none_of_its_last(target):
    async with opened(target) as client:
        customer, name, _, meter = await metered(client, unit_amount=1)
        end = int(time.time()) // 60 * 60
        start = end - 3_600
        await send(client, customer, name, "1", fresh(), timestamp=start)
        await send(client, customer, name, "10", fresh(), timestamp=end)
        seen = []

        async def both_arrived():
            summaries = client.v1.billing.meters.event_summaries
            window = {"customer": customer, "start_time": start, "end_time": end + 60}
            page = await summaries.list_async(meter, window)
            seen[:] = [summary.aggregated_value for summary in page.data]
            return seen == [11]

        assert await patiently(both_arrived), seen
        page = await client.v1.billing.meters.event_summaries.list_async(
            meter, {"customer": customer, "start_time": start, "end_time": end}
        )
        assert [summary.aggregated_value for summary in page.data] == [1]


async def test_a_subscription_of_usage_alone_starts_active(target):
    async with opened(target) as client:
        customer, _, price, _ = await metered(client, unit_amount=1)
        made = await client.v1.subscriptions.create_async(
            {
                "customer": customer,
                "items": [{"price": price}],
                "collection_method": "send_invoice",
                "days_until_due": 30,
                "billing_mode": {"type": "flexible"},
            }
        )
        item = made["items"].data[0]
        assert (made.status, item.price.id) == ("active", price)
        assert item.current_period_end > item.current_period_start


async def test_an_invoice_goes_from_draft_to_open_to_paid(target):
    async with opened(target) as client:
        customer = await client.v1.customers.create_async({"email": "payer@example.com"})
        draft = await client.v1.invoices.create_async(
            {
                "customer": customer.id,
                "currency": "usd",
                "collection_method": "send_invoice",
                "days_until_due": 30,
                "auto_advance": False,
            }
        )
        await client.v1.invoice_items.create_async(
            {"customer": customer.id, "invoice": draft.id, "amount": 500, "currency": "usd"}
        )
        opened_invoice = await client.v1.invoices.finalize_invoice_async(draft.id)
        assert (draft.status, opened_invoice.status, opened_invoice.total) == ("draft", "open", 500)
        with pytest.raises(stripe.InvalidRequestError):
            await client.v1.invoices.finalize_invoice_async(draft.id)
        paid = await client.v1.invoices.pay_async(draft.id, {"paid_out_of_band": True})
        assert (paid.status, paid.amount_remaining) == ("paid", 0)


async def test_a_refused_card_is_a_402_with_its_codes(target):
    async with opened(target) as client:
        customer = await client.v1.customers.create_async({})
        card = await client.v1.payment_methods.attach_async(
            "pm_card_chargeCustomerFail", {"customer": customer.id}
        )
        with pytest.raises(stripe.CardError) as caught:
            await client.v1.payment_intents.create_async(
                {
                    "amount": 500,
                    "currency": "usd",
                    "customer": customer.id,
                    "payment_method": card.id,
                    "confirm": True,
                    "off_session": True,
                }
            )
        assert (caught.value.http_status, caught.value.code) == (402, "card_declined")


async def test_the_secret_of_a_webhook_endpoint_is_shown_once(target):
    async with opened(target) as client:
        made = await client.v1.webhook_endpoints.create_async(
            {"url": "https://example.com/hook", "enabled_events": ["invoice.paid"]}
        )
        try:
            found = await client.v1.webhook_endpoints.retrieve_async(made.id)
            assert made.secret.startswith("whsec_")
            assert "secret" not in found.to_dict()
        finally:
            await client.v1.webhook_endpoints.delete_async(made.id)


async def test_a_refund_is_bounded_by_its_charge(target):
    async with opened(target) as client:
        intent = await client.v1.payment_intents.create_async(
            {
                "amount": 1_000,
                "currency": "usd",
                "payment_method": "pm_card_visa",
                "confirm": True,
                "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            }
        )
        await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 400})
        with pytest.raises(stripe.InvalidRequestError):
            await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 601})
        charge = await client.v1.charges.retrieve_async(intent.latest_charge)
        assert charge.amount_refunded == 400
