"""Whom a gateway that speaks JSON says it verified."""

from dataclasses import replace

import pytest
import re2
from fixtures.http_edges import METER_TOKEN, World, calling, make_policy
from fixtures.tokens import ISSUER, Signer, key_set

from sidecar.domain.identity import CertificateSource, ConsumerSource, HeaderSource, JwtSource
from sidecar.outbound.jwks import JwksVerifier

CERTIFICATE = CertificateSource(pattern=re2.compile("spiffe://mesh.test/(?P<customer>[^/]+)"))
SAN = "spiffe://mesh.test/cus_1"


async def world_of(*sources) -> World:
    world = World(policy=replace(make_policy(), identity=sources))
    await world.customer()
    return world


async def ask(world, *, token=None, **fields):
    body = {"method": "POST", "path": "/ai/chat"} | fields
    async with calling(world.gateway(), token=token) as call:
        return await call("POST", "/v1/check", json=body)


CONSUMER = {"id": "1", "custom_id": "cus_1", "username": "someone"}


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        (ConsumerSource(), {"consumer": CONSUMER}),
        (ConsumerSource(), {"consumer": {"custom_id": "cus_1"}}),
        (ConsumerSource(field="username"), {"consumer": {"id": None, "username": "cus_1"}}),
        (ConsumerSource(field="id"), {"consumer": {"id": "cus_1"}}),
        (CERTIFICATE, {"client_certificate_san": SAN}),
        (HeaderSource(customer="x-customer"), {"headers": {"X-Customer": "cus_1"}}),
    ],
)
async def test_the_gateways_word_names_the_customer(source, fields):
    world = await world_of(source)
    reply = await ask(world, **fields)
    assert reply.body["allow"] is True
    assert world.held() == 100_000


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        (ConsumerSource(), {}),
        (ConsumerSource(), {"consumer": None}),
        (ConsumerSource(), {"consumer": {}}),
        (ConsumerSource(), {"consumer": {"id": "cus_1"}}),
        (ConsumerSource(), {"consumer": {"custom_id": ""}}),
        (ConsumerSource(), {"consumer": {"custom_id": "cus_1\n"}}),
        (ConsumerSource(), {"headers": {"x-consumer-custom-id": "cus_1", "consumer": "cus_1"}}),
        (ConsumerSource(), {"body": '{"consumer": {"custom_id": "cus_1"}}'}),
        (CERTIFICATE, {"client_certificate_san": ""}),
        (CERTIFICATE, {"client_certificate_san": "spiffe://evil.test/cus_1"}),
        (CERTIFICATE, {"client_certificate_san": SAN + "\u0000"}),
        (CERTIFICATE, {"headers": {"x-forwarded-client-cert": f"URI={SAN}"}}),
        (HeaderSource(customer="x-customer"), {"headers": {"x-customer": ["cus_1", "cus_1"]}}),
        (HeaderSource(customer="x-customer"), {"consumer": CONSUMER}),
    ],
)
async def test_what_names_nobody_is_401(source, fields):
    world = await world_of(source)
    reply = await ask(world, **fields)
    assert (reply.body["status"], reply.body["code"]) == (401, "unidentified")
    assert world.held() == 0


async def test_a_consumer_that_is_no_customer_is_401():
    reply = await ask(await world_of(ConsumerSource()), consumer={"custom_id": "cus_unknown"})
    assert (reply.body["status"], reply.body["code"]) == (401, "unknown_credential")


@pytest.mark.parametrize(
    "fields",
    [
        {"consumer": "cus_1"},
        {"consumer": {"custom_id": 5}},
        {"consumer": {"customer": "cus_1"}},
        {"client_certificate_san": ["x"]},
        {"client_certificate_san": None},
    ],
)
async def test_a_gateway_that_misspeaks_is_told(fields):
    reply = await ask(await world_of(ConsumerSource()), **fields)
    assert reply.status == 400
    assert reply.body["errors"][0]["field"].startswith(next(iter(fields)))


async def test_only_a_gateway_may_say_who_was_verified():
    world = await world_of(ConsumerSource())
    refused = await ask(world, token="not-a-token-of-ours", consumer=CONSUMER)
    assert refused.status == 401
    assert (await ask(world, token=METER_TOKEN, consumer=CONSUMER)).body["allow"] is True


async def test_a_bearer_token_is_verified_here():
    signer = Signer()
    source = JwtSource(issuer=ISSUER, jwks="/keys.json", audiences=("api.test",))
    world = await world_of(source)

    async def read(_session, _where):
        return key_set(signer)

    verifier = JwksVerifier(lambda: [source.jwks], read=read)
    world.checks._jwt_verifier = verifier
    headers = {"Authorization": f"Bearer {signer.token()}"}
    away = await ask(world, headers=headers)
    assert (away.body["status"], away.body["code"]) == (503, "store_unavailable")
    await verifier.refresh(None)
    assert (await ask(world, headers=headers)).body["allow"] is True
    forged = await ask(world, headers={"Authorization": f"Bearer {Signer().token()}"})
    assert (forged.body["status"], forged.body["code"]) == (401, "unidentified")
    assert forged.body["body"]["detail"] == "the token's signature is wrong"
    unknown = await ask(world, headers={"Authorization": f"Bearer {Signer('other').token()}"})
    assert unknown.body["status"] == 401
    assert int(unknown.body["headers"]["retry-after"]) > 0
