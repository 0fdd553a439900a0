"""What Envoy 1.40 really sent, read through the twins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.wire import envoy_access_log_pb2 as access_log
from sidecar.wire import envoy_authz_pb2 as authz
from sidecar.wire import envoy_core_pb2 as core
from sidecar.wire import envoy_token_usage_pb2 as token_usage
from sidecar.wire import otlp_logs_pb2 as otlp

CAPTURES = Path(__file__).resolve().parents[1] / "data" / "envoy" / "captures"
CHECK_CASES = sorted(path.stem for path in CAPTURES.glob("CheckRequest_*.bin"))
LOG_CASES = sorted(path.stem for path in CAPTURES.glob("StreamAccessLogsMessage_*.bin"))
OTLP_CASES = (
    "json",
    "normalised_path",
    "escaped_slash_400",
    "gzip",
    "json_3mb",
    "sse",
    "no_usage",
    "anthropic",
    "denied_402",
    "big_request",
)
OTLP_LINES = (CAPTURES / "ExportLogsServiceRequest_all.jsonl").read_text().splitlines()
AUTHZ_NAMESPACE = b"envoy.filters.http.ext_authz"


def capture(name: str) -> bytes:
    return (CAPTURES / f"{name}.bin").read_bytes()


def check(case: str) -> authz.AttributeContext:
    return authz.CheckRequest.FromString(capture(f"CheckRequest_{case}")).attributes


def headers(http: authz.AttributeContext.HttpRequest) -> dict[bytes, bytes]:
    rows = list(http.headers) or list(http.header_map.headers)
    found = {row.key: row.raw_value or row.value for row in rows}
    assert len(found) == len(rows), "a repeated name"
    return found


def entry(case: str) -> access_log.HttpAccessLogEntry:
    message = access_log.StreamAccessLogsMessage.FromString(
        capture(f"StreamAccessLogsMessage_{case}")
    )
    (only,) = message.http_logs.log_entry
    return only


def pairs(entries) -> dict[bytes, bytes]:
    return {row.key: row.value for row in entries}


def metadata(log: access_log.HttpAccessLogEntry, namespace: bytes) -> dict[bytes, core.Value]:
    structs = {row.key: row.value for row in log.common_properties.metadata.filter_metadata}
    return {row.key: row.value for row in structs[namespace].fields}


def tokens(log: access_log.HttpAccessLogEntry) -> token_usage.TokenUsage:
    typed = {row.key: row.value for row in log.common_properties.metadata.typed_filter_metadata}
    value = typed[b"envoy.ai.token_usage"]
    assert value.type_url == b"type.googleapis.com/envoy.data.ai.v3.TokenUsage"
    return token_usage.TokenUsage.FromString(value.value)


def attributes(record: otlp.LogRecord) -> dict[str, str]:
    for row in record.attributes:
        assert row.value.WhichOneof("value") == "string_value"
    return {row.key.decode(): row.value.string_value.decode() for row in record.attributes}


def test_there_is_a_capture_for_each_case():
    assert (len(CHECK_CASES), len(LOG_CASES), len(OTLP_LINES)) == (16, 16, len(OTLP_CASES))


@pytest.mark.parametrize("case", CHECK_CASES)
def test_every_check_is_read(case):
    context = authz.CheckRequest.FromString(capture(case))
    http = context.attributes.request.http
    assert (http.method, http.path, http.scheme) == (b"POST", b"/v1/chat/completions", b"http")
    assert int(http.id) < 2**64
    assert http.protocol == b"HTTP/1.1"
    assert http.host == headers(http)[b":authority"] == b"127.0.0.1:21000"
    assert context.attributes.source.address.socket_address.address == b"127.0.0.1"
    assert dict(context.attributes.context_extensions) == {
        "price_book": "std",
        "product": "llm-chat",
    }


def test_a_plain_check():
    context = check("json_ok")
    request = context.request
    assert context.source.address.socket_address.port_value == 46096
    assert (request.time.seconds, request.time.nanos) == (1_795_180_797, 186_116_000)
    assert request.http.id == b"1445035123221656435"
    assert headers(request.http) == {
        b":authority": b"127.0.0.1:21000",
        b":method": b"POST",
        b":path": b"/v1/chat/completions",
        b":scheme": b"http",
        b"accept": b"*/*",
        b"accept-encoding": b"gzip, deflate",
        b"authorization": b"Bearer sk-alice",
        b"content-length": b"27",
        b"content-type": b"application/json",
        b"user-agent": b"python-httpx/0.28.1",
        b"x-capture": b"json_ok",
        b"x-fake": b"json",
        b"x-forwarded-proto": b"http",
        b"x-request-id": b"18a18ea0-e234-433e-a85a-95fdc853d70b",
        b"x-tag": b"json_ok",
    }
    assert context.HasField("metadata_context")
    assert context.HasField("route_metadata_context")


def test_an_empty_header_value_is_empty_and_not_absent():
    assert headers(check("sse_ok").request.http)[b"x-fake"] == b""


def test_spoofed_headers_arrive_in_the_check_as_the_client_sent_them():
    found = headers(check("spoofed_headers").request.http)
    assert found[b"x-account-id"] == b"acct_EVIL"
    assert found[b"x-decision-id"] == b"dec-EVIL"
    assert found[b"x-request-id"] == b"client-chosen-id"


def test_raw_headers_come_in_the_header_map_and_the_body_comes_along():
    http = check("rawheaders_and_body").request.http
    assert len(http.headers) == 0
    assert [row.value for row in http.header_map.headers if row.value] == []
    assert headers(http)[b"authorization"] == b"Bearer sk-alice"
    assert headers(http)[b"x-envoy-auth-partial-body"] == b"false"
    assert len(http.header_map.headers) == 16
    assert (http.body, http.size) == (b'{"model":"m","messages":[]}', 27)


@pytest.mark.parametrize("case", [case for case in LOG_CASES if not case.endswith("and_body")])
def test_every_access_log_message_is_read_and_written_back_without_loss(case):
    raw = capture(case)
    message = access_log.StreamAccessLogsMessage.FromString(raw)
    (log,) = message.http_logs.log_entry
    assert log.common_properties.access_log_type == access_log.DownstreamEnd
    assert log.common_properties.route_name == b"llm-chat"
    assert log.common_properties.downstream_remote_address.socket_address.address == b"127.0.0.1"
    assert log.request.request_method == access_log.POST
    assert log.request.path == b"/v1/chat/completions"
    assert pairs(log.common_properties.custom_tags)[b"price_book"] == b"std"
    assert len(message.SerializeToString()) == len(raw)


def test_the_first_message_of_a_stream_is_read_past_its_identifier():
    log = entry("rawheaders_and_body")
    assert log.common_properties.stream_id == log.request.request_id
    assert pairs(log.request.request_headers)[b"x-capture"] == b"rawheaders_and_body"
    assert log.response.response_code.value == 200


def test_a_streamed_answer_in_the_access_log():
    log = entry("sse_ok")
    common = log.common_properties
    assert common.downstream_remote_address.socket_address.port_value == 46096
    assert (common.start_time.seconds, common.start_time.nanos) == (1_795_180_797, 791_720_000)
    assert (common.duration.seconds, common.duration.nanos) == (0, 107_101_369)
    assert common.upstream_cluster == b"upstream"
    assert common.upstream_request_attempt_count == 1
    assert common.stream_id == b"f8760527-a0cf-429f-8e5a-7ba32a789ac1"
    assert common.downstream_wire_bytes_sent == 1813
    assert common.downstream_wire_bytes_received == 372
    assert pairs(common.custom_tags) == {
        b"acct": b"acct_alice",
        b"hdr_acct": b"acct_alice",
        b"node_literal": b"lab",
        b"price_book": b"std",
    }
    assert log.request.request_id == b"f8760527-a0cf-429f-8e5a-7ba32a789ac1"
    assert log.request.request_body_bytes == 81
    assert log.response.response_code.value == 200
    assert log.response.response_body_bytes == 1529
    assert log.response.response_code_details == b"via_upstream"
    assert pairs(log.response.response_headers) == {
        b"content-type": b"text/event-stream",
        b"x-decision-id": b"dec-000011",
    }
    decided = metadata(log, AUTHZ_NAMESPACE)
    assert decided[b"account_id"].string_value == b"acct_alice"
    assert decided[b"ext_authz_duration"].number_value == 2.0
    measured = metadata(log, b"billing.usage")
    assert measured[b"completion_tokens"].number_value == 7.0
    assert measured[b"model"].string_value == b"gpt-fake-1"


def test_nested_metadata_is_read_one_level_at_a_time():
    hold = metadata(entry("sse_ok"), AUTHZ_NAMESPACE)[b"hold"]
    assert hold.WhichOneof("kind") == "struct_value"
    fields = {row.key: row.value for row in core.Struct.FromString(hold.struct_value).fields}
    assert fields[b"amount_microcents"].number_value == 1_234_567.0
    assert fields[b"currency"].string_value == b"credits"


@pytest.mark.parametrize("case", ["json_ok", "sse_ok"])
def test_openai_usage_is_typed(case):
    usage = tokens(entry(case))
    assert (usage.api_protocol, usage.model) == (1, b"gpt-fake-1")
    assert (usage.input_tokens.value, usage.output_tokens.value) == (11, 7)
    assert usage.total_tokens.value == 18
    assert usage.input_token_details.cached_tokens.value == 4
    assert usage.output_token_details.reasoning_tokens.value == 2
    assert usage.provider_total_tokens.value == 18
    assert usage.extraction_status == token_usage.TokenUsage.COMPLETE


def test_anthropic_usage_is_typed_and_its_input_includes_the_cache():
    usage = tokens(entry("anthropic_json"))
    assert (usage.api_protocol, usage.model) == (3, b"claude-fake")
    assert (usage.input_tokens.value, usage.output_tokens.value) == (16, 7)
    assert usage.input_token_details.cached_tokens.value == 4
    assert usage.input_token_details.cache_creation_tokens.value == 1
    assert not usage.HasField("provider_total_tokens")


def test_a_count_that_envoy_did_not_see_is_absent():
    usage = tokens(entry("anthropic_sse"))
    assert (usage.input_tokens.value, usage.output_tokens.value) == (11, 7)
    assert not usage.HasField("input_token_details")


def test_a_denial_in_the_access_log():
    log = entry("denied_402")
    reason = log.common_properties.response_flags.unauthorized_details.reason
    assert reason == access_log.ResponseFlags.Unauthorized.EXTERNAL_SERVICE
    assert log.response.response_code.value == 402
    assert log.response.response_code_details == b"ext_authz_denied"
    assert log.response.response_body_bytes == 94
    assert metadata(log, AUTHZ_NAMESPACE)[b"decision_id"].string_value == b"dec-000019"
    assert log.common_properties.upstream_request_attempt_count == 0
    assert len(log.common_properties.metadata.typed_filter_metadata) == 0


def test_spoofed_headers_do_not_reach_the_metadata_of_the_access_log():
    log = entry("spoofed_headers")
    assert metadata(log, AUTHZ_NAMESPACE)[b"account_id"].string_value == b"acct_alice"
    assert log.common_properties.stream_id == log.request.request_id == b"client-chosen-id"


def test_a_client_abort_and_an_upstream_reset_show_in_the_flags():
    flags = entry("sse_client_abort").common_properties.response_flags
    assert flags.downstream_connection_termination
    details = entry("upstream_reset").response.response_code_details
    assert details.startswith(b"upstream_reset_after_response_started")


@pytest.mark.parametrize(("case", "line"), list(zip(OTLP_CASES, OTLP_LINES, strict=True)))
def test_every_otlp_export_has_the_attributes_that_were_noted(case, line):
    raw = capture(f"ExportLogsServiceRequest_{case}")
    request = otlp.ExportLogsServiceRequest.FromString(raw)
    (of_resource,) = request.resource_logs
    (of_scope,) = of_resource.scope_logs
    (record,) = of_scope.log_records
    found = attributes(record)
    assert {name: value for name, value in found.items() if value != "-"} == json.loads(line)
    assert {row.key for row in of_resource.resource.attributes} >= {b"log_name", b"node_name"}
    assert len(request.SerializeToString()) == len(raw)
    seconds, fraction = found["start"].split(".")
    assert record.time_unix_nano == int(seconds) * 10**9 + int(fraction)
