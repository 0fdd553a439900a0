"""Meters, summaries, customers, prices and previews as the official SDK sees them."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import stripe

from sidecar.standins.stripe import StripeStandin
from sidecar.standins.stripe_settings import MovableClock, StripeSettings

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOON_SECONDS = int(NOON.timestamp())


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@asynccontextmanager
async def running(settings=None):
    """A stand-in with one customer and one meter, and a client of it."""
    clock = MovableClock(now=NOON)
    standin = StripeStandin(clock=clock, settings=settings)
    standin.add_customer("cus_1")
    standin.clock, standin.meter_id = clock, standin.add_meter("tokens")
    http = stripe.AIOHTTPClient()
    async with standin.serving() as url:
        try:
            yield (
                standin,
                stripe.StripeClient(
                    "sk_test_standin",
                    base_addresses={"api": url},
                    http_client=http,
                    max_network_retries=0,
                ),
            )
        finally:
            await http.close_async()
    assert not standin.bugs


async def send(client, value="25", customer="cus_1"):
    payload = {"stripe_customer_id": customer, "value": value}
    await client.v1.billing.meter_events.create_async(
        {"event_name": "tokens", "timestamp": NOON_SECONDS, "payload": payload}
    )


async def test_meters_are_created_listed_and_deactivated():
    async with running() as (standin, client):
        meters = client.v1.billing.meters
        created = await meters.create_async(
            {
                "display_name": "Output",
                "event_name": "output",
                "default_aggregation": {"formula": "last"},
                "customer_mapping": {"type": "by_id", "event_payload_key": "who"},
                "value_settings": {"event_payload_key": "n"},
            }
        )
        listed = await meters.list_async({"limit": 1})
        assert [meter.id for meter in listed.data] == [created.id]
        assert listed.has_more
        everything = [meter.id async for meter in listed.auto_paging_iter()]
        assert everything == [created.id, standin.meter_id]
        await client.v1.billing.meter_events.create_async(
            {"event_name": "output", "payload": {"who": "cus_1", "n": "4"}}
        )
        assert standin.meter_totals() == {("cus_1", "output"): Decimal(4)}
        assert (await meters.deactivate_async(created.id)).status == "inactive"
        active = await meters.list_async({"status": "active"})
        assert [meter.id for meter in active.data] == [standin.meter_id]
        assert (await meters.reactivate_async(created.id)).status == "active"
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await meters.retrieve_async("mtr_none")
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


async def test_summaries_lag_and_are_floats():
    settings = StripeSettings(summary_lag=timedelta(minutes=5))
    async with running(settings=settings) as (standin, client):
        await send(client)
        params = {"customer": "cus_1", "start_time": NOON_SECONDS, "end_time": NOON_SECONDS + 60}
        summaries = client.v1.billing.meters.event_summaries
        [early] = (await summaries.list_async(standin.meter_id, params)).data
        assert early.aggregated_value == 0.0
        standin.clock.advance(timedelta(minutes=5))
        [late] = (await summaries.list_async(standin.meter_id, params)).data
        assert (late.aggregated_value, late.meter) == (25.0, standin.meter_id)
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await summaries.list_async(standin.meter_id, {**params, "start_time": 1})
        assert caught.value.param == "start_time"


async def test_customers_are_created_and_found():
    async with running() as (standin, client):
        created = await client.v1.customers.create_async(
            {"email": "a@example.com", "metadata": {"customer": "acme"}}
        )
        found = await client.v1.customers.retrieve_async(created.id)
        assert found.metadata.to_dict() == {"customer": "acme"}
        listed = await client.v1.customers.list_async({"email": "a@example.com"})
        assert [customer.id for customer in listed.data] == [created.id]
        await send(client, customer=created.id)
        assert standin.meter_totals() == {(created.id, "tokens"): Decimal(25)}
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await client.v1.customers.retrieve_async("cus_none")
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


async def make_prices(standin, client):
    product = await client.v1.products.create_async({"id": "prod_ai", "name": "AI"})
    recurring = {"interval": "month", "usage_type": "metered", "meter": standin.meter_id}
    package = await client.v1.prices.create_async(
        {
            "product": product.id,
            "currency": "usd",
            "unit_amount": 50,
            "recurring": recurring,
            "transform_quantity": {"divide_by": 1_000_000, "round": "up"},
            "lookup_key": "input",
        }
    )
    graduated = await client.v1.prices.create_async(
        {
            "product": product.id,
            "currency": "usd",
            "recurring": recurring,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [
                {"up_to": 100_000, "unit_amount": 0},
                {"up_to": "inf", "unit_amount_decimal": Decimal("0.00015")},
            ],
        }
    )
    return package, graduated


async def test_products_and_prices_are_created_and_found():
    async with running() as (standin, client):
        package, graduated = await make_prices(standin, client)
        assert package.transform_quantity.to_dict() == {"divide_by": 1_000_000, "round": "up"}
        assert package.unit_amount_decimal == Decimal(50)
        assert "tiers" not in graduated.to_dict()
        expanded = await client.v1.prices.retrieve_async(graduated.id, {"expand": ["tiers"]})
        assert expanded.tiers[1].unit_amount_decimal == Decimal("0.00015")
        assert expanded.tiers[1].up_to is None
        keyed = await client.v1.prices.list_async({"lookup_keys": ["input"]})
        assert [price.id for price in keyed.data] == [package.id]
        metered = await client.v1.prices.list_async(
            {"recurring": {"meter": standin.meter_id}, "expand": ["data.tiers"]}
        )
        assert [price.id for price in metered.data] == [graduated.id, package.id]
        assert len(metered.data[0].tiers) == 2
        product = await client.v1.products.retrieve_async("prod_ai")
        assert product.name == "AI"
        assert [item.id for item in (await client.v1.products.list_async()).data] == ["prod_ai"]
        with pytest.raises(stripe.InvalidRequestError, match="lookup key"):
            await client.v1.prices.create_async(
                {"product": "prod_ai", "currency": "usd", "unit_amount": 1, "lookup_key": "input"}
            )


async def test_a_preview_prices_the_events_of_its_period():
    async with running() as (standin, client):
        package, graduated = await make_prices(standin, client)
        await send(client, value="1100000")
        items = [{"price": package.id}, {"price": graduated.id}]
        invoice = await client.v1.invoices.create_preview_async(
            {"customer": "cus_1", "subscription_details": {"items": items}}
        )
        # Two packages of 50 cents; 1,000,000 above the free tier at 0.00015 cents.
        assert [line.amount for line in invoice.lines.data] == [100, 150]
        assert [line.quantity for line in invoice.lines.data] == [1_100_000, 1_100_000]
        assert (invoice.total, invoice.currency) == (250, "usd")
        month = datetime(2026, 11, 1, tzinfo=UTC)
        assert invoice.period_start == int(month.timestamp())
        preview = standin.invoice_preview(
            "cus_1", [package.id, graduated.id], start=month, end=NOON
        )
        assert preview.total == 0  # The event stands at noon, which [start, noon) leaves out.
        after = await client.v1.invoices.create_preview_async(
            {
                "customer": "cus_1",
                "subscription_details": {"items": items, "start_date": NOON_SECONDS + 1},
            }
        )
        assert (after.total, after.period_end) == (0, NOON_SECONDS + 1 + 30 * 86_400)


async def test_prices_and_products_change_in_what_stripe_lets_change():
    async with running() as (_, client):
        v1 = client.v1
        product = await v1.products.create_async({"name": "AI", "metadata": {"a": "1", "b": "2"}})
        changed = await v1.products.update_async(
            product.id, {"name": "New", "active": False, "metadata": {"a": "", "c": "3"}}
        )
        assert (changed.name, changed.active) == ("New", False)
        assert changed.metadata.to_dict() == {"b": "2", "c": "3"}
        terms = {"product": product.id, "currency": "usd", "unit_amount": 5}
        first = await v1.prices.create_async({**terms, "lookup_key": "k"})
        second = await v1.prices.create_async(terms)
        with pytest.raises(stripe.InvalidRequestError, match="lookup key"):
            await v1.prices.update_async(second.id, {"lookup_key": "k"})
        taken = await v1.prices.update_async(
            second.id, {"lookup_key": "k", "transfer_lookup_key": True, "active": False}
        )
        assert (taken.lookup_key, taken.active) == ("k", False)
        assert (await v1.prices.retrieve_async(first.id)).lookup_key is None
        third = await v1.prices.create_async(
            {**terms, "lookup_key": "k", "transfer_lookup_key": True}
        )
        assert third.lookup_key == "k"
        assert (await v1.prices.retrieve_async(second.id)).lookup_key is None
        await v1.prices.update_async(third.id, {"tax_behavior": "exclusive"})
        with pytest.raises(stripe.InvalidRequestError, match="tax behavior"):
            await v1.prices.update_async(third.id, {"tax_behavior": "inclusive"})


async def test_of_a_meter_the_name_alone_changes():
    async with running() as (standin, client):
        meters = client.v1.billing.meters
        renamed = await meters.update_async(standin.meter_id, {"display_name": "New"})
        assert (renamed.display_name, renamed.event_name) == ("New", "tokens")
        with pytest.raises(stripe.InvalidRequestError):
            await meters.update_async(standin.meter_id, {"event_name": "other"})
