"""Entries of a shard's stream to records; whatever cannot be read is one for quarantine."""

import base64
from collections.abc import Mapping
from functools import lru_cache

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import GrantKind, Movement
from sidecar.domain.thawing import freeze, thawed
from sidecar.domain.usage import EventKind
from sidecar.outbound.redis.keys import quota_field
from sidecar.outbound.redis.records import event_from_bytes
from sidecar.services.control_ports import (
    CLAIM,
    AnyRecord,
    SetAsideRecord,
    StreamRecord,
    UnreadableRecord,
)

QUARANTINE_KIND = b"quarantine"
"""Kind of an entry that is no decision: usage that waits for people."""
STREAM_VERSION = b"1"
_OpenRecord, _OpenMovement = thawed(StreamRecord), thawed(Movement)
_known_field = lru_cache(maxsize=1_024)(quota_field)
"""Most records of a batch move the same counters."""
_WRITTEN = b"v k id c cur amt held ov avail at pre late pv ev mv gk wid qt seq ep".split()
"""Names of a decision's fields, in the order in which the scripts write them."""
_LATER = frozenset([b"pv", b"qt"])
"""Those without which a record is readable."""


def read_entry(entry_id: bytes, flat: list[bytes]) -> AnyRecord:
    """Decode one stream entry (id, then names and values in turn); never raises."""
    try:
        return _parse_entry(entry_id.decode(), flat)
    except (InvalidInput, ValueError, KeyError) as error:
        problem = f"no field {error}" if isinstance(error, KeyError) else str(error)
        return UnreadableRecord(
            entry_id=entry_id.decode(), fields=_printable(_fields(flat)), problem=problem[:200]
        )


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=False))


def _parse_entry(entry_id: str, flat: list[bytes]) -> StreamRecord | SetAsideRecord:
    if flat[::2] == _WRITTEN:
        # As the scripts write nearly all: no look-ups by name.
        return _parse_decision(entry_id, flat[1::2], None)
    fields = _fields(flat)
    if fields[b"v"] == STREAM_VERSION and fields[b"k"] == QUARANTINE_KIND:
        return SetAsideRecord(
            entry_id=entry_id,
            key=fields[b"id"].decode(),
            reason=fields[b"reason"].decode(),
            payload=fields[b"payload"].decode(),
        )
    values = [fields.get(name, b"") if name in _LATER else fields[name] for name in _WRITTEN]
    return _parse_decision(entry_id, values, fields.get(b"owe"))


def _parse_decision(entry_id: str, values: list[bytes], owed: bytes | None) -> StreamRecord:
    """A decision by its values, in the order of _WRITTEN."""
    (
        version,
        raw_kind,
        raw_identity,
        raw_customer,
        currency,
        amount,
        held,
        overage,
        available,
        decided_at,
        prepaid,
        late,
        _,
        content,
        moved,
        grant_kind,
        withdrawal,
        counted,
        seq,
        epoch,
    ) = values
    if version != STREAM_VERSION:
        raise InvalidInput("the record's version is unknown")
    kind, is_grant = _read_kind(raw_kind)
    identity, customer_id = raw_identity.decode(), raw_customer.decode()
    event = None if is_grant else event_from_bytes(content)
    if event is not None and (event.hold_id != identity or event.customer_id != customer_id):
        raise InvalidInput("the record and its event name different holds")
    if not identity or not customer_id:
        raise InvalidInput("the record names nobody")
    record = _OpenRecord()
    record.entry_id = entry_id
    record.kind = kind
    record.customer_id = customer_id
    record.currency = currency.decode()
    record.amount_nano = int(amount)
    record.overage_nano = int(overage)
    record.prepaid = _flag(prepaid)
    record.decided_at_ms = int(decided_at)
    record.hold_id = "" if is_grant else identity
    record.grant_id = identity if is_grant else ""
    record.held_nano = int(held)
    record.available_nano = int(available)
    record.late = _flag(late)
    record.event = event
    record.movements = _movements(moved)
    record.grant_kind = GrantKind(grant_kind.decode()) if is_grant else GrantKind.PAID
    record.withdrawal_id = withdrawal.decode()
    record.epoch = int(epoch)
    record.seq = int(seq)
    record.counted = _counted(counted)
    record.owed = None if owed is None else _owed(owed)
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
