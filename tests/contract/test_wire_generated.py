"""`sidecar/wire` is what `proto/generate.py` makes, and durable numbers stay where they are."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

import sidecar.wire
from sidecar.wire import hold_token_pb2, usage_event_pb2, usage_service_pb2

REPOSITORY = Path(__file__).resolve().parents[2]
WIRE = REPOSITORY / "sidecar" / "wire"
PROTO = REPOSITORY / "proto" / "sidecar" / "wire"

# The tests' own copy: a released number never changes its field or its type.
INT32, INT64, UINT32 = (
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
)
STRING, BYTES, BOOL, MESSAGE = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_MESSAGE,
)
DURABLE = {
    hold_token_pb2.SignedHoldToken: {
        1: ("payload", BYTES),
        2: ("signature", BYTES),
        3: ("key_id", STRING),
    },
    hold_token_pb2.HoldToken: {
        1: ("version", UINT32),
        2: ("key_id", STRING),
        3: ("gateway_id", STRING),
        4: ("hold_id", STRING),
        5: ("customer_id", STRING),
        6: ("amount_nano", INT64),
        7: ("currency", STRING),
        8: ("price_version", STRING),
        9: ("estimate", MESSAGE),
        10: ("quota_lines", MESSAGE),
        11: ("decided_at_ms", INT64),
        12: ("expires_at_ms", INT64),
        16: ("user_id", STRING),
        17: ("credential_id", STRING),
        18: ("plan", STRING),
        19: ("route", STRING),
        20: ("model", STRING),
        21: ("request_id", BYTES),
        22: ("policy_version", STRING),
        23: ("rules", STRING),
        24: ("bound", STRING),
        25: ("team_id", STRING),
    },
    hold_token_pb2.MeterQuantity: {1: ("meter", STRING), 2: ("quantity", INT64)},
    hold_token_pb2.QuotaLine: {
        1: ("field", STRING),
        2: ("meter", STRING),
        3: ("quantity", INT64),
    },
    usage_event_pb2.UsageEvent: {
        1: ("version", UINT32),
        2: ("hold_id", STRING),
        3: ("source", STRING),
        4: ("edge", STRING),
        5: ("customer_id", STRING),
        6: ("currency", STRING),
        7: ("price_version", STRING),
        8: ("occurred_at_ms", INT64),
        9: ("received_at_ms", INT64),
        10: ("usage", MESSAGE),
        11: ("lines", MESSAGE),
        12: ("estimated", BOOL),
        13: ("estimate_reason", STRING),
        16: ("user_id", STRING),
        17: ("credential_id", STRING),
        18: ("plan", STRING),
        19: ("route", STRING),
        20: ("model", STRING),
        21: ("request_id", BYTES),
        22: ("status", INT32),
        23: ("duration_ms", INT64),
        24: ("request_bytes", INT64),
        25: ("response_bytes", INT64),
        26: ("client_key", STRING),
        27: ("team_id", STRING),
    },
    usage_event_pb2.Usage: {
        1: ("input", INT64),
        2: ("output", INT64),
        3: ("cache_read", INT64),
        4: ("cache_creation", INT64),
        5: ("reasoning", INT64),
    },
    usage_event_pb2.RatedLine: {
        1: ("meter", STRING),
        2: ("quantity", INT64),
        3: ("amount_nano", INT64),
    },
}


def test_the_committed_modules_are_what_the_generator_writes(tmp_path):
    subprocess.run(
        [sys.executable, str(REPOSITORY / "proto" / "generate.py"), "--out", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    made = {path.name: path.read_bytes() for path in (tmp_path / "sidecar" / "wire").iterdir()}
    committed = {path.name: path.read_bytes() for path in WIRE.glob("*_pb2.py*")}
    assert sorted(committed) == sorted(made)
    differing = [name for name in made if made[name] != committed[name]]
    assert differing == [], "run `python proto/generate.py`"


def test_every_message_file_has_its_module_and_its_stub():
    expected = {
        f"{proto.stem}_pb2.{suffix}" for proto in PROTO.glob("*.proto") for suffix in ("py", "pyi")
    }
    assert {path.name for path in WIRE.iterdir() if path.is_file()} == expected | {"__init__.py"}
    assert len(expected) == 20


def test_every_module_imports_by_its_full_name():
    names = {module.name for module in pkgutil.iter_modules(sidecar.wire.__path__)}
    for name in names:
        module = importlib.import_module(f"sidecar.wire.{name}")
        file_name = f"sidecar/wire/{name.removesuffix('_pb2')}.proto"
        assert module.DESCRIPTOR.name == file_name
        assert module.DESCRIPTOR.package.startswith(("sidecar.v1", "sidecar.twin."))


@pytest.mark.parametrize("message", DURABLE, ids=lambda message: message.DESCRIPTOR.name)
def test_durable_numbers_keep_their_field_and_type(message):
    fields = {field.number: (field.name, field.type) for field in message.DESCRIPTOR.fields}
    for number, field in DURABLE[message].items():
        assert fields.get(number) == field


def _messages_of(descriptor: Descriptor) -> list[Descriptor]:
    return [descriptor, *(d for nested in descriptor.nested_types for d in _messages_of(nested))]


def test_no_message_of_ours_holds_a_float():
    floats = {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}
    for module in (hold_token_pb2, usage_event_pb2, usage_service_pb2):
        for top in module.DESCRIPTOR.message_types_by_name.values():
            for message in _messages_of(top):
                assert [f.full_name for f in message.fields if f.type in floats] == []


def test_amounts_beyond_what_a_double_holds_survive():
    amount_nano = 2**53 + 1
    token = hold_token_pb2.HoldToken(amount_nano=amount_nano, decided_at_ms=1_795_180_797_186)
    again = hold_token_pb2.HoldToken.FromString(token.SerializeToString())
    assert (again.amount_nano, again.decided_at_ms) == (amount_nano, 1_795_180_797_186)
    line = usage_event_pb2.RatedLine(meter="input-tokens", quantity=1, amount_nano=-amount_nano)
    event = usage_event_pb2.UsageEvent(lines=[line])
    again = usage_event_pb2.UsageEvent.FromString(event.SerializeToString())
    assert again.lines[0].amount_nano == -amount_nano


def test_a_count_that_was_not_reported_differs_from_a_count_of_zero():
    usage = usage_event_pb2.Usage(input=0)
    again = usage_event_pb2.Usage.FromString(usage.SerializeToString())
    assert again.HasField("input")
    assert not again.HasField("output")


def test_the_signature_covers_the_bytes_that_came_even_with_fields_of_a_newer_version():
    newer = hold_token_pb2.HoldToken(version=1, hold_id="a" * 40).SerializeToString()
    newer += b"\xc2\x02\x03new"  # Field 40, unknown to this version.
    signed = hold_token_pb2.SignedHoldToken(payload=newer, signature=b"\x00\xff", key_id="k1")
    again = hold_token_pb2.SignedHoldToken.FromString(signed.SerializeToString())
    assert again.payload == newer
    assert hold_token_pb2.HoldToken.FromString(again.payload).hold_id == "a" * 40


def test_the_usage_service_has_the_name_that_callers_dial():
    service = usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"]
    (method,) = service.methods
    assert (service.full_name, method.name) == ("sidecar.v1.UsageService", "Ingest")
    assert method.input_type is usage_service_pb2.IngestRequest.DESCRIPTOR
    assert method.output_type is usage_service_pb2.IngestResponse.DESCRIPTOR


def test_an_ingest_event_says_in_exactly_one_way_what_it_settles():
    event = usage_service_pb2.IngestEvent(hold_id=b"a" * 40)
    event.unheld.customer_id = b"cus_1"
    assert event.WhichOneof("subject") == "unheld"
    assert event.hold_id == b""
