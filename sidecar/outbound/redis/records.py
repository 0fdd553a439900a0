"""
What is written into Redis and signed into tokens: protobuf messages to domain values and back.

Every reader refuses what it does not understand with InvalidInput, so that a damaged record
can be set aside and never passes for another.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace

from google.protobuf.message import DecodeError

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import GrantKind, Movement
from sidecar.domain.holds import Bound, HoldTerms, QuotaLine, check_hold_id
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.usage import EventKind, RatedLine, TokenUsage, UsageEvent
from sidecar.domain.usage_digests import digest_of
from sidecar.outbound.redis.keys import quota_field
from sidecar.services.control_ports import (
    CLAIM,
    AnyRecord,
    SetAsideRecord,
    StreamRecord,
    UnreadableRecord,
)
from sidecar.wire import hold_token_pb2 as token_wire
from sidecar.wire import usage_event_pb2 as event_wire

RECORD_VERSION = 1
QUARANTINE_KIND = b"quarantine"
"""Kind of an entry that is no decision: usage that waits for people."""
STREAM_VERSION = b"1"
_USAGE_KINDS = ("input", "output", "cache_read", "cache_creation", "reasoning", "total")


def terms_to_payload(terms: HoldTerms) -> bytes:
    """
    Encode hold terms as a HoldToken: the store keeps it as it is, a token signs what ends it.

    Raises:
        InvalidInput: If a text is not UTF-8 or a number leaves 64 bits.
    """
    try:
        message = token_wire.HoldToken(
            version=RECORD_VERSION,
            gateway_id=terms.gateway_id,
            hold_id=terms.hold_id,
            customer_id=terms.customer_id,
            amount_nano=terms.amount_nano,
            currency=terms.currency,
            price_version=terms.price_version,
            decided_at_ms=terms.decided_at_ms,
            expires_at_ms=terms.expires_at_ms,
            team_id=terms.team_id,
            user_id=terms.user_id,
            credential_id=terms.credential_id,
            plan=terms.plan,
            route=terms.route,
            model=terms.model,
            request_id=terms.request_id,
            policy_version=terms.policy_version,
            bound="" if terms.bound is Bound.PROVEN else terms.bound.value,
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
            quota_lines=tuple(
                QuotaLine(field=line.field, meter=line.meter, quantity=line.quantity)
                for line in message.quota_lines
            ),
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
            bound=Bound(message.bound or Bound.PROVEN.value),
            noted={fact.name: fact.value for fact in message.noted},
        )
    except (DecodeError, ValueError) as error:
        raise InvalidInput("a hold's terms are malformed") from error


def event_to_bytes(event: UsageEvent) -> bytes:
    """
    Encode a usage event for the stream.

    Raises:
        InvalidInput: If a text is not UTF-8 or a number leaves 64 bits.
    """
    usage = {kind: getattr(event.usage, kind) for kind in _USAGE_KINDS}
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
            usage=event_wire.Usage(**{k: v for k, v in usage.items() if v is not None}),
            lines=[
                event_wire.RatedLine(
                    meter=line.meter,
                    quantity=line.quantity,
                    amount_nano=line.amount_nano,
                    groups=[
                        event_wire.GroupValue(name=name, value=value)
                        for name, value in sorted(line.groups.items())
                    ],
                    text_hash=line.text_hash,
                    observed=line.observed,
                )
                for line in event.lines
            ],
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


def event_from_bytes(content: bytes) -> UsageEvent:
    """
    Decode what `event_to_bytes` wrote.

    Raises:
        InvalidInput: If it is malformed or of a version that this program does not know.
    """
    try:
        message = event_wire.UsageEvent.FromString(content)
        _check_version(message.version)
        return UsageEvent(
            hold_id=check_hold_id(message.hold_id),
            gateway_id=message.source,
            edge=message.edge,
            customer_id=message.customer_id,
            currency=message.currency,
            price_version=message.price_version,
            occurred_at=from_epoch_ms(message.occurred_at_ms),
            received_at=from_epoch_ms(message.received_at_ms),
            usage=TokenUsage(
                **{
                    kind: getattr(message.usage, kind)
                    for kind in _USAGE_KINDS
                    if message.usage.HasField(kind)
                }
            ),
            lines=tuple(
                RatedLine(
                    meter=line.meter,
                    quantity=line.quantity,
                    amount_nano=line.amount_nano,
                    groups={group.name: group.value for group in line.groups},
                    text_hash=line.text_hash,
                    observed=line.observed,
                )
                for line in message.lines
            ),
            estimated=message.estimated,
            estimate_reason=message.estimate_reason,
            team_id=message.team_id,
            user_id=message.user_id,
            credential_id=message.credential_id,
            plan=message.plan,
            route=message.route,
            model=message.model,
            request_id=message.request_id,
            status=message.status or None,
            duration_ms=message.duration_ms,
            request_bytes=message.request_bytes,
            response_bytes=message.response_bytes,
            client_key=message.client_key,
        )
    except (DecodeError, ValueError, OverflowError) as error:
        raise InvalidInput("a usage event is malformed") from error


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


def read_entry(entry_id: bytes, flat: list[bytes]) -> AnyRecord:
    """Decode one stream entry (id, then names and values in turn); never raises."""
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    try:
        return _parse_entry(entry_id.decode(), fields)
    except (InvalidInput, ValueError, KeyError) as error:
        problem = f"no field {error}" if isinstance(error, KeyError) else str(error)
        return UnreadableRecord(
            entry_id=entry_id.decode(), fields=_printable(fields), problem=problem[:200]
        )


def _parse_entry(entry_id: str, fields: Mapping[bytes, bytes]) -> StreamRecord | SetAsideRecord:
    if fields[b"v"] != STREAM_VERSION:
        raise InvalidInput("the record's version is unknown")
    if fields[b"k"] == QUARANTINE_KIND:
        return SetAsideRecord(
            entry_id=entry_id,
            key=fields[b"id"].decode(),
            reason=fields[b"reason"].decode(),
            payload=fields[b"payload"].decode(),
        )
    return _parse_decision(entry_id, fields)


def _parse_decision(entry_id: str, fields: Mapping[bytes, bytes]) -> StreamRecord:
    kind = fields[b"k"].decode()
    name, _, number = kind.partition(":")
    is_correction = name != CLAIM and EventKind(name) is EventKind.CORRECTION
    if is_correction != number.isdecimal():
        raise InvalidInput("the record's kind is malformed")
    is_grant = name != CLAIM and EventKind(name).of_grant
    identity, customer_id = fields[b"id"].decode(), fields[b"c"].decode()
    event = None if is_grant else event_from_bytes(fields[b"ev"])
    if event is not None and (event.hold_id, event.customer_id) != (identity, customer_id):
        raise InvalidInput("the record and its event name different holds")
    if not identity or not customer_id:
        raise InvalidInput("the record names nobody")
    return StreamRecord(
        entry_id=entry_id,
        kind=kind,
        customer_id=customer_id,
        currency=fields[b"cur"].decode(),
        amount_nano=int(fields[b"amt"]),
        overage_nano=int(fields[b"ov"]),
        prepaid=_flag(fields[b"pre"]),
        decided_at_ms=int(fields[b"at"]),
        hold_id="" if is_grant else identity,
        grant_id=identity if is_grant else "",
        held_nano=int(fields[b"held"]),
        available_nano=int(fields[b"avail"]),
        late=_flag(fields[b"late"]),
        event=event,
        movements=_movements(fields[b"mv"]),
        grant_kind=GrantKind(fields[b"gk"].decode()) if is_grant else GrantKind.PAID,
        withdrawal_id=fields[b"wid"].decode(),
        epoch=int(fields[b"ep"]),
        seq=int(fields[b"seq"]),
        counted=_counted(fields.get(b"qt", b"")),
    )


def _counted(text: bytes) -> tuple[tuple[str, int], ...]:
    """Fields of counters and by how much they were moved, from lines that take turns."""
    parts = text.decode().split("\n") if text else []
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return tuple((quota_field(field), int(moved)) for field, moved in pairs)


def _movements(text: bytes) -> tuple[Movement, ...]:
    moves = [line.rpartition(" ") for line in text.decode().splitlines()]
    return tuple(Movement(grant_id=name, amount_nano=int(amount)) for name, _, amount in moves)


def _flag(text: bytes) -> bool:
    if text not in (b"0", b"1"):
        raise InvalidInput("the record has a flag that is neither 0 nor 1")
    return text == b"1"


def _printable(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Fields as text for people and for a later retry; the event, which is binary, as base64."""
    return {
        name.decode(errors="backslashreplace"): base64.b64encode(value).decode()
        if name == b"ev"
        else value.decode(errors="backslashreplace")
        for name, value in fields.items()
    }


def _check_version(version: int) -> None:
    if version != RECORD_VERSION:
        raise InvalidInput(f"the record has version {version}; known is {RECORD_VERSION}")
