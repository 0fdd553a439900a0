"""Customers at providers and collections, over the admin API and its commands."""

import json
from pathlib import Path

import pytest
from fixtures.http_edges import ADMIN_TOKEN, World, calling
from fixtures.served_admin import admin, world
from fixtures.shell import Shell, sidecar

from sidecar.domain.collecting import CollectState

__all__ = ["admin", "sidecar", "world"]

PROVIDERS = "/api/v1/customers/cus_1/providers"
PAYSTACK = f"{PROVIDERS}/paystack"
CODE = "AUTH_works_like_a_secret"
EMAIL = "ada@example.com"


async def made() -> World:
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        for name in ("cus_1", "cus_2"):
            body = {"id": name, "plan": "prepaid", "currency": "USD"}
            assert (await call("POST", "/api/v1/customers", json=body)).status == 201
    return world


async def test_a_saved_card_is_kept_and_never_shown():
    world = await made()
    body = {"email": EMAIL, "authorization_code": CODE, "collect": True}
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        put = await call("PUT", PAYSTACK, json=body, headers={"idempotency-key": "k1"})
        again = await call("PUT", PAYSTACK, json=body, headers={"idempotency-key": "k1"})
        kept = await call("PUT", PAYSTACK, json={"email": EMAIL, "collect": True})
        listed = await call("GET", PROVIDERS)
        forgotten = await call("PUT", PAYSTACK, json={"email": EMAIL, "authorization_code": ""})
        deleted = await call("DELETE", PAYSTACK)
        gone = await call("DELETE", PAYSTACK)
    assert [one.status for one in (put, again, kept, forgotten, deleted, gone)] == [
        *(200, 200, 200, 200, 200, 404)
    ]
    assert [one.body["has_authorization"] for one in (put, kept, forgotten)] == [True, True, False]
    assert listed.body["items"] == [kept.body]
    everything = json.dumps([one.body for one in (put, again, kept, listed, forgotten, deleted)])
    assert CODE not in everything
    assert CODE not in repr(world.providers.known)
    assert CODE.encode() not in repr(vars(world.keys)).encode()


@pytest.mark.parametrize(
    ("provider", "body", "status", "field"),
    [
        ("nobody", {}, 400, "provider"),
        ("paystack", {"collect": True}, 400, "email"),
        ("stripe", {"collect": True}, 400, "provider_customer_id"),
        ("webhook", {"authorization_code": CODE}, 400, "authorization_code"),
        ("paystack", {"email": "no"}, 400, "email"),
        ("paystack", {"authorization_code": "a b"}, 400, "authorization_code"),
        ("paystack", {"provider_customer_id": "a/b"}, 400, "provider_customer_id"),
        ("paystack", {"card": "4242"}, 400, "card"),
        ("paystack", {"email": 5}, 400, "email"),
    ],
)
async def test_what_a_provider_cannot_work_with_is_refused(provider, body, status, field):
    world = await made()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("PUT", f"{PROVIDERS}/{provider}", json=body)
    assert (reply.status, CODE in json.dumps(reply.body)) == (status, False)
    assert field in json.dumps(reply.body)
    assert world.providers.known == {}


async def test_one_provider_collects_and_none_beside_stripes_own_meters():
    world = await made()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first = await call("PUT", f"{PROVIDERS}/webhook", json={"collect": True})
        second = await call("PUT", PAYSTACK, json={"email": EMAIL, "collect": True})
        metered = {"stripe_customer_id": "cus_stripe"}
        await call("PATCH", "/api/v1/customers/cus_2", json=metered)
        twice = await call(
            "PUT", "/api/v1/customers/cus_2/providers/webhook", json={"collect": True}
        )
        nobody = await call("PUT", "/api/v1/customers/cus_9/providers/webhook", json={})
        unknown = await call("GET", "/api/v1/customers/cus_9/providers")
    assert [one.status for one in (first, second, twice, nobody, unknown)] == [
        *(200, 409, 409, 404, 404)
    ]
    assert "reported to Stripe" in twice.body["detail"]


async def test_collections_are_listed_read_and_tried_again():
    world = await made()
    world.collections.add("inv_1", "cus_1", CollectState.FAILED)
    world.collections.add("inv_2", "cus_2", CollectState.PAID)
    world.collections.add("inv_3", "cus_1", CollectState.DEMANDED)
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        first = await call("GET", "/api/v1/collections?limit=2")
        rest = await call("GET", f"/api/v1/collections?limit=2&after={first.body['next']}")
        failed = await call("GET", "/api/v1/collections?state=failed")
        own = await call("GET", "/api/v1/collections?customer_id=cus_1")
        bad = await call("GET", "/api/v1/collections?state=lost")
        one = await call("GET", "/api/v1/collections/inv_1")
        retried = await call("POST", "/api/v1/collections/inv_1/retry")
        paid = await call("POST", "/api/v1/collections/inv_2/retry")
        nobody = await call("POST", "/api/v1/collections/inv_9/retry")
    ids = [[item["invoice_id"] for item in page.body["items"]] for page in (first, rest)]
    assert (ids, rest.body["next"]) == ([["inv_1", "inv_2"], ["inv_3"]], None)
    assert [len(page.body["items"]) for page in (failed, own)] == [1, 2]
    assert (one.body["amount"], one.body["amount_nano"]) == ("123.45", 123_450_000_000)
    assert [attempt["outcome"] for attempt in one.body["attempts"]] == ["failed"]
    assert rest.body["items"][0]["amount"] is None
    assert [reply.status for reply in (bad, retried, paid, nobody)] == [400, 200, 409, 404]
    assert retried.body["state"] == "unknown"


@pytest.mark.parametrize("admin", ["tcp"], indirect=True)
def test_the_commands_set_list_forget_and_retry(admin: Shell, world: World, tmp_path: Path):
    assert admin("customers", "create", "cus_1", "--plan", "prepaid").code == 0
    secret = tmp_path / "card"
    secret.write_text(f"{CODE}\n")
    given = ("--email", EMAIL, "--collect")
    ended = admin(
        *("providers", "set", "cus_1", "paystack", *given, "--authorization-file", secret, "--json")
    )
    assert (ended.code, json.loads(ended.out)["has_authorization"]) == (0, True), ended
    assert world.providers.known["cus_1", "paystack"].authorization_code == CODE
    assert admin("providers", "set", "cus_1", "paystack", *given).code == 0
    assert world.providers.known["cus_1", "paystack"].authorization_code == CODE
    listed = admin("providers", "list", "cus_1")
    assert (listed.code, EMAIL in listed.out, CODE in listed.out) == (0, True, False)
    assert admin("providers", "set", "cus_1", "paystack", *given, "--forget-card").code == 0
    assert world.providers.known["cus_1", "paystack"].authorization_code == ""
    (tmp_path / "empty").write_text("\n")
    empty = ("--authorization-file", tmp_path / "empty")
    assert admin("providers", "set", "cus_1", "paystack", *empty).code == 2
    assert admin("providers", "forget", "cus_1", "paystack").code == 0
    assert admin("providers", "forget", "cus_1", "paystack").code == 1
    world.collections.add("inv_1", "cus_1", CollectState.FAILED, detail="Declined")
    assert "Declined" in admin("collections", "list", "--state", "failed").out
    assert admin("collections", "list", "--state", "nope").code == 1
    assert json.loads(admin("collections", "show", "inv_1", "--json").out)["attempts"]
    assert "state: unknown" in admin("collections", "retry", "inv_1").out
    assert admin("collections", "retry", "inv_1").code == 1
