"""Tokens against keys that were read: what is believed, and how often keys are asked for."""

import json
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures.tokens import (
    AUDIENCE,
    ISSUER,
    Signer,
    encoded,
    good_claims,
    key_set,
    signed_with_public_key,
    unsigned,
)
from jwt import PyJWS

from sidecar.domain.identity import JwtSource
from sidecar.outbound.jwks import (
    PAUSE_SECONDS,
    REFRESH_SECONDS,
    STALE_SECONDS,
    JwksVerifier,
)
from sidecar.outbound.jwks_keys import KEYS_MAX, LEEWAY_SECONDS, parse_key_set
from sidecar.outbound.jwks_reading import JWKS_BYTES_MAX, KeySetError
from sidecar.services.token_ports import KeysAway, TokenRefused

SIGNERS = {
    "RSA": Signer("rsa"),
    "EC": Signer("ec", "EC"),
    "OKP": Signer("okp", "OKP"),
}
RSA = SIGNERS["RSA"]
OTHER = Signer("rsa")
"""Another key under the same kid."""
NEW = Signer("new")
SOURCE = JwtSource(
    issuer=ISSUER,
    jwks="https://id.test/keys",
    audiences=(AUDIENCE, "second"),
    algorithms=("RS256", "PS256", "ES256", "EdDSA"),
)


class Issuer:
    """Key sets that are read without a network, by a clock that the test moves."""

    def __init__(self, *signers, sources=(SOURCE.jwks,)):
        self.now = 1_000.0
        self.data = key_set(*signers)
        self.reads = []
        self.away = False
        self.sources = list(sources)
        self.verifier = JwksVerifier(
            lambda: self.sources, read=self.read, monotonic=lambda: self.now
        )

    async def read(self, _session, where):
        self.reads.append(where)
        if self.away:
            raise KeySetError("it cannot be reached")
        return self.data

    async def refresh(self):
        await self.verifier.refresh(None)

    def verify(self, token, source=SOURCE):
        return self.verifier.verify(source, token)


@pytest.fixture
async def issuer():
    issuer = Issuer(*SIGNERS.values())
    await issuer.refresh()
    return issuer


def refused(issuer, token, source=SOURCE):
    answer = issuer.verify(token, source)
    assert isinstance(answer, TokenRefused)
    assert token not in answer.detail
    return answer.detail


@pytest.mark.parametrize("kind", SIGNERS)
async def test_a_good_token_gives_its_claims(issuer, kind):
    claims = issuer.verify(SIGNERS[kind].token({"org": {"id": 7}}))
    assert (claims["sub"], claims["org"]) == ("cus_1", {"id": 7})


async def test_a_subject_may_be_a_number_and_an_audience_one_of_many(issuer):
    token = RSA.token({"sub": 42, "aud": ["x", "second"]}, algorithm="PS256")
    assert issuer.verify(token)["sub"] == 42


async def test_without_stated_audiences_any_will_do(issuer):
    source = replace(SOURCE, audiences=())
    assert issuer.verify(RSA.token({"aud": "else"}), source)["sub"] == "cus_1"


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"exp": NOW - LEEWAY_SECONDS - 5}, "the token has expired"),
        ({"nbf": NOW + 600}, "the token is not valid yet"),
        ({"iat": NOW + 600}, "the token is not valid yet"),
        ({"aud": "else"}, "another issuer or for another audience"),
        ({"aud": []}, "needed: exp, iss, aud"),
        ({"aud": {"api.test": 1}}, "another issuer or for another audience"),
        ({"aud": None}, "needed: exp, iss, aud"),
        ({"exp": None}, "needed: exp, iss, aud"),
        ({"iss": None}, "needed: exp, iss, aud"),
        ({"iss": "https://id.test/"}, "another issuer"),
        ({"iss": "https://id"}, "another issuer"),
        ({"iss": ["https://id.test"]}, "cannot be read|another issuer"),
        ({"exp": "soon"}, "the token cannot be read"),
        ({"exp": float("inf")}, "the token cannot be read"),
        ({"exp": float("nan")}, "the token cannot be read"),
        ({"exp": [1]}, "the token cannot be read"),
    ],
)
async def test_claims_that_do_not_hold_are_told(issuer, claims, detail):
    wanted = {name: value for name, value in (good_claims() | claims).items() if value is not None}
    # Not by jwt.encode, which would not sign some of them.
    payload = json.dumps(wanted).encode()
    token = PyJWS().encode(payload, RSA.private, algorithm="RS256", headers={"kid": "rsa"})
    found = refused(issuer, token)
    assert any(part in found for part in detail.split("|"))


