"""Every endpoint of the Stripe stand-in fails on demand, before or after it has taken effect."""

import json

import aiohttp
import pytest
import stripe
from fixtures.stripe_world import stripe_world

from sidecar.standins.stripe_faults import Fault, Faults
from sidecar.standins.stripe_settings import StripeSettings

FRESH_KEY_AFTER_500 = StripeSettings(save_server_errors=False)


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


async def a_price(world):
    made = await world.v1.prices.create_async(
        {
            "currency": "usd",
            "product_data": {"name": "Seat"},
            "unit_amount": 500,
            "recurring": {"interval": "month"},
        }
    )
    return made.id


async def an_open_invoice(world):
    draft = await world.v1.invoices.create_async(
        {"customer": "cus_1", "currency": "usd", "auto_advance": False}
    )
    await world.v1.invoice_items.create_async(
        {"customer": "cus_1", "invoice": draft.id, "amount": 300, "currency": "usd"}
    )
    await world.v1.invoices.finalize_invoice_async(draft.id)
    return draft.id


async def a_charge(world):
    intent = await world.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    )
    return intent.latest_charge


# What is made ready, the call, and how often it has taken effect.
CALLS = {
    "customer": (
        None,
        lambda world, _, options: world.v1.customers.create_async({"name": "Ada"}, options),
        lambda world: sum(
            c["name"] == "Ada" for c in world.standin.account.customers.room.items.values()
        ),
    ),
    "subscription": (
        a_price,
        lambda world, price, options: world.v1.subscriptions.create_async(
            {"customer": "cus_1", "items": [{"price": price}]}, options
        ),
        lambda world: len(world.standin.account.payments.charges.items),
    ),
    "invoice item": (
        None,
        lambda world, _, options: world.v1.invoice_items.create_async(
            {"customer": "cus_1", "amount": 5, "currency": "usd"}, options
        ),
        lambda world: len(world.standin.account.invoice_items.room.items),
    ),
    "payment of an invoice": (
        an_open_invoice,
        lambda world, invoice, options: world.v1.invoices.pay_async(invoice, {}, options),
        lambda world: len(world.standin.account.payments.charges.items),
    ),
    "payment": (
        None,
        lambda world, _, options: world.v1.payment_intents.create_async(
            {"amount": 5, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True},
            options,
        ),
        lambda world: len(world.standin.account.payments.charges.items),
    ),
    "refund": (
        a_charge,
        lambda world, charge, options: world.v1.refunds.create_async(
            {"charge": charge, "amount": 100}, options
        ),
        lambda world: len(world.standin.account.refunds.room.items),
    ),
    "webhook endpoint": (
        None,
        lambda world, _, options: world.v1.webhook_endpoints.create_async(
            {"url": "https://example.com/hook", "enabled_events": ["*"]}, options
        ),
        lambda world: len(world.standin.account.endpoints.room.items),
    ),
}
# The SDK lets a body that ends too early through as it is.
FAILURES = (stripe.StripeError, aiohttp.ClientPayloadError)
BEFORE = (
    Fault.DROP_BEFORE_COMMIT,
    Fault.ERROR_BEFORE_COMMIT,
    Fault.RATE_LIMIT,
    Fault.LOCK_TIMEOUT,
)
AFTER = (
    Fault.DROP_AFTER_COMMIT,
    Fault.TRUNCATE_AFTER_COMMIT,
    Fault.NOT_JSON_AFTER_COMMIT,
)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fault", [*BEFORE, *AFTER])
async def test_a_retry_with_its_key_takes_effect_once_whatever_went_wrong(name, fault):
    prepare, call, count = CALLS[name]
    faults = Faults(paths=None)
    async with stripe_world(faults=faults, settings=FRESH_KEY_AFTER_500) as world:
        world.standin.add_customer("cus_1", card="pm_card_visa")
        ready = None if prepare is None else await prepare(world)
        before = count(world)
        faults.add(fault)
        with pytest.raises(FAILURES):
            await call(world, ready, {"idempotency_key": "key-1"})
        assert count(world) - before == (fault in AFTER)
        await call(world, ready, {"idempotency_key": "key-1"})
        assert count(world) - before == 1


async def test_a_500_after_the_effect_is_saved_and_replayed():
    faults = Faults(paths=None)
    async with stripe_world(faults=faults) as world:
        faults.add(Fault.ERROR_AFTER_COMMIT)
        for _ in range(2):
            with pytest.raises(stripe.APIError) as caught:
                await world.v1.customers.create_async({}, {"idempotency_key": "key-1"})
            assert caught.value.http_status == 500
        assert len(world.standin.account.customers.room.items) == 1


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault.LOCK_TIMEOUT, "lock_timeout"), (Fault.RATE_LIMIT, "rate_limit")]
)
async def test_the_two_kinds_of_429_differ_by_code_and_header(fault, code):
    faults = Faults(paths=None, script=[fault])
    async with stripe_world(faults=faults) as world:
        with pytest.raises(stripe.RateLimitError) as caught:
            await world.v1.invoices.list_async()
        assert caught.value.json_body["error"]["code"] == code
        has_reason = "stripe-rate-limited-reason" in caught.value.headers
        assert has_reason is (fault is Fault.RATE_LIMIT)


async def test_what_is_not_json_has_taken_effect_all_the_same():
    faults = Faults(paths=None, script=[Fault.NOT_JSON_AFTER_COMMIT])
    async with stripe_world(faults=faults) as world:
        with pytest.raises(stripe.APIError) as caught:
            await world.v1.customers.create_async({})
        with pytest.raises(json.JSONDecodeError):
            json.loads(caught.value.http_body)
        assert len(world.standin.account.customers.room.items) == 1


async def test_faults_may_be_confined_to_what_lies_below_a_path():
    faults = Faults(paths=frozenset({"/v1/invoices/"}), probabilities={Fault.RATE_LIMIT: 1.0})
    async with stripe_world(faults=faults) as world:
        await world.v1.invoices.list_async()
        with pytest.raises(stripe.RateLimitError):
            await world.v1.invoices.retrieve_async("in_1")


async def test_a_request_names_itself_in_the_events_that_it_causes_and_time_does_not():
    async with stripe_world() as world:
        made = await world.v1.customers.create_async({}, {"idempotency_key": "key-1"})
        [event] = world.standin.snapshot_events
        assert event["request"] == {
            "id": made.last_response.request_id,
            "idempotency_key": "key-1",
        }
        world.standin.set_delinquent(made.id, delinquent=True)
        assert world.standin.snapshot_events[-1]["request"]["id"] is None
