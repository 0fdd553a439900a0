"""Numbers, names and wire types of the twins against those of the originals.

The originals are envoy-data-plane's classes (betterproto) and protobuf's own messages.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from sidecar.wire import envoy_access_log_pb2 as access_log
from sidecar.wire import envoy_authz_pb2 as authz
from sidecar.wire import envoy_core_pb2 as core
from sidecar.wire import envoy_rate_limit_pb2 as rate_limit
from sidecar.wire import envoy_token_usage_pb2 as token_usage
from sidecar.wire import grpc_health_pb2 as health
from sidecar.wire import otlp_logs_pb2 as otlp

with warnings.catch_warnings():
    # envoy-data-plane's classes use a form of pydantic validators that is on its way out.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from envoy_data_plane.envoy.config.core import v3 as their_core
    from envoy_data_plane.envoy.data.accesslog import v3 as their_data
    from envoy_data_plane.envoy.extensions.common.ratelimit import v3 as their_descriptors
    from envoy_data_plane.envoy.service.accesslog import v3 as their_logs
    from envoy_data_plane.envoy.service.auth import v3 as their_auth
    from envoy_data_plane.envoy.service.ratelimit import v3 as their_limits
    from envoy_data_plane.envoy.type import v3 as their_types
    from envoy_data_plane.google.rpc import Status as TheirStatus
    from envoy_data_plane.opentelemetry.proto.common import v1 as their_otlp

DATA = Path(__file__).resolve().parents[1] / "data" / "envoy"

# Twin and original, for every message that envoy-data-plane has.
ORIGINALS = {
    core.Header: their_core.HeaderValue,
    core.Address: their_core.Address,
    core.SocketAddress: their_core.SocketAddress,
    core.Metadata: their_core.Metadata,
    authz.CheckRequest: their_auth.CheckRequest,
    authz.AttributeContext: their_auth.AttributeContext,
    authz.AttributeContext.Peer: their_auth.AttributeContextPeer,
    authz.AttributeContext.Request: their_auth.AttributeContextRequest,
    authz.AttributeContext.HttpRequest: their_auth.AttributeContextHttpRequest,
    authz.AttributeContext.HeaderMap: their_core.HeaderMap,
    authz.CheckResponse: their_auth.CheckResponse,
    authz.Status: TheirStatus,
    authz.HttpStatus: their_types.HttpStatus,
    authz.DeniedHttpResponse: their_auth.DeniedHttpResponse,
    authz.OkHttpResponse: their_auth.OkHttpResponse,
    authz.HeaderValueOption: their_core.HeaderValueOption,
    authz.HeaderValue: their_core.HeaderValue,
    authz.QueryParameter: their_core.QueryParameter,
    access_log.StreamAccessLogsMessage: their_logs.StreamAccessLogsMessage,
    access_log.StreamAccessLogsMessage.HttpAccessLogEntries: (
        their_logs.StreamAccessLogsMessageHttpAccessLogEntries
    ),
    access_log.StreamAccessLogsResponse: their_logs.StreamAccessLogsResponse,
    access_log.HttpAccessLogEntry: their_data.HttpAccessLogEntry,
    access_log.AccessLogCommon: their_data.AccessLogCommon,
    access_log.ResponseFlags: their_data.ResponseFlags,
    access_log.ResponseFlags.Unauthorized: their_data.ResponseFlagsUnauthorized,
    access_log.HttpRequestProperties: their_data.HttpRequestProperties,
    access_log.HttpResponseProperties: their_data.HttpResponseProperties,
    rate_limit.RateLimitRequest: their_limits.RateLimitRequest,
    rate_limit.RateLimitDescriptor: their_descriptors.RateLimitDescriptor,
    rate_limit.RateLimitResponse: their_limits.RateLimitResponse,
    rate_limit.RateLimitResponse.DescriptorStatus: their_limits.RateLimitResponseDescriptorStatus,
    rate_limit.HeaderValue: their_core.HeaderValue,
    otlp.AnyValue: their_otlp.AnyValue,
    otlp.ArrayValue: their_otlp.ArrayValue,
    otlp.KeyValue: their_otlp.KeyValue,
    otlp.KeyValueList: their_otlp.KeyValueList,
}
# Twin and original, for messages that protobuf itself has.
WELL_KNOWN = {
    core.Any: any_pb2.Any,
    core.Struct: struct_pb2.Struct,
    core.StructField: struct_pb2.Struct.FieldsEntry,
    core.Value: struct_pb2.Value,
    core.ListValue: struct_pb2.ListValue,
}
# Wire forms of maps: they have no original of their own.
MAP_ENTRIES = {core.Entry, core.MetadataEntry, core.TypedMetadataEntry}
# Compared with the captures, and below with literal bytes.
ELSEWHERE = {
    otlp.ExportLogsServiceRequest,
    otlp.ExportLogsServiceResponse,
    otlp.ExportLogsPartialSuccess,
    otlp.ResourceLogs,
    otlp.Resource,
    otlp.ScopeLogs,
    otlp.LogRecord,
    health.HealthCheckRequest,
    health.HealthCheckResponse,
}
# What a twin may be (right) where the original is (left): equal on the wire.
MAY_BECOME = {
    "string": {"string", "bytes"},
    "message": {"message", "bytes"},
    "map": {"message"},
    "enum": {"enum", "int32"},
}
TYPE_NAMES = {
    getattr(FieldDescriptor, f"TYPE_{name.upper()}"): name
    for name in (
        *("double", "int64", "uint64", "int32", "fixed64", "bool", "string", "message"),
        *("bytes", "uint32", "enum"),
    )
}


def _messages_of(descriptor: Descriptor) -> list[Descriptor]:
    nested = [d for d in descriptor.nested_types if not d.GetOptions().map_entry]
    return [descriptor, *(found for each in nested for found in _messages_of(each))]


def _id(message) -> str:
    return message.DESCRIPTOR.full_name


def test_every_twin_is_compared_with_something():
    modules = (core, authz, access_log, rate_limit, otlp, health)
    twins = {
        message.full_name
        for module in modules
        for top in module.DESCRIPTOR.message_types_by_name.values()
        for message in _messages_of(top)
    }
    compared = {*ORIGINALS, *WELL_KNOWN, *MAP_ENTRIES, *ELSEWHERE}
    assert twins == {_id(message) for message in compared}


@pytest.mark.parametrize("twin", ORIGINALS, ids=_id)
def test_a_twins_numbers_names_and_wire_types_are_the_originals(twin):
    originals = ORIGINALS[twin]._betterproto.meta_by_field_name
    for field in twin.DESCRIPTOR.fields:
        original = originals[field.name]
        kind = original.proto_type
        assert field.number == original.number, field.name
        assert TYPE_NAMES[field.type] in MAY_BECOME.get(kind, {kind}), field.name
        assert field.is_repeated == (original.repeated or kind == "map"), field.name
        if kind == "map":
            numbers = {entry.name: entry.number for entry in field.message_type.fields}
            assert (numbers["key"], numbers["value"]) == (1, 2)


@pytest.mark.parametrize("twin", WELL_KNOWN, ids=_id)
def test_a_well_known_twin_has_every_field_of_the_original(twin):
    originals = {field.number: field for field in WELL_KNOWN[twin].DESCRIPTOR.fields}
    assert {field.number for field in twin.DESCRIPTOR.fields} == set(originals)
    for field in twin.DESCRIPTOR.fields:
        original = originals[field.number]
        kind = TYPE_NAMES[original.type]
        assert field.name == original.name
        assert TYPE_NAMES[field.type] in MAY_BECOME.get(kind, {kind}), field.name
        assert field.is_repeated == original.is_repeated


def test_enums_have_the_originals_numbers():
    for ours, theirs in (
        (access_log.AccessLogType, their_data.AccessLogType),
        (access_log.RequestMethod, their_core.RequestMethod),
        (
            access_log.ResponseFlags.Unauthorized.Reason,
            their_data.ResponseFlagsUnauthorizedReason,
        ),
        (
            authz.HeaderValueOption.HeaderAppendAction,
            their_core.HeaderValueOptionHeaderAppendAction,
        ),
        (rate_limit.RateLimitResponse.Code, their_limits.RateLimitResponseCode),
    ):
        assert dict(ours.items()) == {member.name: member.value for member in theirs}


def test_token_usage_is_the_message_that_was_read_off_the_captures(tmp_path):
    described = tmp_path / "token_usage.bin"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={DATA}"),
            *("--include_imports", f"--descriptor_set_out={described}", "token_usage.proto"),
        ],
        check=True,
    )
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file:
        pool.Add(file)
    for twin in (
        token_usage.TokenUsage,
        token_usage.InputTokenDetails,
        token_usage.OutputTokenDetails,
    ):
        original = pool.FindMessageTypeByName(f"envoy.data.ai.v3.{twin.DESCRIPTOR.name}")
        expected = {field.name: (field.number, field.type) for field in original.fields}
        found = {field.name: (field.number, field.type) for field in twin.DESCRIPTOR.fields}
        if twin is token_usage.TokenUsage:
            expected["model"] = (2, FieldDescriptor.TYPE_BYTES)
            expected["extraction_status"] = (9, FieldDescriptor.TYPE_ENUM)
        assert found == expected


def test_answers_that_no_other_codec_here_knows_are_these_bytes():
    rejected = otlp.ExportLogsServiceResponse()
    rejected.partial_success.rejected_log_records = 2
    rejected.partial_success.error_message = "no"
    assert rejected.SerializeToString() == b"\x0a\x06\x08\x02\x12\x02no"
    assert otlp.ExportLogsServiceResponse().SerializeToString() == b""
    serving = health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)
    assert serving.SerializeToString() == b"\x08\x01"
    assert health.HealthCheckRequest.FromString(b"\x0a\x01x").service == b"x"
    assert dict(health.HealthCheckResponse.ServingStatus.items()) == {
        "UNKNOWN": 0,
        "SERVING": 1,
        "NOT_SERVING": 2,
        "SERVICE_UNKNOWN": 3,
    }