async def test_a_little_skew_of_clocks_is_no_harm(issuer):
    now, skew = int(time.time()), LEEWAY_SECONDS - 10
    assert issuer.verify(RSA.token({"exp": now - skew, "nbf": now + skew}))["sub"] == "cus_1"


async def test_forged_signatures_are_refused(issuer):
    assert refused(issuer, OTHER.token()) == "the token's signature is wrong"
    head, body, signature = RSA.token().split(".")
    changed = encoded(good_claims(sub="cus_2"))
    assert refused(issuer, f"{head}.{changed}.{signature}") == "the token's signature is wrong"
    assert refused(issuer, f"{head}.{body}.") == "the token's signature is wrong"
    assert refused(issuer, f"{head}.{body}.!!") == "the token cannot be read"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256", "RS384", "ES256K"])
async def test_other_algorithms_are_refused(issuer, algorithm):
    token = unsigned(algorithm=algorithm)
    assert refused(issuer, token) == "the token's algorithm is not allowed"
    assert refused(issuer, token + "c2ln") == "the token's algorithm is not allowed"


async def test_the_public_key_is_no_secret(issuer):
    """Even where a policy could name HS256, no key fits it."""
    forged = signed_with_public_key(RSA)
    assert refused(issuer, forged) == "the token's algorithm is not allowed"
    careless = replace(SOURCE, algorithms=("RS256", "HS256"))
    issuer.data = json.dumps({"keys": [RSA.jwk(kid="k1")]}).encode()
    issuer.now += REFRESH_SECONDS
    await issuer.refresh()
    assert refused(issuer, forged, careless) == "no key of the issuer fits the token"


async def test_a_key_verifies_its_own_kind_of_signature_only(issuer):
    ec_token = SIGNERS["EC"].token(headers={"kid": "rsa"})
    assert refused(issuer, ec_token) == "no key of the issuer fits the token"
    bound = Issuer()
    bound.data = json.dumps({"keys": [RSA.jwk(alg="PS256")]}).encode()
    await bound.refresh()
    assert refused(bound, RSA.token()) == "no key of the issuer fits the token"
    assert bound.verify(RSA.token(algorithm="PS256"))["sub"] == "cus_1"


@pytest.mark.parametrize(
    "headers",
    [
        {"crit": ["exp"]},
        {"b64": False, "crit": ["b64"]},
        {"kid": 5},
        {"kid": ["rsa"]},
    ],
)
async def test_what_a_header_asks_for_beyond_is_refused(issuer, headers):
    head = {"alg": "RS256", "kid": "rsa"} | headers
    token = f"{encoded(head)}.{encoded(good_claims())}.c2ln"
    assert refused(issuer, token) == "the token's header asks for what is not supported"


async def test_keys_that_a_token_brings_along_are_not_used(issuer):
    brought = {"jwk": NEW.jwk(), "jku": "https://evil.test/keys", "x5u": "https://evil.test/c"}
    token = NEW.token(headers=brought)
    assert refused(issuer, token) == "the token's key is not known"
    token = NEW.token(headers=brought | {"kid": "rsa"})
    assert refused(issuer, token) == "the token's signature is wrong"
    assert set(issuer.reads) == {SOURCE.jwks}


async def test_without_a_kid_only_a_single_key_is_tried(issuer):
    headers = {"kid": None}
    two = Issuer(RSA, NEW)
    await two.refresh()
    assert refused(two, RSA.token(headers=headers)) == "no key of the issuer fits the token"
    one = Issuer(RSA, SIGNERS["EC"])
    await one.refresh()
    assert one.verify(RSA.token(headers=headers))["sub"] == "cus_1"


@pytest.mark.parametrize(
    "token",
    ["", ".", "a.b", "a.b.c", "a.b.c.d", "Ü.b.c", "a" * 8_193, encoded(b"[" * 2_000) + ".e30.x"],
)
async def test_what_is_no_token_is_refused(issuer, token):
    assert isinstance(issuer.verify(token), TokenRefused)


async def test_a_token_longer_than_the_limit_is_refused_before_it_is_read(issuer):
    assert isinstance(issuer.verify(RSA.token({"x": "y" * 5_000})), dict)
    assert refused(issuer, RSA.token({"x": "y" * 7_000})) == "the token cannot be read"


# Freshness


async def test_before_the_first_keys_nothing_can_be_said():
    issuer = Issuer(RSA)
    assert issuer.verify(RSA.token()) == KeysAway()
    issuer.away = True
    await issuer.refresh()
    assert issuer.verify(RSA.token()) == KeysAway()
    issuer.away = False
    issuer.now += PAUSE_SECONDS
    await issuer.refresh()
    assert issuer.verify(RSA.token())["sub"] == "cus_1"


