"""
What is written into Redis and signed into tokens: protobuf messages to domain values and back.

Every reader refuses what it does not understand with InvalidInput, so that a damaged record
can be set aside and never passes for another.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from google.protobuf.message import DecodeError

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import GrantKind, Movement
from sidecar.domain.holds import Bound, HoldTerms, QuotaLine, check_hold_id
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.usage import EventKind, RatedLine, TokenUsage, UsageEvent
from sidecar.domain.usage_digests import digest_of
from sidecar.outbound.redis.keys import quota_field
from sidecar.outbound.redis.thawing import freeze, thawed
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
_OpenEvent, _OpenLine = thawed(UsageEvent), thawed(RatedLine)
_OpenTokenUsage, _OpenRecord = thawed(TokenUsage), thawed(StreamRecord)
_OpenMovement = thawed(Movement)
_known_field = lru_cache(maxsize=1_024)(quota_field)
"""Most records of a batch move the same counters."""
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
    usage = _OpenTokenUsage()
    usage.input = message.input if told("input") else None
    usage.output = message.output if told("output") else None
    usage.cache_read = message.cache_read if told("cache_read") else None
    usage.cache_creation = message.cache_creation if told("cache_creation") else None
    usage.reasoning = message.reasoning if told("reasoning") else None
    usage.total = message.total if told("total") else None
    frozen = freeze(usage, TokenUsage)
    frozen.__post_init__()
    return frozen


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
    kind, is_grant = _read_kind(fields[b"k"])
    identity, customer_id = fields[b"id"].decode(), fields[b"c"].decode()
    event = None if is_grant else event_from_bytes(fields[b"ev"])
    if event is not None and (event.hold_id, event.customer_id) != (identity, customer_id):
        raise InvalidInput("the record and its event name different holds")
    if not identity or not customer_id:
        raise InvalidInput("the record names nobody")
    record = _OpenRecord()
    record.entry_id = entry_id
    record.kind = kind
    record.customer_id = customer_id
    record.currency = fields[b"cur"].decode()
    record.amount_nano = int(fields[b"amt"])
    record.overage_nano = int(fields[b"ov"])
    record.prepaid = _flag(fields[b"pre"])
    record.decided_at_ms = int(fields[b"at"])
    record.hold_id = "" if is_grant else identity
    record.grant_id = identity if is_grant else ""
    record.held_nano = int(fields[b"held"])
    record.available_nano = int(fields[b"avail"])
    record.late = _flag(fields[b"late"])
    record.event = event
    record.movements = _movements(fields[b"mv"])
    record.grant_kind = GrantKind(fields[b"gk"].decode()) if is_grant else GrantKind.PAID
    record.withdrawal_id = fields[b"wid"].decode()
    record.epoch = int(fields[b"ep"])
    record.seq = int(fields[b"seq"])
    record.counted = _counted(fields.get(b"qt", b""))
    record.owed = _owed(fields[b"owe"]) if b"owe" in fields else None
    return freeze(record, StreamRecord)


@lru_cache(maxsize=1_024)
def _read_kind(raw: bytes) -> tuple[str, bool]:
    """The kind, and whether it is of a grant."""
    kind = raw.decode()
    name, _, number = kind.partition(":")
    is_correction = name != CLAIM and EventKind(name) is EventKind.CORRECTION
    if is_correction != number.isdecimal():
        raise InvalidInput("the record's kind is malformed")
    return kind, name != CLAIM and EventKind(name).of_grant


def _owed(text: bytes) -> tuple[tuple[str, int], ...]:
    """What is owed more of each meter, from lines of a meter and nano."""
    parts = [line.rpartition(" ") for line in text.decode().splitlines()]
    return tuple((meter, int(nano)) for meter, _, nano in parts)


def _counted(text: bytes) -> tuple[tuple[str, int], ...]:
    """Fields of counters and by how much they were moved, from lines that take turns."""
    if not text:
        return ()
    parts = text.decode().split("\n")
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return tuple([(_known_field(field), int(moved)) for field, moved in pairs])


def _movements(text: bytes) -> tuple[Movement, ...]:
    if not text:
        return ()
    return tuple([_movement(line) for line in text.decode().splitlines()])


def _movement(line: str) -> Movement:
    name, _, amount = line.rpartition(" ")
    movement = _OpenMovement()
    movement.grant_id = name
    movement.amount_nano = int(amount)
    return freeze(movement, Movement)


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
