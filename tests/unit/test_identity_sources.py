"""Who a request is of, by each kind of source; and that no client can choose it."""

import itertools
from dataclasses import replace

import pytest
import re2
from fixtures.tokens import ISSUER, Signer, encoded, good_claims, unsigned
from fixtures.use_cases import UseCases
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.decisions import Allow, DenyReason
from sidecar.domain.identity import (
    ApiKeySource,
    CertificateSource,
    ClaimNames,
    ConsumerSource,
    HeaderSource,
    JwtSource,
    VerifiedFacts,
    key_sets,
    metadata_namespaces,
    trusted_headers,
)
from sidecar.services.claims import CLAIMS_UNCLEAR, claim_text, is_identity_name
from sidecar.services.identity import Claimed, Presented, Unidentified, identify
from sidecar.services.token_ports import KeysAway, TokenRefused

AUTHN = "envoy.filters.http.jwt_authn"
JWT = JwtSource(metadata=AUTHN)
NAMED = JwtSource(
    metadata=AUTHN, names=ClaimNames(customer="org.id", team="team", user="https://x.test/user")
)
HERE = JwtSource(issuer=ISSUER, jwks="https://id.test/keys")
KEYS = ApiKeySource(headers=("authorization", "x-api-key"))
CERTIFICATE = CertificateSource(
    pattern=re2.compile(r"spiffe://mesh\.test/customer/(?P<customer>[^/]+)(?:/user/(?P<user>.+))?")
)
HEADER = HeaderSource(customer="x-customer", team="x-team", user="x-user")
TOKEN = unsigned()
"""A token's form; what it is worth is the verifier's word."""


class Verifier:
    def __init__(self, answer=None):
        self.answer = {"sub": "cus_1"} if answer is None else answer
        self.asked = []

    def verify(self, source, token):
        self.asked.append((source, token))
        return self.answer


def ask(*sources, headers=None, verifier=None, **facts):
    made = UseCases().request(
        headers={} if headers is None else headers, verified=VerifiedFacts(**facts)
    )
    return identify(sources, made, verifier or Verifier())


def claims(values, namespace=AUTHN):
    return {namespace: {"jwt_payload": values}}


# Claims that the gateway verified


@pytest.mark.parametrize(
    ("value", "customer"),
    [
        ("cus_1", "cus_1"),
        (42.0, "42"),
        (-7.0, "-7"),
        (float(2**53 - 1), "9007199254740991"),
        (10**20, "100000000000000000000"),
        ("kündin 1", "kündin 1"),
        ("a" * 255, "a" * 255),
    ],
)
def test_a_claim_is_the_customer(value, customer):
    assert ask(JWT, claims=claims({"sub": value})) == Claimed(customer_id=customer)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", " cus_1", "cus_1 ", "a\nb", "a\x00b", "a\x7f", "a\u2028b", "\ud800", "a" * 256),
        *(None, True, False, 1.5, float("nan"), float("inf"), 2.0**53, -(2.0**60), 10**255),
        *([], ["cus_1"], {}, {"id": "cus_1"}),
    ],
)
def test_a_claim_that_names_nobody_is_401_and_passes_to_no_weaker_source(value):
    found = ask(
        JWT, KEYS, headers={"x-api-key": ("good",)}, claims=claims({"sub": value, "x": "cus_2"})
    )
    assert found == Unidentified(detail="the token's claim 'sub' names no customer")


def test_two_doubles_that_could_be_several_ids_are_none():
    """2^53 and 2^53 + 1 arrive as the same double."""
    assert claim_text({"sub": float(2**53 + 1)}, "sub") is None


def test_claims_lead_inwards_and_a_whole_name_comes_first():
    values = {"org": {"id": "cus_1"}, "team": "blue", "https://x.test/user": 7.0}
    found = ask(NAMED, claims=claims(values))
    assert found == Claimed(customer_id="cus_1", team_id="blue", user_id="7")
    both = {"org": {"id": "inner"}, "org.id": "whole"}
    assert ask(NAMED, claims=claims(both)) == Claimed(customer_id="whole")
    for odd in ("text", 5, ["id"], {"id": {"id": "x"}}, {}):
        assert isinstance(ask(NAMED, claims=claims({"org": odd})), Unidentified)


