"""Customers, the account, keys and modes of the Stripe stand-in, as the official SDK sees them."""

import pytest
import stripe
from fixtures.stripe_world import sdk_client, stripe_world

from sidecar.standins.stripe_settings import StripeSettings


@pytest.fixture(autouse=True)
def without_telemetry(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


async def test_a_customer_is_found_by_metadata_and_by_email():
    async with stripe_world() as world:
        customers = world.v1.customers
        wanted = await customers.create_async(
            {"email": "a@example.com", "metadata": {"company_id": "c-7"}}
        )
        await customers.create_async({"email": "b@example.com", "metadata": {"company_id": "c-8"}})
        for query in (
            "metadata['company_id']:'c-7'",
            'email:"A@example.com" AND metadata["company_id"]:"c-7"',
        ):
            found = await customers.search_async({"query": query})
            assert [item.id for item in found.data] == [wanted.id]
        nothing = await customers.search_async({"query": "metadata['company_id']:'c-9'"})
        assert nothing.data == []
        listed = await customers.list_async({"email": "a@example.com"})
        assert [item.id for item in listed.data] == [wanted.id]
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await customers.search_async({"query": "what is this"})
        assert caught.value.param == "query"


async def test_an_update_merges_metadata_and_tells_what_changed():
    async with stripe_world() as world:
        customer = await world.v1.customers.create_async({"metadata": {"a": "1", "b": "2"}})
        changed = await world.v1.customers.update_async(
            customer.id, {"name": "Ada", "metadata": {"b": "", "c": "3"}}
        )
        assert changed.metadata.to_dict() == {"a": "1", "c": "3"}
        event = world.standin.snapshot_events[-1]
        assert event["type"] == "customer.updated"
        assert event["data"]["previous_attributes"] == {
            "name": None,
            "metadata": {"a": "1", "b": "2"},
        }
        await world.v1.customers.update_async(customer.id, {"name": "Ada"})
        assert world.told("customer.") == ["customer.created", "customer.updated"]


async def test_a_deleted_customer_is_gone_but_for_its_id():
    async with stripe_world() as world:
        customer = await world.v1.customers.create_async({"email": "a@example.com"})
        await world.v1.customers.delete_async(customer.id)
        found = await world.v1.customers.retrieve_async(customer.id)
        assert found.to_dict() == {"id": customer.id, "object": "customer", "deleted": True}
        listed = await world.v1.customers.list_async()
        assert listed.data == []
        with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
            await world.v1.customers.update_async(customer.id, {"name": "Ada"})


async def test_a_restricted_key_may_do_what_its_scopes_name_and_the_refusal_names_the_missing_one():
    key = "rk_test_narrow0001"
    async with stripe_world() as world:
        world.standin.add_restricted_key(key, "rak_customer_write", "rak_billing_meter_read")
        async with sdk_client(world.url, key) as client:
            customer = await client.v1.customers.create_async({})
            await client.v1.customers.retrieve_async(customer.id)  # Who writes may read.
            await client.v1.billing.meters.list_async()
            meter = {
                "display_name": "x",
                "event_name": "x",
                "default_aggregation": {"formula": "sum"},
            }
            refused = {
                "rak_billing_meter_write": client.v1.billing.meters.create_async(meter),
                "rak_event_read": client.v1.events.list_async(),
                "rak_webhook_read": client.v1.webhook_endpoints.list_async(),
            }
            for scope, call in refused.items():
                with pytest.raises(
                    stripe.PermissionError, match=f"Having the '{scope}' perm"
                ) as got:
                    await call
                assert got.value.http_status == 403
                assert key not in got.value.user_message


async def test_an_unknown_restricted_key_is_no_key():
    async with (
        stripe_world() as world,
        sdk_client(world.url, "rk_test_unknown01") as client,
    ):
        with pytest.raises(stripe.AuthenticationError):
            await client.v1.customers.list_async()


async def test_a_live_account_says_so_everywhere_and_takes_live_keys_only():
    async with stripe_world(settings=StripeSettings(livemode=True)) as world:
        customer = await world.v1.customers.create_async({})
        assert customer.livemode is True
        event = (await world.v1.events.list_async()).data[0]
        assert (event.livemode, event.data.object["livemode"]) == (True, True)
        async with sdk_client(world.url) as test_mode:
            with pytest.raises(stripe.AuthenticationError):
                await test_mode.v1.customers.list_async()


async def test_the_account_describes_itself():
    async with stripe_world() as world:
        account = await world.v1.accounts.retrieve_current_async()
        assert account.id == world.standin.settings.account_id
        assert account.settings.dashboard.timezone == "Etc/UTC"
