"""One client must not be able to spoil a batch, and other copies of the messages must not clash."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError

from sidecar.wire import envoy_access_log_pb2 as access_log
from sidecar.wire import envoy_authz_pb2 as authz
from sidecar.wire import envoy_core_pb2 as core
from sidecar.wire import envoy_rate_limit_pb2 as rate_limit
from sidecar.wire import envoy_token_usage_pb2 as token_usage
from sidecar.wire import grpc_health_pb2 as health
from sidecar.wire import otlp_logs_pb2 as otlp
from sidecar.wire import usage_service_pb2 as ingest

BAD = b"caf\xe9\xff\x00"
READ = (
    authz.CheckRequest,
    access_log.StreamAccessLogsMessage,
    rate_limit.RateLimitRequest,
    otlp.ExportLogsServiceRequest,
    token_usage.TokenUsage,
    health.HealthCheckRequest,
    ingest.IngestRequest,
    core.Struct,
    core.ListValue,
    otlp.KeyValueList,
    otlp.ArrayValue,
)
CLASH = """
import warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)
from google.protobuf import descriptor_pb2, descriptor_pool

ORIGINALS = {
    "envoy/service/auth/v3/external_auth.proto": ("envoy.service.auth.v3", "CheckRequest"),
    "envoy/service/accesslog/v3/als.proto": (
        "envoy.service.accesslog.v3", "StreamAccessLogsMessage"),
    "envoy/service/ratelimit/v3/rls.proto": ("envoy.service.ratelimit.v3", "RateLimitRequest"),
    "envoy/data/ai/v3/token_usage.proto": ("envoy.data.ai.v3", "TokenUsage"),
    "opentelemetry/proto/collector/logs/v1/logs_service.proto": (
        "opentelemetry.proto.collector.logs.v1", "ExportLogsServiceRequest"),
    "grpc/health/v1/health.proto": ("grpc.health.v1", "HealthCheckRequest"),
    "grpc_health/v1/health.proto": ("grpc.health.v1.other", "HealthCheckRequest"),
}

def register():
    for name, (package, message) in ORIGINALS.items():
        file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
        file.message_type.add(name=message)
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())

def ours():
    import importlib, pkgutil, sidecar.wire
    for module in pkgutil.iter_modules(sidecar.wire.__path__):
        importlib.import_module("sidecar.wire." + module.name)

def theirs():
    import envoy_data_plane.envoy.service.accesslog.v3
    import envoy_data_plane.envoy.service.auth.v3
    import envoy_data_plane.envoy.service.ratelimit.v3
    import envoy_data_plane.opentelemetry.proto.common.v1

for step in (ORDER):
    step()
