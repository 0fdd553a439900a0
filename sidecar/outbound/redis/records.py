"""
What is written into Redis and signed into tokens: protobuf messages to domain values and back.

Every reader refuses what it does not understand with InvalidInput, so that a damaged record
can be set aside and never passes for another.
"""

from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound, HoldTerms, QuotaLine, check_hold_id
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.thawing import freeze, thawed
from sidecar.domain.usage import RatedLine, TokenUsage, UsageEvent, token_usage
from sidecar.domain.usage_digests import digest_of
from sidecar.wire import hold_token_pb2 as token_wire
from sidecar.wire import usage_event_pb2 as event_wire

RECORD_VERSION = 1
_OpenEvent, _OpenLine = thawed(UsageEvent), thawed(RatedLine)
_BOUNDS = {"": Bound.PROVEN, **{bound.value: bound for bound in Bound}}


def terms_to_payload(terms: HoldTerms) -> bytes:
    """
    Encode hold terms as a HoldToken: the store keeps it as it is, a token signs what ends it.

    Raises:
        InvalidInput: If a text is not UTF-8 or a number leaves 64 bits.
    """
    return terms_at(terms, terms.decided_at_ms, terms.expires_at_ms)


def terms_at(terms: HoldTerms, decided_at_ms: int, expires_at_ms: int, block_id: str = "") -> bytes:
    """
    The same of terms whose instants, and block, were decided meanwhile; raises as it does.

    What does not change with them is encoded once: for the store, and then for the token.
    """
    if not terms.encoded:
        object.__setattr__(terms, "encoded", _encode(terms))
    if not decided_at_ms and not expires_at_ms:
        return terms.encoded
    try:
        instants = token_wire.HoldToken(
            decided_at_ms=decided_at_ms, expires_at_ms=expires_at_ms, block_id=block_id
        )
        # Fields of a message may stand in any order.
        return terms.encoded + instants.SerializeToString()
    except ValueError as error:
        raise InvalidInput("the hold's instants cannot be encoded") from error


def _encode(terms: HoldTerms) -> bytes:
    """Everything but the instants."""
    try:
        message = token_wire.HoldToken(
            version=RECORD_VERSION,
            gateway_id=terms.gateway_id,
            hold_id=terms.hold_id,
            customer_id=terms.customer_id,
            amount_nano=terms.amount_nano,
            currency=terms.currency,
            price_version=terms.price_version,
            team_id=terms.team_id,
            user_id=terms.user_id,
            credential_id=terms.credential_id,
            plan=terms.plan,
            route=terms.route,
            model=terms.model,
            request_id=terms.request_id,
            policy_version=terms.policy_version,
            bound="" if terms.bound is Bound.PROVEN else terms.bound.value,
            block_id=terms.block_id,
        )
        for meter, quantity in terms.estimate.items():
            message.estimate.add(meter=meter, quantity=quantity)
        for line in terms.quota_lines:
            message.quota_lines.add(field=line.field, meter=line.meter, quantity=line.quantity)
        for name, value in sorted(terms.noted.items()):
            message.noted.add(name=name, value=value)
        return message.SerializeToString()
    except ValueError as error:
        raise InvalidInput("the hold's terms cannot be encoded") from error


def terms_from_payload(payload: bytes) -> HoldTerms:
    """
    Decode what `terms_to_payload` wrote.

    Raises:
        InvalidInput: If it is malformed or of a version that this program does not know.
    """
    try:
        message = token_wire.HoldToken.FromString(payload)
        _check_version(message.version)
        return HoldTerms(
            gateway_id=message.gateway_id,
            hold_id=check_hold_id(message.hold_id),
            customer_id=message.customer_id,
            amount_nano=message.amount_nano,
            currency=message.currency,
            price_version=message.price_version,
            estimate={entry.meter: entry.quantity for entry in message.estimate},
            quota_lines=tuple([_quota_line(line) for line in message.quota_lines]),
            decided_at_ms=message.decided_at_ms,
            expires_at_ms=message.expires_at_ms,
            team_id=message.team_id,
            user_id=message.user_id,
            credential_id=message.credential_id,
            plan=message.plan,
            route=message.route,
            model=message.model,
            request_id=message.request_id,
            policy_version=message.policy_version,
            bound=_BOUNDS[message.bound],
            noted={fact.name: fact.value for fact in message.noted},
            block_id=message.block_id,
        )
    except (DecodeError, ValueError, KeyError) as error:
        raise InvalidInput("a hold's terms are malformed") from error


def _quota_line(line: token_wire.QuotaLine) -> QuotaLine:
    return QuotaLine(field=line.field, meter=line.meter, quantity=line.quantity)