@pytest.mark.parametrize("value", ["", 1.5, ["x"], {"a": 1}, True])
def test_a_team_that_is_there_but_names_none_is_401(value):
    found = ask(NAMED, claims=claims({"org": {"id": "cus_1"}, "team": value}))
    assert found == Unidentified(detail="the token's claim 'team' names no team")


def test_claims_stand_in_the_namespace_or_in_the_only_mapping_inside_it():
    assert ask(JWT, claims={AUTHN: {"sub": "cus_1"}}) == Claimed(customer_id="cus_1")
    two = {AUTHN: {"a": {"sub": "cus_1"}, "b": {"sub": "cus_2"}}}
    assert ask(JWT, claims=two) == Unidentified(detail=CLAIMS_UNCLEAR)
    for payload, customer in (("a", "cus_1"), ("b", "cus_2")):
        assert ask(replace(JWT, payload=payload), claims=two) == Claimed(customer_id=customer)
    for odd in ({}, {"a": "x"}, {"c": {"sub": "cus_3"}}):
        assert isinstance(ask(replace(JWT, payload="a"), claims={AUTHN: odd}), Unidentified)


@pytest.mark.parametrize(
    "namespace", ["envoy.lb", "envoy.filters.http.jwt_authn2", "ENVOY.FILTERS.HTTP.JWT_AUTHN", ""]
)
def test_another_namespace_of_metadata_is_not_looked_at(namespace):
    found = ask(JWT, claims=claims({"sub": "cus_evil"}, namespace))
    assert found == Unidentified(detail="no credential was presented")


def test_headers_that_look_like_metadata_are_nothing():
    headers = {
        AUTHN: ('{"sub": "cus_evil"}',),
        "sub": ("cus_evil",),
        "x-jwt-payload": (encoded({"sub": "cus_evil"}),),
        "authorization": (f"Bearer {TOKEN}",),
    }
    assert isinstance(ask(JWT, headers=headers), Unidentified)


# Tokens that are verified here


def test_a_token_of_the_issuer_is_verified_and_hidden():
    verifier = Verifier()
    found = ask(HERE, headers={"authorization": (f"bEaReR  {TOKEN} ",)}, verifier=verifier)
    assert found == Claimed(customer_id="cus_1", headers=("authorization",))
    assert verifier.asked == [(HERE, TOKEN)]
    kept = ask(replace(HERE, remove=False), headers={"authorization": (f"Bearer {TOKEN}",)})
    assert kept == Claimed(customer_id="cus_1")


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ((f"Bearer {TOKEN}", f"Bearer {TOKEN}"), "the authorization header is repeated"),
        (("Basic YTpi", f"Bearer {TOKEN}"), "the authorization header is repeated"),
        ((f"Bearer {TOKEN},Bearer {TOKEN}",), "the authorization header holds no usable token"),
        (("Bearer",), "the authorization header holds no usable token"),
        (("Bearer ",), "the authorization header holds no usable token"),
        (("Bearer sk_opaque",), "the authorization header holds no usable token"),
        (("Bearer a.b.c",), "the authorization header holds no usable token"),
        (("Bearer a.b.c.d.e",), "the authorization header holds no usable token"),
        (
            (f"Bearer {encoded(b'[' * 3_000)}.{encoded({})}.x",),
            "the authorization header holds no usable token",
        ),
        (("Bearer " + "a" * 8_193,), "the token is longer than 8192 bytes"),
        (
            (f"Bearer {unsigned(good_claims(iss='https://evil.test'))}",),
            "the token's issuer is not known",
        ),
        ((f"Bearer {unsigned(good_claims(iss=[ISSUER]))}",), "the token's issuer is not known"),
        ((f"Bearer {unsigned({'sub': 'cus_1'})}",), "the token's issuer is not known"),
    ],
)
def test_a_bearer_that_cannot_be_verified_is_401_and_passes_to_no_weaker_source(values, detail):
    verifier = Verifier()
    headers = {"authorization": values, "x-customer": ("cus_2",)}
    assert ask(HERE, HEADER, headers=headers, verifier=verifier) == Unidentified(detail=detail)
    assert verifier.asked == []


