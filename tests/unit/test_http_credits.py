"""Credit over the admin API."""

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling

GRANTS = "/api/v1/grants"
CUSTOMER = "/api/v1/customers/cus_1"
BODY = {"customer_id": "cus_1", "amount": "10", "currency": "USD"}
MONTHLY = BODY | {"unit": "month", "starts_at": "2026-02-01T00:00:00Z", "rollover": {"max": "4"}}


async def made() -> World:
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        body = {"id": "cus_1", "plan": "prepaid", "currency": "USD"}
        assert (await call("POST", "/api/v1/customers", json=body)).status == 201
    return world


async def test_a_grant_has_all_its_fields_and_is_found_again():
    world = await made()
    fields = {
        "kind": "promotional",
        "priority": 3,
        "effective_at": "2026-02-01T00:00:00Z",
        "expires_at": "2026-03-01T00:00:00Z",
        "meters": ["input-tokens"],
    }
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        given = await call("POST", GRANTS, json=BODY | fields)
        read = await call("GET", given.headers["Location"])
        live = await call("GET", f"{CUSTOMER}/grants/live")
        nobody = await call("GET", f"{GRANTS}/g_x?customer_id=cus_1")
        no_owner = await call("GET", f"{GRANTS}/{given.body['id']}")
    assert (given.status, read.status) == (201, 200)
    assert read.body == given.body
    assert {name: given.body[name] for name in fields} == fields
    (seen,) = live.body["items"]
    assert (seen["state"], seen["free"], seen["pinned_nano"]) == ("scheduled", "10.00", 0)
    assert (nobody.status, no_owner.status) == (404, 400)


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"amount": "0"}, 400, "amount"),
        ({"amount": "-1"}, 400, "amount"),
        ({"amount": "4000000000.000000001"}, 400, "amount"),
        ({"kind": "free"}, 400, "kind"),
        ({"priority": 101}, 400, "priority"),
        ({"priority": "5"}, 400, "priority"),
        ({"meters": ["nope"]}, 400, "meters"),
        ({"meters": "input-tokens"}, 400, "meters"),
        ({"expires_at": "2026-01-01T00:00:00Z"}, 400, "expires_at"),
        ({"currency": "EUR"}, 409, None),
        ({"customer_id": "cus_9"}, 404, None),
    ],
)
async def test_a_grant_that_cannot_be_says_why_and_gives_nothing(changes, status, field):
    world = await made()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", GRANTS, json=BODY | changes)
    assert reply.status == status
    assert [one["field"] for one in reply.body.get("errors", [])] == ([field] if field else [])
    assert (world.record.grants, world.state.accounts["cus_1"].granted) == ({}, 0)


async def test_a_key_with_another_amount_is_a_409_that_shows_both():
    world = await made()
    key = {"Idempotency-Key": "k1"}
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("POST", GRANTS, json=BODY, headers=key)
        other = BODY | {"amount": "12.50", "expires_at": "2026-03-01T00:00:00Z"}
        reply = await call("POST", GRANTS, json=other, headers=key)
    assert (reply.status, reply.body["code"]) == (409, "idempotency_key_reused")
    told = {one["field"]: one["message"] for one in reply.body["errors"]}
    assert told == {
        "amount": 'was "10" in the first request with this key, is "12.50"',
        "expires_at": 'was null in the first request with this key, is "2026-03-01T00:00:00Z"',
    }
    assert world.state.accounts["cus_1"].granted == 10_000_000_000


async def test_what_may_be_personal_is_named_and_not_kept():
    world = await made()
    key = {"Idempotency-Key": "k1"}
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        grant = (await call("POST", GRANTS, json=BODY)).body["id"]
        path = f"{GRANTS}/{grant}/void"
        body = {"customer_id": "cus_1", "amount": "1", "reason": "asked for by Ada"}
        await call("POST", path, json=body, headers=key)
        reply = await call("POST", path, json=body | {"reason": "another"}, headers=key)
    assert [one["field"] for one in reply.body["errors"]] == ["reason"]
    assert b"Ada" not in reply.raw
    assert not any("Ada" in one.body_hash for one in world.keys.records.values())


@pytest.mark.parametrize("kind", ["void", "refund", "dispute"])
async def test_credit_is_taken_back_once_under_a_key_and_listed(kind: str):
    world = await made()
    body = {"customer_id": "cus_1", "amount": "4", "reason": "r"}
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        grant = (await call("POST", GRANTS, json=BODY)).body["id"]
        for _ in range(2):
            taken = await call(
                "POST", f"{GRANTS}/{grant}/{kind}", json=body, headers={"Idempotency-Key": "k"}
            )
        listed = await call("GET", "/api/v1/withdrawals", params={"customer_id": "cus_1"})
        balance = await call("GET", f"{CUSTOMER}/balance")
    assert taken.status == 201
    assert listed.body == {"items": [taken.body], "next": None}
    assert (taken.body["withdrawn"], taken.body["state"], taken.body["kind"]) == (
        "4.00",
        "applied",
        kind,
    )
    assert (balance.body["voided"], balance.body["available"]) == ("4.00", "6.00")


