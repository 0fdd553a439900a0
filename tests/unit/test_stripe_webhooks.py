"""Signatures made by Stripe's own SDK, and what their bodies name."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe import WebhookSignature

from sidecar.domain.errors import ConfigError
from sidecar.inbound.webhooks.stripe import SECRETS_MAX, TOLERANCE_SECONDS, StripeWebhooks
from sidecar.services.inbox_ports import ObjectKind, WebhookRefusal, WebhookRefused
from sidecar.services.stripe_events import NEEDED_EVENTS, parse_event, read_event

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
SECRET, OLDER = "whsec_new", "whsec_old"
BODY = json.dumps({"id": "evt_1", "object": "event", "type": "invoice.paid"})


def header(body: str = BODY, secret: str = SECRET, age_seconds: int = 0) -> dict[str, str]:
    signed_at = int(NOW.timestamp()) - age_seconds
    return {"stripe-signature": WebhookSignature.generate_signature_header(body, secret, signed_at)}


def refusal(headers: dict[str, str], body: str = BODY, *secrets: str) -> WebhookRefusal | None:
    try:
        StripeWebhooks(secrets or (SECRET, OLDER)).verify(headers, body.encode(), NOW)
    except WebhookRefused as error:
        if body in str(error) or SECRET in str(error):
            raise AssertionError("the words of a refusal hold content") from error
        return error.refusal
    return None


@pytest.mark.parametrize("secret", [SECRET, OLDER])
def test_each_of_the_secrets_signs(secret):
    assert refusal(header(secret=secret)) is None


def test_one_of_several_signatures_is_enough():
    """While Stripe rotates a secret it signs with both."""
    new = header()["stripe-signature"]
    other = header(secret="whsec_unknown")["stripe-signature"].split(",")[1]
    both = {"stripe-signature": f"{new},{other},v0=abc"}
    swapped = {"stripe-signature": ",".join([new.split(",")[0], other, new.split(",")[1]])}
    assert refusal(both) is None
    assert refusal(swapped) is None


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"stripe-signature": ""},
        {"stripe-signature": "nonsense"},
        {"stripe-signature": header()["stripe-signature"].replace("v1=", "v0=")},
        {"stripe-signature": header()["stripe-signature"].replace("t=", "t=1")},
        {"stripe-signature": header()["stripe-signature"] + ",t=1"},
        {"stripe-signature": "t=-5,v1=aa"},
        {"stripe-signature": "t=١٢,v1=aa"},
        {"stripe-signature": "t=1," + ",".join(["v1=aa"] * 17)},
        {"stripe-signature": header()["stripe-signature"] + "," + "x" * 5_000},
        header(secret="whsec_unknown"),
        header(body=BODY + " "),
    ],
)
def test_what_is_not_signed_is_refused(changed):
    assert refusal(changed) is WebhookRefusal.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("age_seconds", "expected"),
    [
        (TOLERANCE_SECONDS, None),
        (TOLERANCE_SECONDS + 1, WebhookRefusal.STALE),
        (-TOLERANCE_SECONDS, None),
        (-TOLERANCE_SECONDS - 1, WebhookRefusal.STALE),
        (30 * 86_400, WebhookRefusal.STALE),
    ],
)
def test_a_replay_and_a_wrong_clock_are_refused(age_seconds, expected):
    assert refusal(header(age_seconds=age_seconds)) is expected


def test_a_body_that_was_written_anew_is_refused():
    written_anew = json.dumps(json.loads(BODY), separators=(",", ":"))
    assert refusal(header(), written_anew) is WebhookRefusal.BAD_SIGNATURE


@pytest.mark.parametrize("secrets", [(), ("s",) * (SECRETS_MAX + 1)])
def test_there_is_a_bounded_number_of_secrets(secrets):
    with pytest.raises(ConfigError):
        StripeWebhooks(secrets)


def test_no_secret_is_shown():
    assert SECRET not in repr(StripeWebhooks((SECRET,)))


def event(event_type: str, thing: object, **changes: object) -> dict[str, object]:
    return {
        "id": "evt_1",
        "object": "event",
        "type": event_type,
        "livemode": False,
        "created": 1,
        "data": {"object": thing},
    } | changes


@pytest.mark.parametrize(
    ("event_type", "thing", "kind", "name"),
    [
        ("invoice.paid", {"id": "in_1"}, ObjectKind.INVOICE, "in_1"),
        ("invoice.voided", {"id": "in_1"}, ObjectKind.INVOICE, "in_1"),
        ("invoice_payment.paid", {"invoice": "in_1"}, ObjectKind.INVOICE, "in_1"),
        ("customer.subscription.updated", {"id": "sub_1"}, ObjectKind.SUBSCRIPTION, "sub_1"),
        ("checkout.session.completed", {"payment_intent": "pi_1"}, ObjectKind.PAYMENT, "pi_1"),
        ("charge.refunded", {"payment_intent": {"id": "pi_1"}}, ObjectKind.PAYMENT, "pi_1"),
        ("charge.dispute.created", {"payment_intent": "pi_1"}, ObjectKind.PAYMENT, "pi_1"),
        ("refund.failed", {"payment_intent": "pi_1"}, ObjectKind.PAYMENT, "pi_1"),
        ("payment_intent.succeeded", {"id": "pi_1"}, ObjectKind.PAYMENT, "pi_1"),
    ],
)
def test_an_event_names_what_is_to_be_fetched(event_type, thing, kind, name):
    found = parse_event(json.dumps(event(event_type, thing)).encode())
    assert (found.ref.kind, found.ref.object_id) == (kind, name)
    assert (found.event_id, found.livemode, found.reason) == ("evt_1", False, "")


@pytest.mark.parametrize(
    "value",
    [
        event("customer.updated", {"id": "cus_1"}),
        event("invoice.upcoming", {"customer": "cus_1"}),
        event("checkout.session.completed", {"payment_intent": None}),
        event("invoice.paid", {"id": "in_1\nx"}),
        event("invoice.paid", {"id": "x" * 200}),
        event("invoice.paid", None),
        event("invoice.paid", {"id": "in_1"}, account="acct_connected"),
        event("invoice.paid", {"id": "in_1"}, object="v2.core.event"),
    ],
)
def test_an_event_that_says_nothing_to_us_names_nothing(value):
    assert read_event(value).ref is None


@pytest.mark.parametrize(
    "event_type", ["v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"]
)
def test_a_report_of_errors_is_fetched_by_its_own_id(event_type):
    thin = {"id": "evt_9", "object": "v2.core.event", "type": event_type, "livemode": True}
    found = read_event(thin | {"related_object": {"id": "mtr_1", "type": "billing.meter"}})
    assert (found.ref.kind, found.ref.object_id) == (ObjectKind.METER_ERROR, "evt_9")
    assert found.livemode is True


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"<html>", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "not_an_event"),
        (b"null", "not_an_event"),
        (b'{"object": "event"}', "not_an_event"),
        (b'{"object": "event", "id": "evt 1", "type": "invoice.paid"}', "not_an_event"),
        (b'{"object": "invoice", "id": "in_1", "type": "x"}', "not_an_event"),
    ],
)
def test_what_cannot_be_read_is_kept_by_its_hash(body, reason):
    found = parse_event(body)
    assert (found.ref.kind, found.reason) == (ObjectKind.UNREADABLE, reason)
    assert parse_event(body) == found
    assert len(found.ref.key) <= 191


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_makes_it_fail(value):
    for wrapped in (value, event("invoice.paid", value), event("charge.refunded", {"id": value})):
        found = parse_event(json.dumps(wrapped).encode())
        assert found.event_id
        assert found.ref is None or len(found.ref.key) <= 191


def test_the_events_that_are_needed_all_name_something():
    thing = {"id": "x_1", "payment_intent": "pi_1"}
    assert all(read_event(event(name, thing)).ref is not None for name in NEEDED_EVENTS)
    assert len(NEEDED_EVENTS) <= 20  # As many as Stripe's list of events is filtered by.
