"""Records of usage are written and read fast, and are byte for byte what they always were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound, HoldTerms, QuotaLine
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.usage import QUANTITY_MAX, RatedLine, TokenUsage, UsageEvent
from sidecar.outbound.redis.records import (
    event_from_bytes,
    event_to_bytes,
    terms_from_payload,
    terms_to_payload,
)
from sidecar.wire import hold_token_pb2, usage_event_pb2

texts = st.text(max_size=8)
maps = st.dictionaries(texts, texts, max_size=3)
quantities = st.integers(0, QUANTITY_MAX)
amounts = st.integers(-(2**63), 2**63 - 1)
counts = st.none() | st.integers(0, QUANTITY_MAX // 4)
instants = st.integers(0, 2**32 * 1_000).map(from_epoch_ms)
hold_ids = st.binary(min_size=20, max_size=20).map(bytes.hex)
lines = st.builds(
    RatedLine,
    meter=texts,
    quantity=amounts,
    amount_nano=amounts,
    groups=maps,
    text_hash=texts,
    observed=st.booleans(),
)
events = st.builds(
    UsageEvent,
    hold_id=hold_ids,
    **dict.fromkeys(
        (
            *("customer_id", "currency", "price_version", "plan", "edge", "gateway_id", "team_id"),
            *("user_id", "credential_id", "model", "route", "estimate_reason", "client_key"),
        ),
        texts,
    ),
    lines=st.lists(lines, max_size=3).map(tuple),
    usage=st.builds(TokenUsage, input=counts, output=counts, total=counts),
    occurred_at=instants,
    received_at=instants,
    status=st.none() | st.integers(1, 999),
    duration_ms=quantities,
    request_bytes=quantities,
    response_bytes=quantities,
    estimated=st.booleans(),
    request_id=st.binary(max_size=8),
)
terms = st.builds(
    HoldTerms,
    hold_id=hold_ids,
    **dict.fromkeys(
        (
            *("gateway_id", "customer_id", "plan", "currency", "price_version", "team_id"),
            *("user_id", "credential_id", "model", "route", "policy_version"),
        ),
        texts,
    ),
    amount_nano=amounts,
    estimate=st.dictionaries(texts, amounts, max_size=3),
    bound=st.sampled_from(Bound),
    quota_lines=st.lists(
        st.builds(QuotaLine, field=texts, meter=texts, quantity=amounts), max_size=3
    ).map(tuple),
    decided_at_ms=amounts,
    expires_at_ms=amounts,
    request_id=st.binary(max_size=8),
    noted=maps,
)


def plainly(event: UsageEvent) -> bytes:
    """Message by message and field by field."""
    message = usage_event_pb2.UsageEvent(
        version=1,
        source=event.gateway_id,
        occurred_at_ms=to_epoch_ms(event.occurred_at),
        received_at_ms=to_epoch_ms(event.received_at),
        status=event.status or 0,
    )
    message.usage.SetInParent()
    for kind in ("input", "output", "cache_read", "cache_creation", "reasoning", "total"):
        if getattr(event.usage, kind) is not None:
            setattr(message.usage, kind, getattr(event.usage, kind))
    for line in event.lines:
        row = message.lines.add(
            meter=line.meter,
            quantity=line.quantity,
            amount_nano=line.amount_nano,
            text_hash=line.text_hash,
            observed=line.observed,
        )
        for name, value in sorted(line.groups.items()):
            row.groups.add(name=name, value=value)
    for name in (
        *("hold_id", "edge", "customer_id", "currency", "price_version", "estimated", "team_id"),
        *("estimate_reason", "user_id", "credential_id", "plan", "route", "model", "request_id"),
        *("duration_ms", "request_bytes", "response_bytes", "client_key"),
    ):
        setattr(message, name, getattr(event, name))
    return message.SerializeToString()


@given(events)
def test_an_event_is_written_as_its_message_and_read_back(event):
    content = event_to_bytes(event)
    assert content == plainly(event)
    assert event_from_bytes(content) == event


@given(terms)
def test_terms_are_read_as_their_constructor_makes_them(hold):
    read = terms_from_payload(terms_to_payload(hold))
    assert read == hold
    assert type(read) is HoldTerms


@pytest.mark.parametrize("changes", [{"bound": "sure"}, {"version": 2}, {"hold_id": "x"}])
def test_terms_that_say_what_is_not_known_are_refused(changes):
    fields = {"version": 1, "hold_id": "0" * 40} | changes
    payload = hold_token_pb2.HoldToken(**fields).SerializeToString()
    with pytest.raises(InvalidInput):
        terms_from_payload(payload)
