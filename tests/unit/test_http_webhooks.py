"""Webhooks at the edge: who may send them, what is answered, what is listed."""

import json

import pytest
from fixtures.http_edges import ADMIN_TOKEN, WEBHOOK_SECRETS, World, calling
from fixtures.use_cases import Grown
from stripe import WebhookSignature

from sidecar.domain.errors import StoreUnavailable

PATH = "/webhooks/stripe"


def signed(world: World, body: str, *, secret: str = WEBHOOK_SECRETS[0], age: int = 0):
    signed_at = int(world.clock.now().timestamp()) - age
    header = WebhookSignature.generate_signature_header(body, secret, signed_at)
    return {"data": body.encode(), "headers": {"Stripe-Signature": header}}


def event(event_id: str = "evt_1", name: str = "in_1", **changes: object) -> str:
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": "invoice.paid",
            "livemode": False,
            "data": {"object": {"id": name, "customer_email": "ada@example.com"}},
        }
        | changes
    )


async def test_a_signed_webhook_is_stored_once_and_needs_no_token():
    world = World()
    async with calling(world.admin()) as call:
        first = await call("POST", f"{PATH}?from=stripe", **signed(world, event()))
        again = await call(
            "POST", PATH, **signed(world, event(), secret=WEBHOOK_SECRETS[1], age=200)
        )
        silent = await call("POST", PATH, **signed(world, event("evt_2", type="customer.updated")))
    assert [(one.status, one.body["outcome"]) for one in (first, again, silent)] == [
        (200, "stored"),
        (200, "duplicate"),
        (200, "ignored"),
    ]
    assert list(world.inbox.objects) == ["stripe:invoice:in_1"]


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        (lambda world: {"data": event().encode()}, "bad_signature"),
        (lambda world: signed(world, event(), secret="whsec_guessed"), "bad_signature"),
        (
            lambda world: signed(world, event()) | {"data": event(name="in_2").encode()},
            "bad_signature",
        ),
        (lambda world: signed(world, event(), age=301), "stale"),
        (lambda world: signed(world, event(), age=-301), "stale"),
    ],
)
async def test_what_is_not_signed_or_old_is_refused_counted_and_not_shown(capsys, options, outcome):
    world = World()
    counted = Grown("sidecar_webhooks_total", provider="stripe", outcome=outcome)
    async with calling(world.admin()) as call:
        reply = await call("POST", PATH, **options(world))
    assert (reply.status, reply.body["code"]) == (400, "invalid_request")
    assert counted.by == 1
    assert world.inbox.events == {}
    written = capsys.readouterr()
    assert outcome in written.out
    for shown in (written.out, written.err, reply.raw.decode()):
        assert "ada@example.com" not in shown
        assert "in_1" not in shown
        assert "whsec" not in shown


@pytest.mark.parametrize("body", ["<html>", "", "[]", '{"object": "event", "id": 5}'])
async def test_what_is_signed_and_unreadable_is_kept_for_people(body):
    world = World()
    counted = Grown("sidecar_webhooks_total", provider="stripe", outcome="unreadable")
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        replies = [await call("POST", PATH, **signed(world, body)) for _ in range(2)]
        listed = await call("GET", "/api/v1/webhooks", params={"state": "parked"})
    assert [reply.status for reply in replies] == [400, 400]
    assert counted.by == 2
    (item,) = listed.body["items"]
    assert (item["kind"], item["state"]) == ("unreadable", "parked")
    assert item["reason"] in ("not_json", "not_an_event")


async def test_a_huge_webhook_is_refused_before_it_is_read_whole():
    world = World()
    large = event(pad="x" * 70_000)
    async with calling(world.admin()) as call:
        told = await call("POST", PATH, **signed(world, large))

        async def pieces():
            for _ in range(20):
                yield b"x" * 65_536

        untold = await call("POST", PATH, data=pieces())
    assert (told.status, untold.status) == (413, 413)
    assert world.inbox.events == {}


async def test_a_provider_without_a_secret_sends_nothing_that_is_taken():
    world = World()
    async with calling(world.admin()) as call:
        reply = await call("POST", "/webhooks/webhook", **signed(world, event()))
    assert reply.status == 404


async def test_a_record_that_is_away_makes_the_provider_send_it_again():
    world = World()

    async def away(_: object) -> None:
        raise StoreUnavailable("Postgres is away")

    world.inbox.receive = away
    async with calling(world.admin()) as call:
        reply = await call("POST", PATH, **signed(world, event()))
    assert (reply.status, reply.body["code"]) == (503, "store_unavailable")


async def test_objects_are_listed_page_by_page_and_tried_again():
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        for number in range(3):
            body = event(f"evt_{number}", f"in_{number}")
            await call("POST", PATH, **signed(world, body))
        first = await call("GET", "/api/v1/webhooks", params={"limit": "2"})
        second = await call("GET", "/api/v1/webhooks", params={"after": first.body["next"]})
        none = await call("GET", "/api/v1/webhooks", params={"state": "parked"})
        key = first.body["items"][0]["id"]
        again = await call("POST", f"/api/v1/webhooks/{key}/retry")
        missing = await call("POST", "/api/v1/webhooks/stripe:invoice:in_x/retry")
    ids = [item["id"] for item in first.body["items"] + second.body["items"]]
    assert ids == [f"stripe:invoice:in_{n}" for n in range(3)]
    assert (second.body["next"], none.body["items"]) == (None, [])
    assert (again.status, again.body["state"], missing.status) == (200, "pending", 404)


@pytest.mark.parametrize("path", ["/api/v1/webhooks", "/api/v1/webhooks/stripe:invoice:in_1/retry"])
async def test_the_list_needs_an_admin_token(path):
    world = World()
    async with calling(world.admin()) as call:
        reply = await call("POST" if path.endswith("retry") else "GET", path)
    assert reply.status == 401