def event_to_bytes(event: UsageEvent) -> bytes:
    """
    Encode a usage event for the stream.

    Raises:
        InvalidInput: If a text is not UTF-8 or a number leaves 64 bits.
    """
    try:
        return event_wire.UsageEvent(
            version=RECORD_VERSION,
            hold_id=event.hold_id,
            source=event.gateway_id,
            edge=event.edge,
            customer_id=event.customer_id,
            currency=event.currency,
            price_version=event.price_version,
            occurred_at_ms=to_epoch_ms(event.occurred_at),
            received_at_ms=to_epoch_ms(event.received_at),
            # As mappings: messages of their own would be made and then copied into this one.
            usage=_told(event.usage),
            lines=[_line_content(line) for line in event.lines],
            estimated=event.estimated,
            estimate_reason=event.estimate_reason,
            team_id=event.team_id,
            user_id=event.user_id,
            credential_id=event.credential_id,
            plan=event.plan,
            route=event.route,
            model=event.model,
            request_id=event.request_id,
            status=event.status or 0,
            duration_ms=event.duration_ms,
            request_bytes=event.request_bytes,
            response_bytes=event.response_bytes,
            client_key=event.client_key,
        ).SerializeToString()
    except ValueError as error:
        raise InvalidInput("the usage event cannot be encoded") from error


def _told(usage: TokenUsage) -> dict[str, int]:
    """The counts that are there."""
    counts: dict[str, int] = {}
    if usage.input is not None:
        counts["input"] = usage.input
    if usage.output is not None:
        counts["output"] = usage.output
    if usage.cache_read is not None:
        counts["cache_read"] = usage.cache_read
    if usage.cache_creation is not None:
        counts["cache_creation"] = usage.cache_creation
    if usage.reasoning is not None:
        counts["reasoning"] = usage.reasoning
    if usage.total is not None:
        counts["total"] = usage.total
    return counts


def _line_content(line: RatedLine) -> dict[str, Any]:
    """A line's fields, for a message; what has its default is left out."""
    content: dict[str, Any] = {
        "meter": line.meter,
        "quantity": line.quantity,
        "amount_nano": line.amount_nano,
    }
    if line.groups:
        content["groups"] = [
            {"name": name, "value": value} for name, value in sorted(line.groups.items())
        ]
    if line.text_hash:
        content["text_hash"] = line.text_hash
    if line.observed:
        content["observed"] = True
    return content


def event_from_bytes(content: bytes) -> UsageEvent:
    """
    Decode what `event_to_bytes` wrote.

    Raises:
        InvalidInput: If it is malformed or of a version that this program does not know.
    """
    try:
        message = event_wire.UsageEvent.FromString(content)
        _check_version(message.version)
        # Settlement decodes each event; see `thawed` for what this form saves.
        event = _OpenEvent()
        event.hold_id = check_hold_id(message.hold_id)
        event.gateway_id = message.source
        event.edge = message.edge
        event.customer_id = message.customer_id
        event.currency = message.currency
        event.price_version = message.price_version
        event.occurred_at = from_epoch_ms(message.occurred_at_ms)
        event.received_at = from_epoch_ms(message.received_at_ms)
        event.usage = _token_usage(message.usage)
        event.lines = tuple([_rated_line(line) for line in message.lines])
        event.estimated = message.estimated
        event.estimate_reason = message.estimate_reason
        event.team_id = message.team_id
        event.user_id = message.user_id
        event.credential_id = message.credential_id
        event.plan = message.plan
        event.route = message.route
        event.model = message.model
        event.request_id = message.request_id
        event.status = message.status or None
        event.duration_ms = message.duration_ms
        event.request_bytes = message.request_bytes
        event.response_bytes = message.response_bytes
        event.client_key = message.client_key
    except (DecodeError, ValueError, OverflowError) as error:
        raise InvalidInput("a usage event is malformed") from error
    return freeze(event, UsageEvent)


def _token_usage(message: event_wire.Usage) -> TokenUsage:
    told = message.HasField
    return token_usage(
        input=message.input if told("input") else None,
        output=message.output if told("output") else None,
        cache_read=message.cache_read if told("cache_read") else None,
        cache_creation=message.cache_creation if told("cache_creation") else None,
        reasoning=message.reasoning if told("reasoning") else None,
        total=message.total if told("total") else None,
    )


def _rated_line(message: event_wire.RatedLine) -> RatedLine:
    line = _OpenLine()
    line.meter = message.meter
    line.quantity = message.quantity
    line.amount_nano = message.amount_nano
    groups = message.groups
    line.groups = {group.name: group.value for group in groups} if groups else {}
    line.text_hash = message.text_hash
    line.observed = message.observed
    return freeze(line, RatedLine)


def usage_digest(event: UsageEvent) -> str:
    """
    Hash what makes two events about one hold say the same: quantities, model, class of status.

    Amounts are left out, because with a running total they depend on the order of events; so
    are times and the edge, because one response is reported over several transports.
    """
    lines = [(line.meter, line.quantity) for line in event.lines]
    return digest_of(lines, event.model, event.status, event.usage)


def at_instants(terms: HoldTerms, decided_at_ms: int, expires_at_ms: int) -> HoldTerms:
    """Terms with the instants that the store decided."""
    return replace(terms, decided_at_ms=decided_at_ms, expires_at_ms=expires_at_ms)


def _check_version(version: int) -> None:
    if version != RECORD_VERSION:
        raise InvalidInput(f"the record has version {version}; known is {RECORD_VERSION}")
