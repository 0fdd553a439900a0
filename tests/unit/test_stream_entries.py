"""Entries of a stream: however their fields stand, the record is the same."""

from random import Random

from fixtures.stream_records import usage_record
from hypothesis import given
from hypothesis import strategies as st

from sidecar.outbound.redis.entries import read_entry
from sidecar.outbound.redis.records import event_to_bytes
from sidecar.services.control_ports import StreamRecord, UnreadableRecord


def fields_of(record: StreamRecord, **changes: bytes) -> dict[bytes, bytes]:
    """As the scripts write a capture, in their order."""
    moves = "\n".join(f"{one.grant_id} {one.amount_nano}" for one in record.movements)
    fields = {
        "v": b"1",
        "k": record.kind.encode(),
        "id": record.hold_id.encode(),
        "c": record.customer_id.encode(),
        "cur": record.currency.encode(),
        "amt": str(record.amount_nano).encode(),
        "held": str(record.held_nano).encode(),
        "ov": str(record.overage_nano).encode(),
        "avail": str(record.available_nano).encode(),
        "at": str(record.decided_at_ms).encode(),
        "pre": b"1" if record.prepaid else b"0",
        "late": b"0",
        "pv": b"",
        "ev": event_to_bytes(record.event),
        "mv": moves.encode(),
        "gk": b"",
        "wid": b"",
        "qt": b"",
        "seq": str(record.seq).encode(),
        "ep": str(record.epoch).encode(),
    }
    return {name.encode(): value for name, value in (fields | changes).items()}


def read(record: StreamRecord, fields: dict[bytes, bytes]):
    return read_entry(record.entry_id.encode(), [part for pair in fields.items() for part in pair])


@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_fields_does_not_matter(dice: Random, prepaid):
    record = usage_record(1, prepaid=prepaid, epoch=3, seq=9)
    fields = fields_of(record)
    shuffled = list(fields.items())
    dice.shuffle(shuffled)
    assert read(record, fields) == record
    assert read(record, dict(shuffled)) == record


def test_an_entry_of_before_counters_is_read():
    record = usage_record(1)
    fields = fields_of(record)
    del fields[b"qt"], fields[b"pv"]
    assert read(record, fields) == record


def test_what_is_owed_stands_behind_the_rest():
    record = usage_record(1, prepaid=True)
    found = read(record, fields_of(record, owe=b"output-tokens 7"))
    assert found.owed == (("output-tokens", 7),)


def test_an_entry_that_cannot_be_read_keeps_its_fields():
    record = usage_record(1)
    for name, value in (("v", b"2"), ("late", b"yes"), ("id", b"another"), ("ev", b"\xff")):
        found = read(record, fields_of(record, **{name: value}))
        assert isinstance(found, UnreadableRecord), name
        assert set(found.fields) == {part.decode() for part in fields_of(record)}
    missing = fields_of(record)
    del missing[b"amt"]
    assert read(record, missing).problem == "no field b'amt'"
