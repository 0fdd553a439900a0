"""Events and webhooks of the Stripe stand-in: signed, repeated, shuffled, lost, fetched."""

import asyncio
import json

import pytest
import stripe
from fixtures.stripe_world import receiver, stripe_world

from sidecar.standins.stripe_deliveries import WebhookKnobs
from sidecar.standins.stripe_settings import StripeSettings


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


def endpoint(world, url, *types):
    return world.v1.webhook_endpoints.create_async({"url": url, "enabled_events": list(types)})


def ids(got):
    return [json.loads(body)["id"] for body, _ in got]


async def test_a_webhook_verifies_and_says_what_the_event_says():
    async with stripe_world() as world, receiver() as hook:
        made = await endpoint(world, hook.url, "customer.created")
        assert made.secret.startswith("whsec_")
        customer = await world.v1.customers.create_async({"email": "a@example.com"})
        await world.v1.customers.update_async(customer.id, {"name": "Ada"})
        assert [attempt.status for attempt in await world.standin.drain()] == [200]
        [(body, header)] = hook.got
        event = world.client.construct_event(body, header, made.secret)
        assert (event.type, event.data.object["id"]) == ("customer.created", customer.id)
        with pytest.raises(stripe.SignatureVerificationError):
            world.client.construct_event(body, header, "whsec_another")
        with pytest.raises(stripe.SignatureVerificationError):
            world.client.construct_event(body + b" ", header, made.secret)
        again = await world.v1.events.retrieve_async(event.id)
        assert again.data.object["email"] == "a@example.com"
        assert again.pending_webhooks == 0


async def test_the_secret_is_shown_once():
    async with stripe_world() as world:
        made = await endpoint(world, "https://example.com/hook", "*")
        found = await world.v1.webhook_endpoints.retrieve_async(made.id)
        listed = await world.v1.webhook_endpoints.list_async()
        assert "secret" not in found.to_dict()
        assert [item.to_dict() for item in listed.data] == [found.to_dict()]


async def test_a_disabled_or_deleted_endpoint_gets_nothing():
    async with stripe_world() as world, receiver() as hook:
        first = await endpoint(world, hook.url, "*")
        second = await endpoint(world, hook.url, "*")
        await world.v1.webhook_endpoints.update_async(first.id, {"disabled": True})
        await world.v1.customers.create_async({})
        await world.v1.webhook_endpoints.delete_async(second.id)
        assert await world.standin.drain() == []
        assert hook.got == []


async def test_the_events_of_a_list_are_filtered_by_type():
    async with stripe_world() as world:
        customer = await world.v1.customers.create_async({})
        await world.v1.customers.update_async(customer.id, {"name": "Ada"})
        for filters, count in (
            ({"type": "customer.updated"}, 1),
            ({"type": "customer.*"}, 2),
            ({"types": ["customer.created", "invoice.paid"]}, 1),
            ({"created": {"gt": world.standin.snapshot_events[0]["created"]}}, 0),
        ):
            assert len((await world.v1.events.list_async(filters)).data) == count


async def test_what_fails_is_sent_again_until_it_is_given_up():
    async with stripe_world(webhooks=WebhookKnobs(attempts_max=3)) as world, receiver() as hook:
        await endpoint(world, hook.url, "*")
        hook.statuses = [500, 302]
        await world.v1.customers.create_async({})
        assert [attempt.status for attempt in await world.standin.drain()] == [500, 302, 200]
        hook.statuses = [500] * 9
        await world.v1.customers.create_async({})
        assert len(await world.standin.drain()) == 3
        assert world.standin.account.deliveries.given_up == 1


async def test_duplicates_and_shuffles_lose_nothing_and_drops_stay_in_the_list():
    settings = StripeSettings(seed=7)
    knobs = WebhookKnobs(duplicate=0.5, shuffle=True)
    async with stripe_world(settings=settings, webhooks=knobs) as world, receiver() as hook:
        await endpoint(world, hook.url, "*")
        for _ in range(30):
            await world.v1.customers.create_async({})
        await world.standin.drain()
        sent = [event["id"] for event in world.standin.snapshot_events]
        assert set(ids(hook.got)) == set(sent)
        assert len(hook.got) > len(sent)
        assert ids(hook.got) != sorted(ids(hook.got))
        hook.got.clear()
        knobs.drop = 1.0
        lost = await world.v1.customers.create_async({})
        await world.standin.drain()
        assert hook.got == []
        newest = (await world.v1.events.list_async({"limit": 1})).data[0]
        assert newest.data.object["id"] == lost.id


async def test_one_change_may_be_told_by_two_events():
    async with stripe_world(settings=StripeSettings(twin_events=1.0)) as world:
        customer = await world.v1.customers.create_async({})
        first, second = world.standin.snapshot_events
        assert first["id"] != second["id"]
        assert first["data"]["object"]["id"] == second["data"]["object"]["id"] == customer.id


async def test_a_thin_event_has_no_data_and_is_fetched():
    async with stripe_world() as world, receiver() as hook:
        made = await world.client.v2.core.event_destinations.create_async(
            {
                "name": "errors",
                "type": "webhook_endpoint",
                "event_payload": "thin",
                "enabled_events": ["v1.billing.meter.error_report_triggered"],
                "webhook_endpoint": {"url": hook.url},
                "include": ["webhook_endpoint.signing_secret"],
            }
        )
        meter_id = world.standin.add_meter("tokens")
        await world.v1.billing.meter_events.create_async(
            {
                "event_name": "tokens",
                "identifier": "id-1",
                "payload": {"stripe_customer_id": "cus_nobody", "value": "1"},
            },
            {"idempotency_key": "id-1:0"},
        )
        await world.standin.drain()
        [(body, header)] = hook.got
        assert "data" not in json.loads(body)
        note = world.client.parse_event_notification(
            body, header, made.webhook_endpoint.signing_secret
        )
        assert note.related_object.id == meter_id
        event = await note.fetch_event_async()
        [kind] = event.data.reason.error_types
        assert kind.code == "meter_event_customer_not_found"
        assert kind.sample_errors[0].request.identifier == "id-1:0"
        found = await world.client.v2.core.events.retrieve_async(event.id)
        assert found.id == event.id


async def test_in_automatic_mode_webhooks_go_out_by_themselves():
    knobs = WebhookKnobs(retry_seconds=0.01)
    async with stripe_world(webhooks=knobs, automatic=True) as world, receiver() as hook:
        hook.statuses = [500]
        await endpoint(world, hook.url, "*")
        await world.v1.customers.create_async({})
        async with asyncio.timeout(10):
            while len(hook.got) < 2:  # noqa: ASYNC110 - The receiver sets no event.
                await asyncio.sleep(0.01)
        first, second = ids(hook.got)
        assert first == second
