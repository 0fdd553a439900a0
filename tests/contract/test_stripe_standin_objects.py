"""Every object of the Stripe stand-in, and every one inside an event, fits Stripe's description."""

import json
import subprocess
import sys
from datetime import timedelta
from importlib import resources
from pathlib import Path

import pytest
import stripe
from fixtures.stripe_world import stripe_world
from openapi_schema_validator import OAS30Validator

from sidecar.standins.stripe_routes import make_routes

ROOT = Path(__file__).parents[2]
DATA = resources.files("sidecar.standins").joinpath("data")
DOCUMENTS = [
    json.loads(DATA.joinpath(name).read_text())
    for name in ("stripe-openapi.json", "stripe-openapi-payments.json")
]
COMPONENTS = {
    "schemas": DOCUMENTS[0]["components"]["schemas"] | DOCUMENTS[1]["components"]["schemas"]
}
KINDS = {
    *("charge", "checkout.session", "credit_note", "customer", "dispute", "invoice"),
    *("invoice_payment", "invoiceitem", "payment_intent", "payment_link", "payment_method"),
    *("refund", "subscription"),
}


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


def problems(item):
    """What a description does not allow of an object, unknown fields included."""
    schema = COMPONENTS["schemas"][item["object"]]
    validator = OAS30Validator({**schema, "components": COMPONENTS})
    unknown = item.keys() - schema["properties"].keys()
    return [*sorted(unknown), *(problem.message for problem in validator.iter_errors(item))]


async def everything(world):
    """Make at least one object of every kind, and move some through their states."""
    standin, v1 = world.standin, world.v1
    standin.add_customer("cus_1", card="pm_card_visa")
    standin.add_customer("cus_2", card="pm_card_chargeCustomerFail")
    meter = standin.add_meter("tokens")
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    price = await v1.prices.create_async(
        {
            "currency": "usd",
            "product_data": {"name": "Tokens"},
            "unit_amount": 100,
            "recurring": recurring,
        }
    )
    for customer in ("cus_1", "cus_2"):
        await v1.subscriptions.create_async(
            {"customer": customer, "items": [{"price": price.id}], "trial_period_days": 4}
        )
        await v1.invoice_items.create_async(
            {"customer": customer, "amount": 500, "currency": "usd"}
        )
    line = {
        "quantity": 1,
        "price_data": {"currency": "usd", "unit_amount": 900, "product_data": {"name": "Credit"}},
    }
    link = await v1.payment_links.create_async({"line_items": [line]})
    session = standin.visit_payment_link(link.id)
    standin.complete_checkout(session["id"], card="pm_card_visa_chargeDeclined")
    standin.complete_checkout(session["id"])
    for _ in range(40):
        standin.advance(timedelta(days=1))
    invoices = standin.account.invoices.room.items.values()
    paid = next(item for item in invoices if item["status"] == "paid" and item["amount_paid"])
    await v1.credit_notes.create_async({"invoice": paid["id"], "amount": 5, "refund_amount": 5})
    failed = next(item for item in invoices if item["status"] == "open")
    await v1.invoices.mark_uncollectible_async(failed["id"])
    charges = standin.account.payments.charges.items.values()
    disputed = standin.open_dispute(next(item["id"] for item in charges if item["paid"]))
    standin.close_dispute(disputed["id"], won=False)
    for subscription in list(standin.account.subscriptions.room.items):
        await v1.subscriptions.cancel_async(subscription, {"invoice_now": True})
    await v1.customers.delete_async("cus_2")


async def test_every_object_and_every_snapshot_of_one_fits():
    async with stripe_world() as world:
        await everything(world)
        account = world.standin.account
        kept = [item for room in account._rooms() for item in room.items.values()]
        told = [event["data"]["object"] for event in world.standin.snapshot_events]
        assert {item["object"] for item in kept} == KINDS
        assert [found for item in (*kept, *told) for found in problems(item)] == []
        assert [found for event in world.standin.snapshot_events for found in problems(event)] == []
        assert len(world.told()) == len({event["id"] for event in world.standin.snapshot_events})


async def test_every_route_is_an_operation_of_the_description():
    described = {
        spec["operationId"]
        for document in DOCUMENTS
        for methods in document["paths"].values()
        for spec in methods.values()
    }
    async with stripe_world() as world:
        assert make_routes(world.standin.account, world.standin.clock).keys() <= described


def test_the_derived_description_is_what_the_installed_sdk_says():
    command = [sys.executable, "-m", "sidecar.standins.stripe_derive", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
