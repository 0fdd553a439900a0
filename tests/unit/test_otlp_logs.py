"""
Usage over OTLP: acknowledged after capture, each record on its own.

Behaviours of Envoy 1.40 that a receiver must know, each with a test here: every value is text
and "-" is absent; a header that is no UTF-8 is logged as it came and would spoil the batch;
INVALID_ARGUMENT loses a batch, UNAVAILABLE repeats it; intermediate entries would bill
again; denials, direct answers and codec errors are logged too, some with usage_missing; another
ext_authz filter writes to the same metadata; stream ids are the client's choice; usage of 5xx
answers may be extracted.
"""

import asyncio

import pytest
from fixtures.grpc_edges import (
    CHECK_NANO,
    SENT,
    Counted,
    add_customer,
    aside,
    call_with,
    capture,
    ended,
    export,
    otlp_handler,
    placed_token,
    record,
    usage_events,
)
from fixtures.http_edges import SCOPED_TOKEN, World

from sidecar.domain.usage import TokenUsage
from sidecar.inbound.envoy.log_entries import no_hold_reason
from sidecar.inbound.envoy.otlp_logs import RECORDS_MAX, read_record
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus
from sidecar.wire import otlp_logs_pb2 as wire


@pytest.fixture
async def world():
    world = World()
    await add_customer(world)
    return world


async def send(world, *records, call=None, **changes):
    raw = await otlp_handler(world, **changes).export(export(*records), call or call_with())
    assert wire.ExportLogsServiceResponse.FromString(raw) == wire.ExportLogsServiceResponse()


async def test_usage_settles_its_hold(world):
    counted = usage_events("otlp", "captured")
    await send(world, ended(await placed_token(world)))
    assert (world.held(), world.used()) == (0, 11_000)
    ((kind, event, _),) = world.state.stream
    assert kind == "capture"
    assert event.usage == TokenUsage(input=11, output=7)
    assert (event.model, event.status, event.duration_ms) == ("gpt-4o-mini", 200, 8)
    assert (event.request_bytes, event.response_bytes, event.edge) == (81, 378, "otlp")
    assert counted.times == 1


async def test_a_batch_that_comes_twice_burns_once(world):
    token = await placed_token(world)
    await send(world, ended(token))
    await send(world, ended(token))
    assert world.used() == 11_000


async def test_without_a_token_of_ours_nothing_is_taken(world):
    counted = usage_events("otlp", "unauthenticated")
    batch = export(ended(await placed_token(world)))
    for metadata in ({}, SENT | {"x-sidecar-token": "wrong"}):
        with pytest.raises(GrpcError) as caught:
            await otlp_handler(world).export(batch, call_with(metadata))
        assert caught.value.code is GrpcStatus.UNAUTHENTICATED
    assert world.used() == 0
    assert counted.times == 2


async def test_a_sender_may_not_report_on_another_gateways_hold(world):
    counted = usage_events("otlp", "rejected")
    call = call_with(SENT | {"x-sidecar-token": SCOPED_TOKEN})
    token = await placed_token(world)
    await send(world, ended(token), ended(token, ai_input="x"), call=call)
    await send(world, {"log_type": "DownstreamPeriodic", "hold_token": token}, call=call)
    assert (world.used(), aside(world)) == (0, [])
    assert counted.times == 3


async def test_a_silent_store_makes_envoy_send_the_whole_batch_again(world):
    first, second = await placed_token(world), await placed_token(world, stream=b"78")
    world.state.away = True
    with pytest.raises(GrpcError) as caught:
        await send(world, ended(first), ended(second))
    assert caught.value.code is GrpcStatus.UNAVAILABLE
    world.state.away = False
    await send(world, ended(first), ended(second))
    assert world.used() == 22_000


@pytest.mark.parametrize("log_type", ["DownstreamStart", "UpstreamEnd", "TcpPeriodic"])
async def test_only_the_end_of_a_request_is_metered(world, log_type):
    counted = usage_events("otlp", f"ignored_{log_type}")
    await send(world, ended(await placed_token(world), log_type=log_type))
    assert (world.used(), world.held()) == (0, CHECK_NANO)
    assert counted.times == 1


@pytest.mark.parametrize(
    ("log_type", "outcome"), [("-", "ignored_NotSet"), ("DownstreamEnd\n", "ignored_other")]
)
async def test_a_log_type_that_is_not_known_is_counted_under_a_bounded_name(
    world, log_type, outcome
):
    counted = usage_events("otlp", outcome)
    await send(world, ended(log_type=log_type))
    assert counted.times == 1


async def test_a_sign_of_life_keeps_the_hold(world):
    counted = usage_events("otlp", "heartbeat")
    token = await placed_token(world)
    (before,) = [hold.terms.expires_at_ms for hold in world.state.accounts["cus_1"].open.values()]
    world.clock.advance(60)
    await send(world, {"log_type": "DownstreamPeriodic", "hold_token": token, "details": "-"})
    (after,) = [hold.terms.expires_at_ms for hold in world.state.accounts["cus_1"].open.values()]
    assert after == before + 60_000
    assert (world.used(), counted.times) == (0, 1)


