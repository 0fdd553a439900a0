"""Erasing a customer over the API and the command, in memory."""

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling

CUSTOMER = "/api/v1/customers/cus_1"
CHECK = {"method": "POST", "path": "/ai/chat"}


async def allowed(world: World, key: str) -> bool:
    async with calling(world.gateway()) as call:
        reply = await call("POST", "/v1/check", json=CHECK | {"headers": {"x-api-key": key}})
    return bool(reply.body["allow"])


async def test_labels_names_and_keys_go_and_the_balance_stays():
    world = World()
    key = await world.customer()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        content = {"plan": "prepaid", "labels": {"name": "Ada"}, "stripe_customer_id": "cus_s"}
        assert (await call("PUT", CUSTOMER, json=content)).status == 200
        owner = {"customer_id": "cus_1", "user_id": "ada", "team_id": "t", "name": "laptop"}
        await call("POST", "/api/v1/credentials", json=owner)
        before = await call("GET", f"{CUSTOMER}/balance")
        assert await allowed(world, key)
        for _ in range(2):
            erased = await call("DELETE", f"{CUSTOMER}/personal-data")
            assert erased.status == 200
            assert (erased.body["labels"], erased.body["stripe_customer_id"]) == ({}, None)
        listed = await call("GET", "/api/v1/credentials", params={"customer_id": "cus_1"})
        after = await call("GET", f"{CUSTOMER}/balance")
    assert {
        (item["state"], item["user_id"], item["team_id"], item["name"])
        for item in listed.body["items"]
    } == {("revoked", "", "", "")}
    assert len(listed.body["items"]) == 2
    assert after.body["granted"] == before.body["granted"]
    assert not await allowed(world, key)


async def test_an_unknown_customer_is_404_and_a_store_that_is_away_is_repeated():
    world = World()
    key = await world.customer()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("DELETE", "/api/v1/customers/cus_9/personal-data")
        assert reply.status == 404
        world.state.away = True
        assert (await call("DELETE", f"{CUSTOMER}/personal-data")).status == 503
        world.state.away = False
        assert (await call("DELETE", f"{CUSTOMER}/personal-data")).status == 200
    assert not await allowed(world, key)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_personal_data_can_only_be_deleted(method: str):
    world = World()
    await world.customer()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        assert (await call(method, f"{CUSTOMER}/personal-data")).status == 405