def test_what_is_no_token_is_left_to_a_key_source_behind():
    headers = {"authorization": ("Bearer sk_key",)}
    found = ask(HERE, KEYS, headers=headers)
    assert found == Presented(secret="sk_key", headers=("authorization",))


def test_another_scheme_is_not_ours():
    headers = {"authorization": ("Basic YTpi",), "x-customer": ("cus_2",)}
    assert ask(HERE, HEADER, headers=headers) == Claimed(customer_id="cus_2")


def test_a_token_goes_to_the_source_of_its_issuer():
    other = JwtSource(issuer="https://other.test", jwks="/keys.json")
    verifier = Verifier()
    headers = {"authorization": (f"Bearer {TOKEN}",)}
    assert isinstance(ask(other, HERE, headers=headers, verifier=verifier), Claimed)
    assert verifier.asked == [(HERE, TOKEN)]


def test_the_verifiers_no_is_told_with_its_hint():
    refused = TokenRefused(detail="the token's key is not known", retry_after_seconds=9)
    headers = {"authorization": (f"Bearer {TOKEN}",), "x-api-key": ("good",)}
    found = ask(HERE, KEYS, headers=headers, verifier=Verifier(refused))
    assert found == Unidentified(detail=refused.detail, retry_after_seconds=9)
    assert ask(HERE, KEYS, headers=headers, verifier=Verifier(KeysAway())) == KeysAway()


# Certificates


@pytest.mark.parametrize(
    ("principal", "customer", "user"),
    [
        ("spiffe://mesh.test/customer/cus_1", "cus_1", ""),
        ("spiffe://mesh.test/customer/cus_1/user/u 2", "cus_1", "u 2"),
        ("spiffe://mesh.test/customer/cus%2F1", "cus%2F1", ""),
        ("spiffe://mesh.test/customer/a,b;c=d'\"", "a,b;c=d'\"", ""),
        ("spiffe://mesh.test/customer/kündin", "kündin", ""),
    ],
)
def test_a_certificates_name_is_the_customer_by_the_pattern(principal, customer, user):
    assert ask(CERTIFICATE, principal=principal) == Claimed(customer_id=customer, user_id=user)


@pytest.mark.parametrize(
    "principal",
    [
        "cus_1",
        "CN=cus_1,O=x",
        "spiffe://mesh.test/customer/",
        "spiffe://mesh.test/customer/cus_1/",
        "spiffe://mesh.test/customer/cus_1\n",
        "spiffe://mesh.test/customer/cus\x001",
        "spiffe://mesh.test/customer/cus_1\nspiffe://mesh.test/customer/cus_2",
        "spiffe://evil.test/spiffe://mesh.test/customer/cus_1",
        "spiffe://meshXtest/customer/cus_1",
        "spiffe://mesh.test/customer/cus_\udce9",
        "spiffe://mesh.test/customer/ cus_1",
        "spiffe://mesh.test/customer/" + "a" * 256,
        "a" * 5_000,
    ],
)
def test_a_certificate_of_another_name_is_401_and_passes_to_no_weaker_source(principal):
    found = ask(CERTIFICATE, KEYS, headers={"x-api-key": ("good",)}, principal=principal)
    assert isinstance(found, Unidentified)
    assert found.detail.startswith("the certificate")


def test_without_a_certificate_headers_that_name_one_are_nothing():
    name = "spiffe://mesh.test/customer/cus_evil"
    headers = {
        "x-forwarded-client-cert": (f"URI={name}",),
        "x-client-certificate-san": (name,),
        "client_certificate_san": (name,),
    }
    assert isinstance(ask(CERTIFICATE, headers=headers), Unidentified)


