"""
Usage over Envoy's gRPC access log, which acknowledges nothing.

Behaviours of Envoy 1.40 that a receiver must know, each with a test here: only the first
message of a stream has the 61 KB identifier; typed token usage; numbers are doubles; an entry
of another type would bill again; a denial carries a decision but no hold; another filter may
write to our namespace; a broken stream must not lose what was received.
"""

import asyncio

import pytest
from fixtures.grpc_edges import (
    CHECK_NANO,
    add_customer,
    als_handler,
    aside,
    call_with,
    capture,
    placed_token,
    usage_events,
)
from fixtures.http_edges import World

from sidecar.domain.usage import TokenUsage
from sidecar.inbound.envoy.access_log import read_entry
from sidecar.inbound.extraction.token_usage import extract_usage
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus
from sidecar.wire import envoy_access_log_pb2 as wire
from sidecar.wire import envoy_token_usage_pb2 as token_usage


@pytest.fixture
async def world():
    world = World()
    await add_customer(world)
    return world


def entry_of(token=None, *, ai=True, log_type=wire.DownstreamEnd, details=b"via_upstream"):
    entry = wire.HttpAccessLogEntry()
    common = entry.common_properties
    common.access_log_type = log_type
    common.start_time.seconds, common.start_time.nanos = 1_795_180_797, 186_116_000
    common.duration.nanos = 8_999_999
    common.stream_id = b"stream-1"
    entry.response.response_code.value = 200
    entry.response.response_code_details = details
    if token is not None:
        add_metadata(entry, b"envoy.filters.http.ext_authz", sidecar_token=token)
    if ai:
        usage = token_usage.TokenUsage(model=b"gpt-4o-mini", extraction_status=1)
        usage.input_tokens.value, usage.output_tokens.value = 11, 7
        typed = common.metadata.typed_filter_metadata.add(key=b"envoy.ai.token_usage")
        typed.value.type_url = b"type.googleapis.com/envoy.data.ai.v3.TokenUsage"
        typed.value.value = usage.SerializeToString()
    return entry


def add_metadata(entry, namespace, **values):
    row = entry.common_properties.metadata.filter_metadata.add(key=namespace)
    for key, value in values.items():
        field = row.value.fields.add(key=key.encode())
        if isinstance(value, str):
            field.value.string_value = value.encode()
        else:
            field.value.number_value = value


def message(*entries):
    return wire.StreamAccessLogsMessage(
        http_logs=wire.StreamAccessLogsMessage.HttpAccessLogEntries(log_entry=entries)
    ).SerializeToString()


async def stream_of(*messages):
    for data in messages:
        yield data


async def send(world, *messages, call=None, **changes):
    handler = als_handler(world, **changes)
    await handler.stream(stream_of(*messages), call or call_with())
    return handler


async def test_usage_settles_its_hold_as_it_arrives(world):
    counted = usage_events("als", "captured")
    first, second = await placed_token(world), await placed_token(world, stream=b"78")
    await send(world, message(entry_of(first)), message(entry_of(second), entry_of(first)))
    assert (world.held(), world.used(), counted.times) == (0, 22_000, 2)
    event = world.state.stream[0][1]
    assert (event.edge, event.usage, event.model) == (
        "als",
        TokenUsage(input=11, output=7),
        "gpt-4o-mini",
    )
    assert (event.duration_ms, event.status) == (8, 200)


async def test_without_a_token_of_ours_a_stream_is_refused(world):
    counted = usage_events("als", "unauthenticated")
    with pytest.raises(GrpcError) as caught:
        await send(world, message(entry_of(await placed_token(world))), call=call_with({}))
    assert caught.value.code is GrpcStatus.UNAUTHENTICATED
    assert (world.used(), counted.times) == (0, 1)


@pytest.mark.parametrize("log_type", [wire.NotSet, wire.DownstreamStart, 4_000])
async def test_only_the_end_of_a_request_is_metered(world, log_type):
    await send(world, message(entry_of(await placed_token(world), log_type=log_type)))
    assert (world.used(), world.held()) == (0, CHECK_NANO)


async def test_a_periodic_entry_keeps_the_hold(world):
    counted = usage_events("als", "heartbeat")
    token = await placed_token(world)
    await send(world, message(entry_of(token, log_type=wire.DownstreamPeriodic)))
    assert (counted.times, world.used()) == (1, 0)


async def test_an_entry_without_a_hold_is_counted_or_set_aside(world):
    counted = usage_events("als", "no_hold_ext_authz_denied")
    await send(world, message(entry_of(details=b"ext_authz_denied"), entry_of()))
    assert counted.times == 1
    assert [reason for _, reason, _ in aside(world)] == ["unattributed"]


async def test_a_token_that_is_not_ours_is_rejected(world):
    counted = usage_events("als", "rejected")
    await send(world, message(entry_of("another filter's value")))
    assert counted.times == 1


async def test_a_token_that_is_no_text_is_none(world):
    entry = entry_of(ai=False)
    add_metadata(entry, b"envoy.filters.http.ext_authz", sidecar_token=5.0)
    assert read_entry(entry).hold_token == ""