async def test_a_spent_grant_is_a_409_that_says_what_is_free():
    world = await made()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        grant = (await call("POST", GRANTS, json=BODY)).body["id"]
        world.state.accounts["cus_1"].used = 7_500_000_000
        path, body = f"{GRANTS}/{grant}/refund", {"customer_id": "cus_1", "amount": "3"}
        refused = await call("POST", path, json=body)
        no_amount = await call("POST", f"{GRANTS}/{grant}/dispute", json={"customer_id": "cus_1"})
    assert (refused.status, refused.body["code"]) == (409, "conflict")
    assert "2.50 of it is free" in refused.body["detail"]
    assert (no_amount.status, no_amount.body["errors"][0]["field"]) == (400, "amount")


async def test_a_top_up_is_one_grant_for_one_reference_without_any_key():
    world = await made()
    path, body = f"{CUSTOMER}/top-ups", {"amount": "5", "currency": "USD", "reference": "pi_1"}
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first, again = [await call("POST", path, json=body) for _ in range(2)]
        other = await call("POST", path, json=body | {"amount": "6"})
        found = await call("GET", first.headers["Location"])
    assert first.body == again.body == found.body
    assert (other.status, other.body["errors"]) == (
        409,
        [{"field": "amount", "message": "amount was 5.00, is 6.00"}],
    )
    assert world.state.accounts["cus_1"].granted == 5_000_000_000


async def test_a_schedule_is_made_listed_and_ended():
    world = await made()
    path = "/api/v1/grant-schedules"
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first = await call("POST", path, json=MONTHLY)
        query = {"customer_id": "cus_1"}
        listed = await call("GET", path, params=query)
        ended = await call("DELETE", f"{path}/{first.body['id']}", params=query)
        read = await call("GET", f"{path}/{first.body['id']}", params=query)
        bad = await call("POST", path, json=MONTHLY | {"ends_at": "2026-02-01T00:00:00Z"})
    assert (first.status, listed.body["items"]) == (201, [first.body])
    assert first.body["rollover"] == {"min": "0.00", "max": "4.00"}
    assert (first.body["anchor"], first.body["next_start"]) == ("2026-02-01T00:00:00Z",) * 2
    assert ended.body == read.body
    assert (ended.body["next_start"], ended.body["ends_at"]) == (None, "2026-01-31T12:00:00Z")
    assert (bad.status, bad.body["errors"][0]["field"]) == (400, "ends_at")


async def test_a_rule_for_top_ups_is_set_read_and_taken_away():
    world = await made()
    path = f"{CUSTOMER}/top-up-rule"
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        none = await call("GET", path)
        put = await call("PUT", path, json={"threshold": "1", "target": "9.5"})
        both = await call("PUT", path, json={"threshold": "1", "target": "9", "amount": "3"})
        read = await call("GET", path)
        attempts = await call("GET", f"{CUSTOMER}/top-up-attempts")
        gone = [await call("DELETE", path) for _ in range(2)]
    assert (none.status, both.status) == (404, 400)
    assert put.body == read.body == gone[0].body
    assert (put.body["target_nano"], put.body["amount"]) == (9_500_000_000, None)
    assert attempts.body == {"items": [], "next": None, "more": False}
    assert gone[1].status == 404


async def test_parts_of_a_customer_change_alone():
    world = await made()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        await call("PATCH", CUSTOMER, json={"labels": {"a": "1"}, "stripe_customer_id": "cus_S"})
        patched = await call("PATCH", CUSTOMER, json={"overdraft": "2.5"})
        balance = await call("GET", f"{CUSTOMER}/balance")
        cleared = await call("PATCH", CUSTOMER, json={"stripe_customer_id": None})
        refused = await call("PATCH", CUSTOMER, json={"overdraft": "-1"})
        replaced = await call("PUT", CUSTOMER, json={"plan": "prepaid"})
    assert (patched.body["labels"], patched.body["stripe_customer_id"]) == ({"a": "1"}, "cus_S")
    assert (balance.body["overdraft"], balance.body["available"]) == ("2.50", "2.50")
    assert (cleared.body["stripe_customer_id"], cleared.body["overdraft"]) == (None, "2.50")
    assert (refused.status, refused.body["errors"][0]["field"]) == (400, "overdraft")
    assert replaced.body["overdraft"] == "0.00"
