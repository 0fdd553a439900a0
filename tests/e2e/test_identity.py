"""Callers that a real Envoy verifies: tokens, certificates, and headers that it sets itself."""

import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from fixtures.envoy_identity import (
    Authority,
    ask,
    envoy_before,
    with_client_certificates,
    with_jwt_authn,
)
from fixtures.hostile import USAGE, chat_body, request
from fixtures.stack import REPOSITORY, Stack, serving
from fixtures.tokens import (
    ISSUER,
    Signer,
    encoded,
    good_claims,
    key_set,
    signed_with_public_key,
    unsigned,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

SIGNER, FORGER = Signer("k1"), Signer("k1")
HERE = Signer("here", "EC")
SPIFFE = "spiffe://mesh.test/customer/"
IDENTITY = """
identity:
  - jwt:
      metadata: envoy.filters.http.jwt_authn
      payload: jwt_payload
      claim: org.id
      user_claim: email
  - certificate: {pattern: '^spiffe://mesh\\.test/customer/(?P<customer>[^/]+)$'}
  - jwt: {issuer: "https://here.test", jwks: KEYS, audiences: [api.test], algorithms: [ES256]}
  - api_key: {headers: [authorization, x-api-key]}
  - header: {customer: x-customer}
"""
USED_NANO = USAGE["prompt_tokens"] * 500 + USAGE["completion_tokens"] * 1_500


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(make_stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    folder = tmp_path_factory.mktemp("identity")
    keys = folder / "keys.json"
    keys.write_bytes(key_set(HERE))
    shutil.copytree(REPOSITORY / "config" / "policy", folder / "policy")
    api = folder / "policy" / "10-api.yaml"
    before, _, rest = api.read_text().partition("identity:\n")
    _, _, after = rest.partition("remove: true\n")
    api.write_text(before + IDENTITY.replace("KEYS", str(keys)) + after)
    return await make_stack(settings={"SIDECAR_POLICY_DIR": str(folder / "policy")})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(stack: Stack) -> AsyncIterator[str]:
    async with serving(stack.upstream) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def verifying(stack: Stack, upstream: str) -> AsyncIterator[str]:
    """Envoy with jwt_authn before the check."""
    async with envoy_before(stack, upstream, with_jwt_authn(SIGNER)) as listen:
        yield listen


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def authority(stack: Stack) -> Authority:
    return Authority(stack.folder / "certificates", "mesh")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mutual(stack: Stack, upstream: str, authority: Authority) -> AsyncIterator[str]:
    """Envoy that asks for a client certificate."""
    edit = with_client_certificates(authority, required=False)
    async with envoy_before(stack, upstream, edit) as listen:
        yield listen


async def customer(stack: Stack, name: str) -> str:
    return await stack.customer(name, "prepaid", grant="1")


def bearer(token: str, *headers: tuple[bytes, bytes]) -> bytes:
    return request(chat_body(), headers=[(b"authorization", f"Bearer {token}".encode()), *headers])


def token_of(name: object, **claims: object) -> str:
    """A good token of Envoy's issuer."""
    return SIGNER.token({"org": {"id": name}, **claims})


async def spent(stack: Stack, name: str) -> int:
    return int((await stack.until_captured(name))["used_nano"])


async def test_a_token_that_envoy_verified_is_charged_to_its_customer(stack, verifying):
    await customer(stack, "cus_token")
    token = token_of("cus_token", email="a@b.test")
    assert (await ask(verifying, bearer(token))).status == 200
    assert await spent(stack, "cus_token") == USED_NANO
    # jwt_authn took the token off.
    assert "authorization" not in stack.upstream.headers[-1]


async def test_an_id_that_is_a_number_is_the_customers_whole_number(stack, verifying):
    await customer(stack, "42")
    token = token_of(42)
    assert (await ask(verifying, bearer(token))).status == 200
    assert await spent(stack, "42") == USED_NANO


async def test_a_token_that_is_forged_or_over_is_refused_by_envoy(stack, verifying):
    await customer(stack, "cus_forged")
    served, checks = stack.upstream.served, await stack.metric("sidecar_checks_total")
    claims = {"org": {"id": "cus_forged"}}
    statuses = [
        (await ask(verifying, bearer(token))).status
        for token in (
            FORGER.token(claims),
            SIGNER.token(claims | {"exp": 1_000_000_000}),
            unsigned(good_claims(**claims)),
            signed_with_public_key(SIGNER),
            SIGNER.token(claims | {"aud": "else"}),
        )
    ]
    assert statuses == [401, 401, 401, 401, 403]
    assert stack.upstream.served == served
    assert await stack.metric("sidecar_checks_total") == checks
    assert (await stack.balance("cus_forged"))["used_nano"] == 0


async def test_what_looks_like_verified_claims_gains_nothing(stack, verifying):
    await customer(stack, "cus_copied")
    served = stack.upstream.served
    payload = encoded({"org": {"id": "cus_copied"}}).encode()
    copies = [
        (b"envoy.filters.http.jwt_authn", payload),
        (b"x-envoy-metadata", payload),
        (b"x-jwt-payload", payload),
        (b"jwt_payload", payload),
        (b"sub", b"cus_copied"),
        (b"x-customer", b"cus_copied"),
        (b"x-sidecar-customer", b"cus_copied"),
        (b"x-forwarded-client-cert", f"URI={SPIFFE}cus_copied".encode()),
    ]
    answer = await ask(verifying, request(chat_body(), headers=copies))
    assert (answer.status, answer.code) == (401, "unidentified")
    assert stack.upstream.served == served
    # Beside a good token of another customer they change nobody's bill.
    await customer(stack, "cus_honest")
    token = token_of("cus_honest")
    assert (await ask(verifying, bearer(token, *copies))).status == 200
    assert await spent(stack, "cus_honest") == USED_NANO
    assert (await stack.balance("cus_copied"))["used_nano"] == 0
    assert "x-customer" not in stack.upstream.headers[-1]


async def test_a_token_without_a_usable_customer_is_401_also_beside_a_key(stack, verifying):
    key = await customer(stack, "cus_beside")
    for name in ("", "a\nb", None, True, 1.5, ["cus_beside"], "cus_nobody_knows"):
        raw = bearer(token_of(name), (b"x-api-key", key.encode()))
        assert (await ask(verifying, raw)).status == 401
    assert (await stack.balance("cus_beside"))["used_nano"] == 0


async def test_the_token_wins_over_a_key_of_another_customer(stack, verifying):
    key = await customer(stack, "cus_second")
    await customer(stack, "cus_first")
    raw = bearer(token_of("cus_first"), (b"x-api-key", key.encode()))
    assert (await ask(verifying, raw)).status == 200
    assert await spent(stack, "cus_first") == USED_NANO
    assert (await stack.balance("cus_second"))["used_nano"] == 0
    assert "x-api-key" not in stack.upstream.headers[-1]


async def test_keys_work_as_before_where_no_token_is_sent(stack, verifying):
    key = await customer(stack, "cus_key")
    raw = request(chat_body(), headers=[(b"x-api-key", key.encode())])
    assert (await ask(verifying, raw)).status == 200
    assert await spent(stack, "cus_key") == USED_NANO


async def test_a_token_is_verified_here_where_envoy_does_not(stack, upstream):
    await customer(stack, "cus_here")
    listen = stack.listen
    claims = {"sub": "cus_here", "iss": "https://here.test"}

    async def is_allowed() -> bool:
        return bool((await ask(listen, bearer(HERE.token(claims)))).status == 200)

    await stack.until(is_allowed, "the keys are read")
    assert "authorization" not in stack.upstream.headers[-1]
    forger = Signer("here", "EC")
    for token in (
        forger.token(claims),
        unsigned(good_claims(**claims)),
        HERE.token({"iss": ISSUER}),
    ):
        answer = await ask(listen, bearer(token))
        assert (answer.status, answer.code) == (401, "unidentified")
    unknown = await ask(listen, bearer(Signer("other", "EC").token(claims)))
    assert unknown.status == 401
    assert b"retry-after" in unknown.head.lower()
    assert json.loads(unknown.body)["error"]["message"] == "the token's key is not known"


async def test_a_certificates_name_is_charged(stack, mutual, authority):
    await customer(stack, "cus_mesh")
    client = authority.client(authority.issue("client", uri=f"{SPIFFE}cus_mesh"))
    assert (await ask(mutual, request(chat_body()), client)).status == 200
    assert await spent(stack, "cus_mesh") == USED_NANO


async def test_a_certificate_that_names_nobody_or_is_not_ours_is_refused(stack, mutual, authority):
    await customer(stack, "cus_cert")
    served = stack.upstream.served
    copies = [(b"x-forwarded-client-cert", f"URI={SPIFFE}cus_cert".encode())]
    raw = request(chat_body(), headers=copies)
    for uri in ("spiffe://evil.test/customer/cus_cert", f"{SPIFFE}cus_cert/x", f"{SPIFFE}a%0Ab"):
        client = authority.client(authority.issue("client", uri=uri))
        assert (await ask(mutual, raw, client)).status == 401
    # None at all, and one whose authority Envoy does not trust.
    assert (await ask(mutual, raw, authority.client(None))).status == 401
    other = Authority(stack.folder / "certificates", "other")
    client = authority.client(other.issue("client", uri=f"{SPIFFE}cus_cert"))
    # The end of the handshake comes as an alert or as a closed connection.
    with suppress(ssl.SSLError):
        assert (await ask(mutual, raw, client)).status == 0
    assert stack.upstream.served == served
    assert (await stack.balance("cus_cert"))["used_nano"] == 0


async def test_a_trusted_header_of_a_caller_is_dropped_unless_a_gateway_in_front_sets_it(
    stack, upstream
):
    await customer(stack, "cus_header")
    raw = request(chat_body(), headers=[(b"x-customer", b"cus_header")])
    assert (await ask(stack.listen, raw)).status == 401
    keep = "--keep-identity-headers"
    async with envoy_before(stack, upstream, lambda _: None, keep) as listen:
        assert (await ask(listen, raw)).status == 200
        assert await spent(stack, "cus_header") == USED_NANO


async def test_a_filter_before_the_check_may_set_the_header_that_callers_cannot(stack, upstream):
    await customer(stack, "cus_set")

    def set_header(config: Any) -> None:
        filters = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
        value = {"header": {"key": "x-customer", "value": "cus_set"}}
        filters[0]["typed_config"]["http_filters"].insert(
            0,
            {
                "name": "envoy.filters.http.header_mutation",
                "typed_config": {
                    "@type": "type.googleapis.com/"
                    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                    "mutations": {"request_mutations": [{"append": value}]},
                },
            },
        )

    async with envoy_before(stack, upstream, set_header) as listen:
        raw = request(chat_body(), headers=[(b"x-customer", b"cus_header")])
        assert (await ask(listen, raw)).status == 200
        assert await spent(stack, "cus_set") == USED_NANO