# Kong's consumers


@pytest.mark.parametrize("field", ["id", "custom_id", "username"])
def test_a_consumer_is_the_customer_by_the_field_that_was_named(field):
    consumer = {"id": "cus_id", "custom_id": "cus_custom_id", "username": "cus_username"}
    assert ask(ConsumerSource(field=field), consumer=consumer).customer_id == f"cus_{field}"


@pytest.mark.parametrize(
    "consumer", [{"id": "x"}, {"custom_id": ""}, {"custom_id": "a\nb"}, {"custom_id": "a" * 256}]
)
def test_a_consumer_that_names_nobody_is_401(consumer):
    found = ask(ConsumerSource(), KEYS, headers={"x-api-key": ("k",)}, consumer=consumer)
    assert found == Unidentified(detail="the consumer's custom_id names no customer")


def test_a_clients_copies_of_kongs_headers_are_nothing():
    headers = {f"x-consumer-{name}": ("cus_evil",) for name in ("id", "custom-id", "username")}
    assert isinstance(ask(ConsumerSource(), headers=headers), Unidentified)


# Headers that the operator vouches for


def test_trusted_headers_name_customer_team_and_user():
    headers = {"x-customer": ("cus_1",), "x-team": ("blue",), "x-user": ("u1",)}
    found = ask(HEADER, headers=headers)
    assert found == Claimed(customer_id="cus_1", team_id="blue", user_id="u1")
    assert ask(HEADER, headers={"x-customer": ("cus_1",)}) == Claimed(customer_id="cus_1")
    assert isinstance(ask(HEADER, headers={"x-team": ("t",), "x-user": ("u",)}), Unidentified)


@pytest.mark.parametrize("name", ["x-customer", "x-team", "x-user"])
@pytest.mark.parametrize(
    "values", [("",), (" ",), ("a", "b"), ("a", "a"), ("a,b",), ("a\tb",), ("\xe9",), ("a" * 256,)]
)
def test_a_trusted_header_that_is_empty_repeated_or_odd_is_401(name, values):
    headers = {"x-customer": ("cus_1",), "x-api-key": ("k",)} | {name: values}
    found = ask(HEADER, KEYS, headers=headers)
    assert isinstance(found, Unidentified)
    assert found.detail.startswith(f"the {name} header")


def test_a_header_is_believed_only_where_the_policy_says_so():
    headers = {"x-customer": ("cus_evil",), "x-user": ("u",)}
    for source in (KEYS, JWT, HERE, CERTIFICATE, ConsumerSource()):
        assert isinstance(ask(source, headers=headers), Unidentified)


# Several sources


def test_the_first_that_finds_a_credential_wins_and_the_others_are_hidden():
    headers = {"x-customer": ("cus_2",), "x-user": ("u",), "x-api-key": ("k",)}
    known = claims({"sub": "cus_1"})
    assert ask(JWT, KEYS, HEADER, headers=headers, claims=known) == Claimed(
        customer_id="cus_1", headers=("x-api-key", "x-customer", "x-user")
    )
    assert ask(KEYS, JWT, HEADER, headers=headers, claims=known) == Presented(
        secret="k", headers=("x-api-key", "x-customer", "x-user")
    )
    # The header that decided stays: its word is the operator's.
    assert ask(HEADER, KEYS, headers=headers) == Claimed(
        customer_id="cus_2", user_id="u", headers=("x-api-key",)
    )


def test_a_token_beside_a_key_is_hidden_too():
    headers = {"authorization": (f"Bearer {TOKEN}",), "x-api-key": ("k",)}
    keys = ApiKeySource(headers=("x-api-key",))
    assert ask(keys, HERE, headers=headers) == Presented(
        secret="k", headers=("x-api-key", "authorization")
    )
    # What is no Bearer may be the upstream's own.
    basic = headers | {"authorization": ("Basic YTpi",)}
    assert ask(keys, HERE, headers=basic) == Presented(secret="k", headers=("x-api-key",))


