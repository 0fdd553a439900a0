"""The twins and an independent codec (envoy-data-plane, betterproto) read each other."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path

import pytest
from google.protobuf import struct_pb2

from sidecar.wire import envoy_access_log_pb2 as access_log
from sidecar.wire import envoy_authz_pb2 as authz
from sidecar.wire import envoy_core_pb2 as core
from sidecar.wire import envoy_rate_limit_pb2 as rate_limit
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

CAPTURES = Path(__file__).resolve().parents[1] / "data" / "envoy" / "captures"
CHECKS = sorted(CAPTURES.glob("CheckRequest_*.bin"))


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_both_codecs_read_the_same_headers_out_of_a_captured_check(path):
    raw = path.read_bytes()
    theirs = their_auth.CheckRequest.parse(raw).attributes.request.http
    ours = authz.CheckRequest.FromString(raw).attributes.request.http
    found = {row.key.decode(): row.value.decode() for row in ours.headers}
    assert found == theirs.headers
    assert len(ours.headers) == len(theirs.headers)
    their_map = theirs.header_map.headers if theirs.header_map else []
    assert [(row.key.decode(), row.raw_value) for row in ours.header_map.headers] == [
        (row.key, row.raw_value) for row in their_map
    ]
    assert (ours.id.decode(), ours.path.decode()) == (theirs.id, theirs.path)


def test_an_allow_is_read_by_the_other_codec():
    ours = authz.CheckResponse()
    ours.status.code = 0
    ours.ok_response.headers_to_remove.append("authorization")
    ours.ok_response.query_parameters_to_set.add(key="acct", value="cus_1")
    ours.ok_response.query_parameters_to_remove.append("secret")
    ours.ok_response.headers.add(header=authz.HeaderValue(key="x-plan", value="pro"))
    added = ours.ok_response.response_headers_to_add.add()
    added.header.key, added.header.value = "x-quota-used", "85"
    added.append_action = authz.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    ours.dynamic_metadata.fields["sidecar_hold_id"].string_value = "ab" * 20
    ours.dynamic_metadata.fields["sidecar_policy"].string_value = "v7"

    theirs = their_auth.CheckResponse.parse(ours.SerializeToString())
    assert theirs.status == TheirStatus(code=0)
    assert theirs.denied_response is None
    assert theirs.ok_response == their_auth.OkHttpResponse(
        headers=[
            their_core.HeaderValueOption(
                header=their_core.HeaderValue(key="x-plan", value="pro"),
            )
        ],
        headers_to_remove=["authorization"],
        response_headers_to_add=[
            their_core.HeaderValueOption(
                header=their_core.HeaderValue(key="x-quota-used", value="85"),
                append_action=(
                    their_core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
                ),
            )
        ],
        query_parameters_to_set=[their_core.QueryParameter(key="acct", value="cus_1")],
        query_parameters_to_remove=["secret"],
    )
    fields = theirs.dynamic_metadata.fields
    assert {key: value.string_value for key, value in fields.items()} == {
        "sidecar_hold_id": "ab" * 20,
        "sidecar_policy": "v7",
    }


@pytest.mark.parametrize("answer", ["denied_response", "error_response"])
def test_a_refusal_with_status_headers_and_body_is_read_by_the_other_codec(answer):
    ours = authz.CheckResponse(status=authz.Status(code=7, message="no_available_credits"))
    refusal = getattr(ours, answer)
    refusal.status.code = 402
    refusal.body = '{"error":"no_available_credits","note":"\u20ac"}'
    refusal.headers.add(header=authz.HeaderValue(key="x-credit-available", value="0"))
    refusal.headers.add(header=authz.HeaderValue(key="x-raw", raw_value=b"\xff"))

    theirs = their_auth.CheckResponse.parse(ours.SerializeToString())
    assert theirs.status == TheirStatus(code=7, message="no_available_credits")
    assert theirs.ok_response is None
    assert getattr(theirs, answer) == their_auth.DeniedHttpResponse(
        status=their_types.HttpStatus(code=their_types.StatusCode.PaymentRequired),
        headers=[
            their_core.HeaderValueOption(
                header=their_core.HeaderValue(key="x-credit-available", value="0")
            ),
            their_core.HeaderValueOption(
                header=their_core.HeaderValue(key="x-raw", raw_value=b"\xff")
            ),
        ],
        body='{"error":"no_available_credits","note":"\u20ac"}',
    )


def _metadata() -> their_core.Metadata:
    payload = struct_pb2.Struct()
    payload.update({"sub": "user_1", "realm": {"roles": ["admin"]}, "n": 1.5})
    encoded = core.Metadata(
        filter_metadata=[
            core.MetadataEntry(
                key=b"envoy.filters.http.jwt_authn",
                value=core.Struct.FromString(payload.SerializeToString()),
            )
        ]
    )
    return their_core.Metadata.parse(encoded.SerializeToString())


def _values(struct: core.Struct) -> dict[bytes, core.Value]:
    return {row.key: row.value for row in struct.fields}


def test_a_check_of_the_other_codec_is_read_through_the_twin():
    instant = dt.datetime(2026, 11, 20, 9, 59, 57, 186116, tzinfo=dt.UTC)
    theirs = their_auth.CheckRequest(
        attributes=their_auth.AttributeContext(
            source=their_auth.AttributeContextPeer(
                address=their_core.Address(
                    socket_address=their_core.SocketAddress(address="::1", port_value=443)
                ),
                principal="spiffe://mesh/caller",
                certificate="skipped",
            ),
            request=their_auth.AttributeContextRequest(
                time=instant,
                http=their_auth.AttributeContextHttpRequest(
                    id="17",
                    method="POST",
                    headers={":path": "/a?b=1", "x-empty": ""},
                    path="/a?b=1",
                    host="api.example",
                    scheme="https",
                    query="b=1",
                    fragment="top",
                    size=-1,
                    protocol="HTTP/2",
                    raw_body=b"\x1f\x8b\xff",
                ),
            ),
            context_extensions={"product": "llm"},
            metadata_context=_metadata(),
            tls_session=their_auth.AttributeContextTlsSession(sni="skipped"),
        )
    )
    ours = authz.CheckRequest.FromString(bytes(theirs)).attributes
    assert ours.source.principal == b"spiffe://mesh/caller"
    assert ours.source.address.socket_address.address == b"::1"
    assert ours.source.address.socket_address.port_value == 443
    assert ours.request.time.ToDatetime(tzinfo=dt.UTC) == instant
    http = ours.request.http
    assert (http.id, http.method, http.path, http.host) == (
        b"17",
        b"POST",
        b"/a?b=1",
        b"api.example",
    )
    assert (http.scheme, http.query, http.fragment, http.protocol) == (
        b"https",
        b"b=1",
        b"top",
        b"HTTP/2",
    )
    assert (http.size, http.raw_body, http.body) == (-1, b"\x1f\x8b\xff", b"")
    assert {row.key: row.value for row in http.headers} == {b":path": b"/a?b=1", b"x-empty": b""}
    assert dict(ours.context_extensions) == {"product": "llm"}
    (entry,) = ours.metadata_context.filter_metadata
    assert entry.key == b"envoy.filters.http.jwt_authn"
    values = _values(entry.value)
    assert (values[b"sub"].string_value, values[b"n"].number_value) == (b"user_1", 1.5)
    roles = _values(core.Struct.FromString(values[b"realm"].struct_value))[b"roles"]
    (role,) = core.ListValue.FromString(roles.list_value).values
    assert role.string_value == b"admin"


def test_an_access_log_of_the_other_codec_is_read_through_the_twin():
    theirs = their_logs.StreamAccessLogsMessage(
        http_logs=their_logs.StreamAccessLogsMessageHttpAccessLogEntries(
            log_entry=[
                their_data.HttpAccessLogEntry(
                    common_properties=their_data.AccessLogCommon(
                        duration=dt.timedelta(seconds=2, microseconds=5),
                        metadata=_metadata(),
                        custom_tags={"a": "b"},
                        access_log_type=their_data.AccessLogType.DownstreamPeriodic,
                    ),
                    response=their_data.HttpResponseProperties(
                        response_code=503,
                        response_trailers={"x-usage-total": "18"},
                    ),
                )
            ]
        )
    )
    (ours,) = access_log.StreamAccessLogsMessage.FromString(bytes(theirs)).http_logs.log_entry
    common = ours.common_properties
    assert common.duration.ToTimedelta() == dt.timedelta(seconds=2, microseconds=5)
    assert common.access_log_type == access_log.DownstreamPeriodic
    assert [(tag.key, tag.value) for tag in common.custom_tags] == [(b"a", b"b")]
    assert _values(common.metadata.filter_metadata[0].value)[b"sub"].string_value == b"user_1"
    assert ours.response.response_code.value == 503
    assert [(row.key, row.value) for row in ours.response.response_trailers] == [
        (b"x-usage-total", b"18")
    ]


def test_a_rate_limit_call_passes_between_the_codecs():
    theirs = their_limits.RateLimitRequest(
        domain="api",
        descriptors=[
            their_descriptors.RateLimitDescriptor(
                entries=[their_descriptors.RateLimitDescriptorEntry(key="user", value="u1")],
                hits_addend=18,
            )
        ],
        hits_addend=2,
    )
    ours = rate_limit.RateLimitRequest.FromString(bytes(theirs))
    (descriptor,) = ours.descriptors
    assert (ours.domain, ours.hits_addend, descriptor.hits_addend.value) == (b"api", 2, 18)
    assert [(row.key, row.value) for row in descriptor.entries] == [(b"user", b"u1")]

    answer = rate_limit.RateLimitResponse(overall_code=rate_limit.RateLimitResponse.OVER_LIMIT)
    answer.statuses.add(
        code=rate_limit.RateLimitResponse.OVER_LIMIT
    ).duration_until_reset.seconds = 3
    answer.response_headers_to_add.add(key="retry-after", value="3")
    answer.raw_body = b"{}"
    read = their_limits.RateLimitResponse.parse(answer.SerializeToString())
    over = their_limits.RateLimitResponseCode.OVER_LIMIT
    assert (read.overall_code, read.raw_body) == (over, b"{}")
    assert read.statuses[0].code == over
    assert read.statuses[0].duration_until_reset == dt.timedelta(seconds=3)
    assert [(h.key, h.value) for h in read.response_headers_to_add] == [("retry-after", "3")]


def test_otlp_values_of_the_other_codec_are_read_through_the_twin():
    text = their_otlp.AnyValue(string_value="gpt")
    nested = their_otlp.AnyValue(
        kvlist_value=their_otlp.KeyValueList(
            values=[their_otlp.KeyValue(key="model", value=text)],
        )
    )
    listed = their_otlp.AnyValue(array_value=their_otlp.ArrayValue(values=[text]))
    ours = otlp.AnyValue.FromString(bytes(nested))
    (pair,) = otlp.KeyValueList.FromString(ours.kvlist_value).values
    assert (pair.key, pair.value.string_value) == (b"model", b"gpt")
    ours = otlp.AnyValue.FromString(bytes(listed))
    assert otlp.ArrayValue.FromString(ours.array_value).values[0].string_value == b"gpt"
    for theirs in (
        their_otlp.AnyValue(int_value=-(2**63)),
        their_otlp.AnyValue(bool_value=False),
        their_otlp.AnyValue(double_value=1.5),
        their_otlp.AnyValue(bytes_value=b"\xff"),
    ):
        ours = otlp.AnyValue.FromString(bytes(theirs))
        kind = ours.WhichOneof("value")
        assert getattr(ours, kind) == getattr(theirs, kind)