async def test_a_sign_of_life_without_a_hold_or_with_a_forged_one_is_only_counted(world):
    ignored = usage_events("otlp", "ignored_DownstreamPeriodic")
    rejected = usage_events("otlp", "rejected")
    await send(
        world,
        {"log_type": "DownstreamPeriodic"},
        {"log_type": "DownstreamPeriodic", "hold_token": "forged"},
    )
    assert (ignored.times, rejected.times) == (1, 1)


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ("ext_authz_denied", "ext_authz_denied"),
        ("ext_authz_error", "ext_authz_error"),
        ("direct_response", "direct_response"),
        ("http1.codec_error", "codec_error"),
        ("path_normalization_failed", "path_refused"),
        ("route_not_found", "route_not_found"),
        ("upstream_reset_after_response_started{remote_reset}", "upstream_error"),
        ("downstream_remote_disconnect", "downstream_error"),
        ("via_upstream", "via_upstream"),
        ("something_new{x}", "other"),
        ("-", "unknown"),
    ],
)
async def test_an_entry_without_a_hold_is_counted_by_reason_and_never_estimated(
    world, details, reason
):
    counted = usage_events("otlp", f"no_hold_{reason}")
    silent = {"ai_input": "-", "ai_output": "-", "sse_usage": '{"usage_missing":"json_no_usage"}'}
    await send(world, ended(details=details, **silent))
    assert counted.times == 1
    assert world.state.stream == []
    assert aside(world) == []


async def test_measured_tokens_without_a_hold_are_set_aside_for_people(world):
    counted = Counted("sidecar_quarantined_total", reason="unattributed")
    await send(world, ended(), ended())
    await send(world, ended(stream="stream-2"))
    reports = aside(world)
    assert [reason for _, reason, _ in reports] == ["unattributed"] * 2
    assert all(len(key) == 32 for key, _, _ in reports)
    assert reports[0][2].usage == TokenUsage(input=11, output=7)
    assert counted.times == 3
    assert world.state.stream == []


async def test_the_key_of_unattributed_usage_is_not_the_clients_choice_alone(world):
    await send(world, ended(stream="chosen", conn="4"))
    await send(world, ended(stream="chosen", conn="5"))
    assert len({key for key, _, _ in aside(world)}) == 2


async def test_a_denial_with_counts_of_its_own_answer_is_no_usage(world):
    await send(world, ended(details="ext_authz_denied", code="402", tokens_used="18"))
    assert aside(world) == []


@pytest.mark.parametrize("values", [{"hold_id": "0" * 40}, {"hold_token": "-"}])
async def test_a_hold_id_without_its_token_is_believed_by_nobody(world, values):
    await placed_token(world)
    await send(world, ended(**values))
    assert (world.used(), world.held()) == (0, CHECK_NANO)
    assert [reason for _, reason, _ in aside(world)] == ["unattributed"]


async def test_a_token_that_does_not_verify_is_rejected_alone(world):
    counted = usage_events("otlp", "rejected")
    good = await placed_token(world)
    await send(world, ended("forged"), ended(good), ended("forged", ai_input="x"))
    assert (world.used(), counted.times) == (11_000, 2)


@pytest.mark.parametrize(
    "values",
    [
        {"ai_input": "-1"},
        {"ai_input": "1.5"},
        {"ai_input": "-", "ai_output": "-", "sse_usage": "{"},
        {"ai_input": "-", "ai_output": "-", "tokens_used": "many"},
        {"code": "2x"},
        {"duration_ms": "-8"},
        {"start": "tomorrow"},
        {"start": "99999999999"},
        {"ai_model": "m" * 20_000},
    ],
)
async def test_what_cannot_be_read_is_set_aside_under_its_hold_and_not_taken_as_zero(world, values):
    token = await placed_token(world)
    (hold_id,) = world.state.accounts["cus_1"].open
    await send(world, ended(token, **values))
    ((key, reason, report),) = aside(world)
    assert (key, reason, report.hold_token) == (hold_id, "unparsable_usage", token)
    assert (world.used(), world.held()) == (0, CHECK_NANO)


async def test_usage_that_the_response_left_out_is_estimated_and_flagged(world):
    await send(world, ended(await placed_token(world), ai_input="-", ai_output="-"))
    ((_, event, _),) = world.state.stream
    assert event.estimated
    assert event.usage.missing


async def test_a_header_that_claims_far_more_than_the_hold_is_set_aside(world):
    silent = {"ai_input": "-", "ai_output": "-", "tokens_input": "999999", "tokens_output": "1"}
    await send(world, ended(await placed_token(world), **silent))
    assert [reason for _, reason, _ in aside(world)] == ["implausible_header"]


