"""Paystack's webhooks: the signature over the raw body, and what is read of it."""

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import ConfigError
from sidecar.outbound.paystack.webhooks import PaystackWebhooks, read_news, verify_signature
from sidecar.services.inbox_ports import ObjectKind
from sidecar.standins.paystack_hooks import Hooks

SECRET = "sk_test_of_these_tests"
BODY = json.dumps({"event": "charge.success", "data": {"reference": "sc-1", "domain": "test"}})


def signed(body: bytes) -> str:
    return hmac.new(SECRET.encode(), body, hashlib.sha512).hexdigest()


def test_what_the_standin_signs_holds():
    hooks = Hooks(SECRET)
    hooks.emit("charge.success", {"reference": "sc-1", "domain": "live"})
    (hook,) = hooks.waiting
    assert verify_signature(SECRET, hook.signature, hook.body)
    news = read_news(hook.body)
    assert (news.event, news.name, news.live) == ("charge.success", "sc-1", True)


@given(st.binary(max_size=200), st.integers(0, 127), st.sampled_from("0123456789abcdef"))
def test_one_changed_digit_of_a_signature_breaks_it(body, place, digit):
    good = signed(body)
    bad = good[:place] + digit + good[place + 1 :]
    assert verify_signature(SECRET, bad, body) == (bad == good)
    assert verify_signature(SECRET, good.upper(), body)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_is_of_these_bytes_only(body, other):
    assert verify_signature(SECRET, signed(body), other) == (body == other)


def test_a_body_that_was_written_anew_does_not_hold():
    again = json.dumps(json.loads(BODY), separators=(",", ":")).encode()
    assert not verify_signature(SECRET, signed(BODY.encode()), again)


@pytest.mark.parametrize("signature", ["", "0", "é" * 128, "g" * 128, " " * 128, "0" * 127])
def test_what_is_no_signature_does_not_hold(signature):
    assert not verify_signature(SECRET, signature, BODY.encode())


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["event", "data", "reference", "transaction", "domain", "x"]), inner
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_nothing_that_is_said_breaks_the_reading(body):
    news = read_news(body)
    assert news.digest == hashlib.sha256(body).hexdigest()
    assert len(news.name) <= 120
    assert len(news.event) <= 100


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"reference": "sc-1"}, "sc-1"),
        ({"request_code": "PRQ_1", "reference": "other"}, "PRQ_1"),
        ({"transaction_reference": "sc-1", "reference": "refund"}, "sc-1"),
        ({"transaction": {"reference": "sc-1"}}, "sc-1"),
        ({"reference": 5}, ""),
        ({"reference": "a\nb"}, ""),
        ({"reference": "x" * 500}, ""),
        ({"reference": "a/b"}, ""),
        ({"reference": "ä" * 60}, ""),
    ],
)
def test_news_names_the_payment_that_it_is_about(data, name):
    assert read_news(json.dumps({"event": "e", "data": data}).encode()).name == name


def parsed(body: str | bytes):
    return PaystackWebhooks(SECRET).parse(body.encode() if isinstance(body, str) else body)


def told(event: str, **data: object):
    return parsed(json.dumps({"event": event, "data": data}))


def test_an_event_is_these_very_bytes_and_names_a_payment():
    first, again = parsed(BODY), parsed(BODY)
    assert first == again
    assert first.event_id == f"sha256.{hashlib.sha256(BODY.encode()).hexdigest()}"
    assert (first.ref.key, first.reason, first.livemode) == ("paystack:payment:sc-1", "", False)
    assert parsed(BODY + " ").event_id != first.event_id


@pytest.mark.parametrize(
    ("event", "data", "kind", "name", "reason"),
    [
        ("charge.success", {"reference": "sc-1"}, ObjectKind.PAYMENT, "sc-1", ""),
        ("paymentrequest.success", {"request_code": "PRQ_1"}, ObjectKind.PAYMENT, "PRQ_1", ""),
        ("refund.processed", {"transaction_reference": "a"}, ObjectKind.PAYMENT, "a", "reversal"),
        (
            "charge.dispute.create",
            {"transaction": {"reference": "a"}},
            *(ObjectKind.PAYMENT, "a", "reversal"),
        ),
        ("charge.success", {"reference": "a\nb"}, ObjectKind.UNREADABLE, None, "no_reference"),
    ],
)
def test_what_an_event_asks_for(event, data, kind, name, reason):
    found = told(event, **data)
    assert (found.ref.kind, found.reason) == (kind, reason)
    assert name in (None, found.ref.object_id)


@pytest.mark.parametrize("event", ["transfer.success", "subscription.create", "x"])
def test_what_is_about_no_payment_to_us_asks_for_nothing(event):
    assert told(event, reference="sc-1").ref is None


@pytest.mark.parametrize("body", ["<html>", "", "[]", "{}", '{"event": "charge.success"}', "\0"])
def test_what_is_no_event_is_for_people(body):
    found = parsed(body)
    assert (found.ref.kind, found.reason) == (ObjectKind.UNREADABLE, "not_an_event")


@pytest.mark.parametrize("secret", ["", "pk_test_public", "sk_ä"])
def test_what_is_no_secret_key_signs_nothing_and_is_not_shown(secret):
    with pytest.raises(ConfigError) as caught:
        PaystackWebhooks(secret)
    assert not secret or secret not in str(caught.value)
    assert SECRET not in repr(PaystackWebhooks(SECRET))