def test_in_every_order_a_spoilt_credential_is_never_passed_over():
    """Each source but the last has a credential that cannot be used."""
    spoilt = {"x-api-key": ("",), "x-customer": ("",), "authorization": ("Bearer a.b.c",)}
    facts = {"claims": claims({}), "principal": "nobody", "consumer": {"id": "1"}}
    keys = ApiKeySource(headers=("x-api-key",))
    sources = (keys, JWT, HERE, CERTIFICATE, ConsumerSource(), HEADER)
    for first, second in itertools.permutations(sources, 2):
        assert isinstance(ask(first, second, headers=spoilt, **facts), Unidentified)


@given(st.text(max_size=300))
def test_any_text_is_kept_as_it_is_or_is_nobody(text):
    found = ask(JWT, claims=claims({"sub": text}))
    if isinstance(found, Claimed):
        assert found.customer_id == text
        assert is_identity_name(text)
        assert "\n" not in text
        text.encode()  # Stores keep UTF-8.


def test_what_the_gateway_has_to_hand_over_is_told_once_each():
    sources = (JWT, NAMED, HERE, HEADER, KEYS)
    assert metadata_namespaces(sources) == (AUTHN,)
    assert key_sets(sources) == ("https://id.test/keys",)
    assert trusted_headers(sources) == ("x-customer", "x-team", "x-user")


# Through a check


def deciding(*sources, verifier=None):
    cases = UseCases()
    cases.policies.policy = replace(cases.policy, identity=sources)
    if verifier:
        cases.checks._jwt_verifier = verifier
    return cases


async def test_a_claimed_customer_is_charged_with_team_and_user_named():
    cases = deciding(NAMED)
    await cases.customer()
    verified = VerifiedFacts(
        claims=claims({"org": {"id": "cus_1"}, "team": "blue", "https://x.test/user": "u1"})
    )
    decision = await cases.checks.check(cases.request(headers={}, verified=verified))
    assert isinstance(decision, Allow)
    (placed,) = cases.balances.placed
    assert placed.customer.team_id == "blue"
    assert placed.customer.credential_id == ""
    terms = placed.terms
    assert (terms.customer_id, terms.user_id, terms.credential_id) == ("cus_1", "u1", "")
    assert cases.account.held > 0


async def test_a_claimed_customer_that_nobody_knows_is_401():
    cases = deciding(JWT)
    await cases.customer()
    verified = VerifiedFacts(claims=claims({"sub": "cus_unknown"}))
    decision = await cases.checks.check(cases.request(headers={}, verified=verified))
    assert decision.reason is DenyReason.UNKNOWN_CREDENTIAL
    assert cases.balances.placed == []


async def test_keys_that_never_came_deny_as_a_store_that_is_away():
    cases = deciding(HERE)
    await cases.customer()
    headers = {"authorization": (f"Bearer {TOKEN}",)}
    decision = await cases.checks.check(cases.request(headers=headers))
    assert decision.reason is DenyReason.STORE_UNAVAILABLE
    assert cases.balances.placed == []


async def test_an_unknown_key_of_an_issuer_is_401_with_a_hint():
    refused = TokenRefused(detail="the token's key is not known", retry_after_seconds=9)
    cases = deciding(HERE, verifier=Verifier(refused))
    headers = {"authorization": (f"Bearer {TOKEN}",)}
    decision = await cases.checks.check(cases.request(headers=headers))
    assert (decision.reason, decision.retry_after_seconds) == (DenyReason.UNIDENTIFIED, 9)


def test_a_signer_of_the_tests_makes_what_is_taken_for_a_token():
    verifier = Verifier()
    headers = {"authorization": (f"Bearer {Signer(kind='EC').token()}",)}
    assert ask(HERE, headers=headers, verifier=verifier) == Claimed(
        customer_id="cus_1", headers=("authorization",)
    )
