"""Paystack's webhooks at the edge: who may send them, what is answered and kept."""

import hashlib
import hmac
import json

import pytest
from fixtures.http_edges import ADMIN_TOKEN, PAYSTACK_KEY, World, calling
from fixtures.use_cases import Grown

PATH = "/webhooks/paystack"


def signed(body: bytes, *, secret: str = PAYSTACK_KEY):
    signature = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    return {"data": body, "headers": {"X-Paystack-Signature": signature}}


def event(name: str = "sc-1", event: str = "charge.success", **changes: object) -> bytes:
    data = {"reference": name, "domain": "test", "customer": {"email": "ada@example.com"}}
    return json.dumps({"event": event, "data": data | changes}).encode()


async def test_a_signed_webhook_is_stored_once_however_often_it_is_replayed():
    world = World()
    async with calling(world.admin()) as call:
        replies = [await call("POST", PATH, **signed(event())) for _ in range(3)]
        other = await call("POST", PATH, **signed(event(amount=5)))
        silent = await call("POST", PATH, **signed(event(event="transfer.success")))
    outcomes = [(one.status, one.body["outcome"]) for one in (*replies, other, silent)]
    assert outcomes == [
        (200, "stored"),
        (200, "duplicate"),
        (200, "duplicate"),
        (200, "stored"),
        (200, "ignored"),
    ]
    assert list(world.inbox.objects) == ["paystack:payment:sc-1"]


@pytest.mark.parametrize(
    "options",
    [
        {"data": event()},
        signed(event(), secret="sk_test_guessed"),
        signed(event()) | {"data": event("sc-2")},
        signed(event()) | {"headers": {"Stripe-Signature": "t=1,v1=00"}},
        signed(b"not json", secret="sk_test_guessed"),
    ],
)
async def test_what_is_not_signed_with_our_key_is_refused_counted_and_not_shown(capsys, options):
    world = World()
    counted = Grown("sidecar_webhooks_total", provider="paystack", outcome="bad_signature")
    async with calling(world.admin()) as call:
        reply = await call("POST", PATH, **options)
    assert (reply.status, reply.body["code"]) == (400, "invalid_request")
    assert counted.by == 1
    assert (world.inbox.events, dict(world.inbox.objects)) == ({}, {})
    written = capsys.readouterr()
    for shown in (written.out, written.err, reply.raw.decode()):
        for hidden in ("ada@example.com", "sc-1", PAYSTACK_KEY):
            assert hidden not in shown


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"event": 5, "data": {}}', event("a/b")])
async def test_what_is_signed_and_unreadable_is_kept_for_people(body):
    world = World()
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        replies = [await call("POST", PATH, **signed(body)) for _ in range(2)]
        listed = await call("GET", "/api/v1/webhooks", params={"state": "parked"})
    assert [reply.status for reply in replies] == [400, 400]
    (item,) = listed.body["items"]
    assert (item["provider"], item["kind"]) == ("paystack", "unreadable")
    assert item["reason"] in ("not_an_event", "no_reference")


async def test_a_huge_webhook_is_refused_before_its_signature_is_looked_at():
    world = World()
    large = event(pad="x" * 70_000)
    async with calling(world.admin()) as call:
        reply = await call("POST", PATH, **signed(large))
    assert reply.status == 413
    assert world.inbox.events == {}


async def test_a_reversal_is_an_alarm_and_waits_for_people(capsys):
    world = World()
    body = event(event="refund.processed", transaction_reference="sc-1")
    async with calling(world.admin(), token=ADMIN_TOKEN) as call:
        reply = await call("POST", PATH, **signed(body))
        listed = await call("GET", "/api/v1/webhooks", params={"state": "parked"})
    assert reply.body["outcome"] == "stored"
    (item,) = listed.body["items"]
    assert (item["id"], item["reason"]) == ("paystack:payment:sc-1", "reversal")
    assert "inbox_object_parked" in capsys.readouterr().out
