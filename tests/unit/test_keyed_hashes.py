"""Keyed hashes and hold tokens: what one key makes, no other key and no other use accepts."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.domain.holds import Bound, HoldTerms, QuotaLine
from sidecar.outbound.keyed_hashes import (
    KEYS_MAX,
    TOKEN_CHARS_MAX,
    KeyedDigests,
    KeyRing,
    SignedHoldTokens,
)
from sidecar.wire.hold_token_pb2 import SignedHoldToken

OLD, NEW = ("k1", b"old-secret-of-tests"), ("k2", b"new-secret-of-tests")
TERMS = HoldTerms(
    hold_id="0" * 40,
    gateway_id="gw-1",
    customer_id="cus_1",
    plan="prepaid",
    currency="USD",
    amount_nano=9_007_199_254_740_993,
    price_version="f" * 24,
    estimate={"input-tokens": 100, "requests": 0},
    user_id="u",
    credential_id="crd",
    model="gpt-4o-mini",
    route="^/ai/",
    policy_version="p",
    bound=Bound.STORE_FAILURE,
    quota_lines=(QuotaLine(field="q:m:1", meter="input-tokens", quantity=100),),
    decided_at_ms=1_795_180_797_000,
    expires_at_ms=1_795_180_917_000,
    request_id=b"\xff\x00req",
)


def tokens(*keys: tuple[str, bytes]) -> SignedHoldTokens:
    return SignedHoldTokens(KeyRing(keys or (OLD,)))


def test_a_token_says_exactly_what_was_signed():
    signer = tokens()
    token = signer.sign(TERMS)
    assert signer.read(token) == TERMS
    assert token.isascii()
    assert not set(token) & set("+/= \n")
    assert len(token) < TOKEN_CHARS_MAX


def test_the_newest_key_signs_and_the_older_ones_still_verify():
    before, after = tokens(OLD), tokens(NEW, OLD)
    assert after.read(before.sign(TERMS)) == TERMS
    with pytest.raises(InvalidInput, match="unknown key"):
        before.read(after.sign(TERMS))


def test_a_key_of_the_same_name_with_another_secret_is_refused():
    with pytest.raises(InvalidInput, match="wrong signature"):
        tokens(OLD).read(tokens(("k1", b"another secret")).sign(TERMS))


def test_a_token_that_was_altered_anywhere_is_refused_or_says_the_same():
    signer = tokens()
    raw = bytearray(base64.urlsafe_b64decode(signer.sign(TERMS) + "=="))
    for position in range(len(raw)):
        raw[position] ^= 1
        altered = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
        raw[position] ^= 1
        with pytest.raises(InvalidInput):
            signer.read(altered)


def test_the_terms_cannot_be_exchanged_under_a_signature():
    signer = tokens()
    cheap = SignedHoldToken.FromString(base64.urlsafe_b64decode(signer.sign(TERMS) + "=="))
    dear = SignedHoldToken.FromString(
        base64.urlsafe_b64decode(signer.sign(replace(TERMS, amount_nano=1)) + "==")
    )
    dear.signature = cheap.signature
    with pytest.raises(InvalidInput, match="wrong signature"):
        signer.read(base64.urlsafe_b64encode(dear.SerializeToString()).decode())


@pytest.mark.parametrize(
    "token", ["", "=", "A", "!!!!", "é", "a" * (TOKEN_CHARS_MAX + 1), "AAAA\n", "\ud800"]
)
def test_what_is_no_token_is_refused(token: str):
    with pytest.raises(InvalidInput) as caught:
        tokens().read(token)
    assert caught.value.field == "hold_token"


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode()))
def test_nothing_but_a_token_is_read_and_nothing_crashes(text: str):
    with pytest.raises(InvalidInput):
        tokens().read(text)


def test_terms_that_cannot_be_written_down_are_refused():
    for bad in ({"model": "\ud800"}, {"amount_nano": 2**64}, {"estimate": {"m": -(2**70)}}):
        with pytest.raises(InvalidInput):
            tokens().sign(replace(TERMS, **bad))


def test_each_use_has_a_key_of_its_own():
    ring = KeyRing([OLD])
    derived = {ring.derive("k1", label) for label in ("request", "credential", "hold-token")}
    assert len(derived) == 3
    assert all(len(key) == 32 for key in derived)
    assert ring.derive("k9", "request") is None


def test_a_credential_is_found_under_every_key_newest_first():
    hashes = KeyedDigests(KeyRing([NEW, OLD])).credential_hashes("sk_1")
    assert hashes[1:] == KeyedDigests(KeyRing([OLD])).credential_hashes("sk_1")
    assert len(set(hashes)) == 2
    assert all(len(found) == 64 and "sk_1" not in found for found in hashes)


def test_a_request_digest_tells_every_list_of_facts_from_every_other():
    digests = KeyedDigests(KeyRing([OLD]))
    lists = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc"), ()]
    found = [digests.request_digest(*facts) for facts in lists]
    assert len(set(found)) == len(lists)
    assert {len(digest) for digest in found} == {16}
    assert digests.request_digest(b"ab", b"c") == found[0]
    assert KeyedDigests(KeyRing([NEW])).request_digest(b"ab", b"c") != found[0]


@pytest.mark.parametrize("count", [0, KEYS_MAX + 1])
def test_a_ring_has_some_keys_and_not_too_many(count: int):
    with pytest.raises(ConfigError, match=f"1 to {KEYS_MAX}"):
        KeyRing([(f"k{n}", b"secret") for n in range(count)])


def test_no_secret_ever_shows():
    ring = KeyRing([NEW, OLD])
    shown = f"{ring!r} {ring} {KeyedDigests(ring)!r} {SignedHoldTokens(ring)!r}"
    assert "secret-of-tests" not in shown
    assert "k2, k1" in shown