async def test_the_copied_numbers_are_doubles_that_must_be_whole(world):
    entry = entry_of(await placed_token(world), ai=False)
    add_metadata(entry, b"billing.usage", prompt_tokens=11.0, completion_tokens=7.0)
    add_metadata(entry, b"billing.model", model="m-1")
    read = read_entry(entry)
    assert extract_usage(read.sources).usage == TokenUsage(input=11, output=7)
    assert read.sources.model == "m-1"
    add_metadata(broken := entry_of("t", ai=False), b"billing.usage", prompt_tokens=0.5)
    assert read_entry(broken).problem == ""


async def test_a_count_that_is_none_is_set_aside(world):
    entry = entry_of(await placed_token(world), ai=False)
    add_metadata(entry, b"billing.usage", prompt_tokens=0.5, completion_tokens=7.0)
    await send(world, message(entry))
    assert [reason for _, reason, _ in aside(world)] == ["unparsable_usage"]
    assert world.used() == 0


async def test_typed_usage_that_cannot_be_read_is_set_aside(world):
    entry = entry_of(await placed_token(world))
    entry.common_properties.metadata.typed_filter_metadata[0].value.value = b"\xff\xff"
    await send(world, message(entry))
    assert [reason for _, reason, _ in aside(world)] == ["unparsable_usage"]


async def test_response_headers_are_read(world):
    entry = entry_of(ai=False)
    for name, value in (("x-tokens-input", "11"), ("x-tokens-output", "7"), ("x-tokens-used", "")):
        entry.response.response_headers.add(key=name.encode(), value=value.encode())
    found = extract_usage(read_entry(entry).sources)
    assert (found.usage, found.from_header) == (TokenUsage(input=11, output=7), True)


async def test_sizes_beyond_reason_are_not_believed():
    entry = entry_of(ai=False)
    entry.request.request_body_bytes = 2**63
    entry.common_properties.duration.seconds = -5
    read = read_entry(entry)
    assert (read.request_bytes, read.duration_ms) == (0, 0)


async def test_the_store_has_a_moment_to_come_back(world):
    token = await placed_token(world)
    attempts = 0

    class Recovering:
        async def capture(self, report, principal):
            nonlocal attempts
            attempts += 1
            world.state.away = attempts < 3
            return await world.metering.capture(report, principal)

    await send(world, message(entry_of(token)), metering=Recovering())
    assert (attempts, world.used()) == (3, 11_000)


async def test_what_the_store_does_not_take_is_counted_and_the_stream_goes_on(world):
    lost = usage_events("als", "store_unavailable")
    tokens = [await placed_token(world, stream=b"%d" % n) for n in (1, 2, 3)]

    class Failing:
        async def capture(self, report, principal):
            if report.hold_token != tokens[2]:
                world.state.away = True
            try:
                return await world.metering.capture(report, principal)
            finally:
                world.state.away = False

    first = message(entry_of(tokens[0]), entry_of(tokens[1]))
    await send(world, first, message(entry_of(tokens[2])), metering=Failing())
    assert (lost.times, world.used()) == (2, 11_000)


async def test_a_message_that_cannot_be_read_is_counted_and_the_next_is_taken(world):
    counted = usage_events("als", "malformed")
    await send(world, b"\xff\xff", message(entry_of(await placed_token(world))))
    assert (counted.times, world.used()) == (1, 11_000)


async def test_a_broken_stream_loses_nothing_that_was_received(world):
    token = await placed_token(world)
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        async def capture(self, report, principal):
            begun.set()
            await go_on.wait()
            return await world.metering.capture(report, principal)

    handler = als_handler(world, metering=Slow())
    stream = asyncio.create_task(handler.stream(stream_of(message(entry_of(token))), call_with()))
    await begun.wait()
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream
    go_on.set()
    await handler.drain(5)
    assert world.used() == 11_000


@pytest.mark.parametrize(
    ("case", "usage"),
    [
        ("json_ok", TokenUsage(input=11, output=7, cache_read=4, reasoning=2, total=18)),
        ("anthropic_json", TokenUsage(input=16, output=7, cache_read=4, cache_creation=1)),
        ("anthropic_sse", TokenUsage(input=11, output=7)),
    ],
)
def test_what_envoy_really_sent_is_read(case, usage):
    found = wire.StreamAccessLogsMessage.FromString(capture(f"StreamAccessLogsMessage_{case}"))
    read = read_entry(found.http_logs.log_entry[0])
    extracted = extract_usage(read.sources).usage
    assert (extracted.input, extracted.output) == (usage.input, usage.output)
    assert (extracted.cache_read or 0) == (usage.cache_read or 0)
    assert (read.log_type, read.details, read.status) == ("DownstreamEnd", "via_upstream", 200)
    assert read.hold_token == ""


def test_after_a_clients_abort_the_copied_numbers_fill_in():
    raw = capture("StreamAccessLogsMessage_sse_client_abort")
    entry = wire.StreamAccessLogsMessage.FromString(raw).http_logs.log_entry[0]
    read = read_entry(entry)
    assert read.sources.ai.input is None
    assert read.problem == ""


def test_a_denial_has_no_hold():
    raw = capture("StreamAccessLogsMessage_denied_402")
    read = read_entry(wire.StreamAccessLogsMessage.FromString(raw).http_logs.log_entry[0])
    assert (read.details, read.status, read.hold_token) == ("ext_authz_denied", 402, "")