async def test_a_failed_answer_with_usage_is_metered_like_any(world):
    await send(world, ended(await placed_token(world), code="500"))
    assert world.state.stream[0][1].status == 500


async def test_no_response_is_no_status(world):
    await send(world, ended(await placed_token(world), code="0"))
    assert world.state.stream[0][1].status is None


async def test_octets_that_are_no_utf8_spoil_neither_their_record_nor_its_neighbours(world):
    first, second = await placed_token(world), await placed_token(world, stream=b"78")
    bad = ended(first, request_id=b"caf\xe9\xff", ai_model=b"\xff\x00", ctype=b"\xff")
    await send(world, bad, ended(second))
    assert world.used() == 22_000
    assert {event.model for _, event, _ in world.state.stream} == {"??", "gpt-4o-mini"}


async def test_a_bug_in_one_entry_costs_its_neighbours_nothing(world):
    token = await placed_token(world)
    counted = usage_events("otlp", "failed")

    class Breaking:
        async def capture(self, report, principal):
            if report.status == 418:
                raise KeyError("bug")
            return await world.metering.capture(report, principal)

    await send(world, ended(token, code="418"), ended(token), metering=Breaking())
    assert (world.used(), counted.times) == (11_000, 1)


async def test_another_loggers_records_are_ignored(world):
    counted = usage_events("otlp", "ignored_other_log")
    request = wire.ExportLogsServiceRequest.FromString(export(ended(await placed_token(world))))
    request.resource_logs[0].resource.attributes[0].value.string_value = b"debug"
    await otlp_handler(world).export(request.SerializeToString(), call_with())
    assert (world.used(), counted.times) == (0, 1)


async def test_a_log_without_builtin_labels_is_ours(world):
    request = wire.ExportLogsServiceRequest.FromString(export(ended(await placed_token(world))))
    request.resource_logs[0].ClearField("resource")
    await otlp_handler(world).export(request.SerializeToString(), call_with())
    assert world.used() == 11_000


async def test_a_message_that_is_no_export_is_refused_and_counted(world):
    counted = usage_events("otlp", "malformed")
    with pytest.raises(GrpcError) as caught:
        await otlp_handler(world).export(b"\xff\xff", call_with())
    assert caught.value.code is GrpcStatus.INVALID_ARGUMENT
    assert counted.times == 1


async def test_a_batch_without_end_is_refused(world):
    request = wire.ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for _ in range(RECORDS_MAX + 1):
        records.add()
    with pytest.raises(GrpcError) as caught:
        await otlp_handler(world).export(request.SerializeToString(), call_with())
    assert caught.value.code is GrpcStatus.INVALID_ARGUMENT


async def test_an_empty_batch_is_taken(world):
    await send(world)


async def test_checks_get_their_turn_while_a_large_batch_is_read(world):
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    await send(world, *({"log_type": "DownstreamStart"} for _ in range(640)))
    beside.cancel()
    assert turns >= 10


def test_integers_of_other_senders_are_read_and_other_kinds_are_a_problem():
    log = wire.LogRecord()
    record(log, {"log_type": "DownstreamEnd"})
    log.attributes.add(key=b"ai_input").value.int_value = 11
    log.attributes.add(key=b"ai_output").value.int_value = 7
    assert read_record(log).sources.ai.input == "11"
    assert read_record(log).problem == ""
    log.attributes.add(key=b"ai_cached").value.double_value = 1.0
    assert read_record(log).problem != ""


def test_the_first_of_a_repeated_attribute_counts():
    log = wire.LogRecord()
    record(log, {"hold_token": "first"})
    record(log, {"hold_token": "second"})
    assert read_record(log).hold_token == "first"


@pytest.mark.parametrize(
    ("case", "usage"),
    [
        ("json", ("11", "7", "200", "")),
        ("anthropic", ("16", "7", "200", "")),
        ("no_usage", (None, None, "200", "")),
        ("denied_402", (None, None, "402", "")),
        ("escaped_slash_400", (None, None, "400", "")),
    ],
)
def test_what_envoy_really_sent_is_read(case, usage):
    request = wire.ExportLogsServiceRequest.FromString(capture(f"ExportLogsServiceRequest_{case}"))
    entry = read_record(request.resource_logs[0].scope_logs[0].log_records[0])
    found = (entry.sources.ai.input, entry.sources.ai.output, str(entry.status), entry.problem)
    assert found == usage
    assert entry.log_type == "DownstreamEnd"
    assert entry.started_at is not None


def test_reasons_are_a_closed_set():
    words = ["via_upstream", "x" * 500, "", "upstream_\x00", "é", "ext_authz_denied:[x]"]
    allowed = {"via_upstream", "other", "unknown", "upstream_error", "ext_authz_denied"}
    assert {no_hold_reason(word) for word in words} == allowed