async def test_a_rotated_key_is_known_after_the_pause_at_most(issuer):
    issuer.data = key_set(NEW)
    issuer.now += PAUSE_SECONDS + 1
    answer = issuer.verify(NEW.token())
    assert answer.detail == "the token's key is not known"
    assert answer.retry_after_seconds in range(1, 12)
    await issuer.refresh()
    assert issuer.verify(NEW.token())["sub"] == "cus_1"
    # The key that went is not believed any more.
    assert refused(issuer, RSA.token()) == "the token's key is not known"


async def test_a_flood_of_unknown_kids_asks_once_in_ten_seconds(issuer):
    for number in range(1_000):
        if number < 50:
            issuer.verify(RSA.token(headers={"kid": f"guess-{number}"}))
        await issuer.refresh()
        issuer.now += 0.05
    assert len(issuer.reads) == 1 + 1
    issuer.now += PAUSE_SECONDS
    for _ in range(100):
        await issuer.refresh()
    assert len(issuer.reads) == 2  # Nobody named an unknown key since.


async def test_keys_are_read_anew_before_they_are_old(issuer):
    issuer.now += REFRESH_SECONDS - 1
    await issuer.refresh()
    assert len(issuer.reads) == 1
    issuer.now += 1
    await issuer.refresh()
    assert len(issuer.reads) == 2


async def test_stale_keys_serve_for_a_stated_time_while_the_issuer_is_away(issuer):
    issuer.away = True
    issuer.now += STALE_SECONDS
    await issuer.refresh()
    token = RSA.token()
    assert issuer.verify(token)["sub"] == "cus_1"
    issuer.now += 1
    assert issuer.verify(token) == KeysAway()
    issuer.away = False
    issuer.now += PAUSE_SECONDS
    await issuer.refresh()
    assert issuer.verify(token)["sub"] == "cus_1"


async def test_an_issuer_that_is_away_is_asked_every_ten_seconds(issuer):
    issuer.away = True
    issuer.now += REFRESH_SECONDS
    before = len(issuer.reads)
    for _ in range(100):
        await issuer.refresh()
        issuer.now += 1
    assert len(issuer.reads) - before == 10


@pytest.mark.parametrize("data", [b"", b"no json", b"[]", b'{"keys": {}}', b"\xff"])
async def test_a_broken_key_set_keeps_the_keys_that_are_known(issuer, data):
    issuer.data = data
    issuer.now += REFRESH_SECONDS
    await issuer.refresh()
    assert issuer.verify(RSA.token())["sub"] == "cus_1"


async def test_a_key_set_that_the_policy_drops_is_forgotten(issuer):
    issuer.sources.clear()
    await issuer.refresh()
    assert issuer.verify(RSA.token()) == KeysAway()


# Key sets


def test_keys_that_cannot_verify_are_left_out():
    weak = Signer("weak", bits=1_024)
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "alg": "HS256"}
    odd = [
        weak.jwk(),
        secret,
        RSA.jwk(kid="enc", use="enc"),
        RSA.jwk(kid="signs", key_ops=["sign"]),
        RSA.jwk(kid="ops", key_ops="verify"),
        RSA.jwk(kid=5),
        RSA.jwk(alg=["RS256"]),
        RSA.jwk(kid="broken", n="!"),
        {"kty": "RSA", "kid": "empty"},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "curve"},
        *("text", None, 5, []),
    ]
    found = parse_key_set(json.dumps({"keys": [*odd, RSA.jwk()]}).encode())
    assert [key.kid for key in found.keys] == ["rsa"]


def test_a_private_key_in_a_key_set_verifies_as_its_public_half():
    row = SIGNERS["EC"].jwk()
    numbers = SIGNERS["EC"].private.private_numbers()
    row["d"] = encoded(numbers.private_value.to_bytes(32, "big"))
    (found,) = parse_key_set(json.dumps({"keys": [row]}).encode()).keys
    assert isinstance(found.key, ec.EllipticCurvePublicKey)


def test_key_sets_beyond_the_limits_are_refused():
    with pytest.raises(KeySetError, match="101 keys"):
        parse_key_set(json.dumps({"keys": [RSA.jwk()] * (KEYS_MAX + 1)}).encode())
    with pytest.raises(KeySetError, match="larger than"):
        parse_key_set(b" " * (JWKS_BYTES_MAX + 1))
    with pytest.raises(KeySetError, match="not JSON"):
        parse_key_set(b"[" * 100_000)