from sidecar.wire import envoy_authz_pb2
found = descriptor_pool.Default().FindMessageTypeByName("envoy.service.auth.v3.CheckRequest")
assert found is not envoy_authz_pb2.CheckRequest.DESCRIPTOR
print("together")
"""


def _text_fields(descriptor: Descriptor, seen: set[str]) -> list[str]:
    if descriptor.full_name in seen or descriptor.full_name.startswith("google.protobuf."):
        return []
    seen.add(descriptor.full_name)
    found = []
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            found.append(field.full_name)
        if field.message_type is not None:
            found.extend(_text_fields(field.message_type, seen))
    return found


def _depth(descriptor: Descriptor, above: tuple[str, ...] = ()) -> int:
    assert descriptor.full_name not in above, f"{descriptor.full_name} contains itself"
    below = [field.message_type for field in descriptor.fields if field.message_type is not None]
    return 1 + max((_depth(each, (*above, descriptor.full_name)) for each in below), default=0)


@pytest.mark.parametrize("message", READ, ids=lambda message: message.DESCRIPTOR.full_name)
def test_nothing_that_is_read_holds_a_text_that_a_client_can_influence(message):
    written_by_the_operator = "sidecar.twin.envoy.auth.v3.AttributeContext.ContextExtensionsEntry"
    found = _text_fields(message.DESCRIPTOR, set())
    assert [name for name in found if not name.startswith(written_by_the_operator)] == []


@pytest.mark.parametrize("message", READ, ids=lambda message: message.DESCRIPTOR.full_name)
def test_nothing_that_is_read_can_be_nested_without_end(message):
    assert _depth(message.DESCRIPTOR) <= 12


def test_the_decoder_is_the_strict_and_fast_one():
    assert api_implementation.Type() == "upb"


def test_a_header_that_is_not_utf8_does_not_spoil_a_check():
    request = authz.CheckRequest()
    http = request.attributes.request.http
    http.path, http.method, http.host, http.body = BAD, b"POST", BAD, BAD
    http.headers.add(key=BAD, value=BAD)
    http.header_map.headers.add(key=b"x", raw_value=BAD)
    request.attributes.source.principal = BAD
    again = authz.CheckRequest.FromString(request.SerializeToString()).attributes
    assert (again.request.http.path, again.source.principal) == (BAD, BAD)
    assert (again.request.http.headers[0].key, again.request.http.headers[0].value) == (BAD, BAD)


def test_a_repeated_header_stays_visible():
    http = authz.AttributeContext.HttpRequest()
    http.headers.add(key=b"x-api-key", value=b"one")
    http.headers.add(key=b"x-api-key", value=b"two")
    again = authz.AttributeContext.HttpRequest.FromString(http.SerializeToString())
    assert [row.value for row in again.headers] == [b"one", b"two"]


def test_an_otlp_attribute_that_is_not_utf8_does_not_spoil_its_neighbours():
    request = otlp.ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add().attributes.add(key=BAD).value.string_value = BAD
    records.add().attributes.add(key=b"hold_id").value.string_value = b"h-1"
    again = otlp.ExportLogsServiceRequest.FromString(request.SerializeToString())
    bad, good = again.resource_logs[0].scope_logs[0].log_records
    assert (bad.attributes[0].key, bad.attributes[0].value.string_value) == (BAD, BAD)
    assert good.attributes[0].value.string_value == b"h-1"


def _batch(struct: bytes) -> bytes:
    """Two access-log entries; the first carries this encoded Struct, the second is a neighbour."""
    message = access_log.StreamAccessLogsMessage()
    spoiled = message.http_logs.log_entry.add().common_properties
    spoiled.metadata.filter_metadata.add(key=b"ns").value.MergeFromString(struct)
    spoiled.custom_tags.add(key=BAD, value=BAD)
    message.http_logs.log_entry.add().common_properties.stream_id = b"neighbour"
    return message.SerializeToString()


def test_metadata_that_is_not_utf8_does_not_spoil_its_neighbours():
    field = core.StructField(key=BAD, value=core.Value(string_value=BAD))
    raw = _batch(core.Struct(fields=[field]).SerializeToString())
    spoiled, neighbour = access_log.StreamAccessLogsMessage.FromString(raw).http_logs.log_entry
    (found,) = spoiled.common_properties.metadata.filter_metadata[0].value.fields
    assert (found.key, found.value.string_value) == (BAD, BAD)
    assert neighbour.common_properties.stream_id == b"neighbour"
    with pytest.raises(DecodeError):
        struct_pb2.Struct.FromString(core.Struct(fields=[field]).SerializeToString())


def _nested(levels: int) -> bytes:
    """Encode a Struct of so many levels, as a client's deep JSON would make it."""
    struct = core.Struct()
    for _ in range(levels):
        outer = core.Struct()
        outer.fields.add(key=b"a").value.struct_value = struct.SerializeToString()
        struct = outer
    return struct.SerializeToString()


def test_deep_metadata_does_not_spoil_its_neighbours():
    deep = _nested(1000)
    spoiled, neighbour = access_log.StreamAccessLogsMessage.FromString(
        _batch(deep)
    ).http_logs.log_entry
    value = spoiled.common_properties.metadata.filter_metadata[0].value.fields[0].value
    assert value.WhichOneof("kind") == "struct_value"
    assert neighbour.common_properties.stream_id == b"neighbour"
    with pytest.raises(DecodeError):
        struct_pb2.Struct.FromString(deep)


def test_a_deep_otlp_value_does_not_spoil_its_neighbours():
    value = otlp.AnyValue(string_value=b"end")
    for _ in range(1000):
        nested = otlp.ArrayValue(values=[value])
        value = otlp.AnyValue(array_value=nested.SerializeToString())
    request = otlp.ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add(body=value)
    records.add().attributes.add(key=b"hold_id").value.string_value = b"h-1"
    again = otlp.ExportLogsServiceRequest.FromString(request.SerializeToString())
    assert again.resource_logs[0].scope_logs[0].log_records[1].attributes[0].key == b"hold_id"


def test_an_ingested_text_that_is_not_utf8_does_not_spoil_its_neighbours():
    request = ingest.IngestRequest()
    request.events.add(model=BAD).unheld.id = BAD
    request.events.add(hold_id=b"a" * 40)
    again = ingest.IngestRequest.FromString(request.SerializeToString())
    assert [event.WhichOneof("subject") for event in again.events] == ["unheld", "hold_id"]
    assert again.events[0].model == BAD


@pytest.mark.parametrize("text", ["\udcff", BAD])
def test_what_is_written_refuses_text_that_is_not_utf8(text):
    with pytest.raises((UnicodeError, ValueError)):
        authz.CheckResponse().denied_response.body = text


def test_cut_bytes_are_refused_as_a_decode_error():
    with pytest.raises(DecodeError):
        authz.CheckRequest.FromString(b"\x0a\x05\x01")


@pytest.mark.parametrize("order", ["register, theirs, ours", "ours, theirs, register"])
def test_other_copies_of_the_messages_live_in_the_same_process(order):
    done = subprocess.run(
        [sys.executable, "-c", CLASH.replace("ORDER", order)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "together\n"), done.stderr
