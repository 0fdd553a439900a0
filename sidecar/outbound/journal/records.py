"""
What a frame of the journal holds: where a capture stands, and all that repeats it.

The event is the text of the usage stream, so it holds counts and names, never a prompt, a
completion, a credential or a token.
"""

import struct
from dataclasses import dataclass
from typing import Final

from sidecar.domain.errors import InvalidInput, InvariantViolated
from sidecar.domain.holds import QuotaLine
from sidecar.outbound.journal.frames import PAYLOAD_BYTES_MAX
from sidecar.outbound.redis.records import event_from_bytes, event_to_bytes
from sidecar.services.journal_ports import JournalRecord

_HEAD: Final = struct.Struct(">IQQBH")
"""Shard, epoch, seq, who pays, and how many counters follow."""
_INVOICE, _CREDIT, _CREDIT_FIRST = range(3)
_LINE: Final = struct.Struct(">HHq")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a record stands: its shard, and the decision there."""

    shard: int
    epoch: int
    seq: int


def encode_record(record: JournalRecord, shard: int) -> bytes:
    """
    Encode a record.

    Raises:
        InvalidInput: A number leaves 64 bits or a text is not UTF-8.
        InvariantViolated: It is larger than any event that an edge lets in.
    """
    try:
        parts = [
            _HEAD.pack(
                *(shard, record.epoch, record.seq, _who_pays(record), len(record.quota_lines))
            )
        ]
        for line in record.quota_lines:
            field, meter = line.field.encode(), line.meter.encode()
            parts += (_LINE.pack(len(field), len(meter), line.quantity), field, meter)
    except (struct.error, UnicodeEncodeError) as error:
        raise InvalidInput("the capture cannot be encoded for the journal") from error
    payload = b"".join((*parts, event_to_bytes(record.event)))
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise InvariantViolated(f"a journal record of {len(payload)} bytes")
    return payload


def read_standing(payload: bytes) -> Standing:
    """Where a record stands, without the rest of it. Raises InvalidInput."""
    try:
        shard, epoch, seq, _, _ = _HEAD.unpack_from(payload)
    except struct.error as error:
        raise InvalidInput("a journal record is malformed") from error
    return Standing(shard, epoch, seq)


def decode_record(payload: bytes) -> JournalRecord:
    """
    Decode what `encode_record` wrote.

    Raises:
        InvalidInput: It is malformed.
    """
    try:
        _, epoch, seq, payer, count = _HEAD.unpack_from(payload)
        position = _HEAD.size
        lines = []
        for _ in range(count):
            field_bytes, meter_bytes, quantity = _LINE.unpack_from(payload, position)
            position += _LINE.size
            middle = position + field_bytes
            field = payload[position:middle].decode()
            meter = payload[middle : middle + meter_bytes].decode()
            lines.append(QuotaLine(field=field, meter=meter, quantity=quantity))
            position = middle + meter_bytes
    except (struct.error, UnicodeDecodeError) as error:
        raise InvalidInput("a journal record is malformed") from error
    return JournalRecord(
        event=event_from_bytes(payload[position:]),
        quota_lines=tuple(lines),
        prepaid=payer != _INVOICE,
        owes=payer == _CREDIT_FIRST,
        epoch=epoch,
        seq=seq,
    )


def _who_pays(record: JournalRecord) -> int:
    if not record.prepaid:
        return _INVOICE
    return _CREDIT_FIRST if record.owes else _CREDIT
