"""Facts on their way from edges and checks to meters, and what edges do with odd ones."""

from dataclasses import replace

import pytest
from fixtures.grpc_edges import (
    add_customer,
    als_handler,
    aside,
    call_with,
    ended,
    export,
    otlp_handler,
    placed_token,
)
from fixtures.http_edges import METER_TOKEN, World, calling, make_policy

from sidecar.domain.matching import Match
from sidecar.domain.meters import Aggregation, Meter
from sidecar.domain.noting import NOTED_CHARS_MAX
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import PerUnit, PriceLine
from sidecar.domain.rules import MeterRule
from sidecar.inbound.envoy.attributes import TOLD_MAX
from sidecar.inbound.envoy.bootstrap_logs import meter_formats
from sidecar.inbound.envoy.bootstrap_options import Address, EnvoyOptions, Upstream
from sidecar.inbound.envoy.policy_routes import meter_headers, meter_metadata, meters_untold
from sidecar.inbound.extraction.facts import JSON_BYTES_MAX, make_facts
from sidecar.outbound.redis.records import (
    event_from_bytes,
    event_to_bytes,
    terms_from_payload,
    terms_to_payload,
)
from sidecar.wire import envoy_access_log_pb2 as als
from sidecar.wire import envoy_core_pb2 as core

GPU = Meter(
    name="gpu-ms",
    value='int(response.headers["x-gpu-ms"]) * (request.headers["x-tier"] == "gold" ? 2 : 1)',
    group_by=("metadata.gpu.kind", "label:region"),
    max_quantity=1_000,
)
ROWS = Meter(name="rows", value="usage.raw.result.rows", max_quantity=5)
SESSIONS = Meter(name="sessions", value="metadata.session", aggregation=Aggregation.UNIQUE)


def gpu_policy(*meters: Meter) -> Policy:
    """Like `make_policy`, priced by what is given instead."""
    policy = make_policy()
    by_name = {meter.name: meter for meter in meters}
    lines = tuple(
        PriceLine(meter=meter.name, price=PerUnit(amount_nano=10))
        for meter in meters
        if meter.aggregation.additive
    )
    chat = Match(routes=frozenset({0}))
    return replace(
        policy,
        cards={
            name: replace(card, lines=lines, meters=by_name) for name, card in policy.cards.items()
        },
        meters=tuple(MeterRule(meter=meter, match=(chat,)) for meter in meters),
    )


async def gpu_world(*meters: Meter) -> World:
    world = World(policy=gpu_policy(*meters))
    await add_customer(world)
    return world


def captured(world: World):
    (_, event, _) = world.state.stream[-1]
    return {line.meter: line for line in event.lines}, event


async def test_a_hold_carries_what_only_the_check_saw_to_usage_over_otlp():
    world = await gpu_world(GPU, SESSIONS)
    token = await placed_token(world, headers={"x-tier": "gold"})
    terms = world.tokens.read(token)
    assert terms.noted == {"request.headers.x-tier": "gold", "customer.labels.region": ""}
    assert terms.estimate == {"gpu-ms": 1_000, "sessions": 0}
    told = {"resp.x-gpu-ms": "70", "meta.gpu.kind": "l4", "meta.session": "s-1"}
    await otlp_handler(world).export(export(ended(token, **told)), call_with())
    lines, event = captured(world)
    assert (lines["gpu-ms"].quantity, lines["gpu-ms"].amount_nano) == (140, 1_400)
    assert lines["gpu-ms"].groups == {"metadata.gpu.kind": "l4", "label:region": ""}
    assert (lines["sessions"].quantity, lines["sessions"].observed) == (1, True)
    assert event_from_bytes(event_to_bytes(event)).lines == event.lines
    assert terms_from_payload(terms_to_payload(terms)) == terms


async def test_the_access_log_keeps_types_and_nesting():
    world = await gpu_world(GPU, ROWS)
    token = await placed_token(world)
    entry = als.HttpAccessLogEntry()
    common = entry.common_properties
    common.access_log_type = als.DownstreamEnd
    entry.response.response_code.value = 200
    entry.response.response_headers.add(key=b"x-gpu-ms", value=b"70")
    own = common.metadata.filter_metadata.add(key=b"envoy.filters.http.ext_authz")
    own.value.fields.add(key=b"sidecar_token").value.string_value = token.encode()
    inner = core.Struct()
    inner.fields.add(key=b"kind").value.string_value = b"l4"
    inner.fields.add(key=b"count").value.number_value = 2.0
    meters = common.metadata.filter_metadata.add(key=b"sidecar.metadata")
    meters.value.fields.add(key=b"gpu").value.struct_value = inner.SerializeToString()
    message = als.StreamAccessLogsMessage(
        http_logs=als.StreamAccessLogsMessage.HttpAccessLogEntries(log_entry=[entry])
    ).SerializeToString()

    async def stream():
        yield message

    await als_handler(world).stream(stream(), call_with())
    lines, event = captured(world)
    assert lines["gpu-ms"].groups["metadata.gpu.kind"] == "l4"
    assert (lines["gpu-ms"].quantity, lines["rows"].quantity) == (70, 5)
    assert event.estimated


async def test_a_fact_that_is_no_count_sets_the_usage_aside_with_its_hold():
    world = await gpu_world(Meter(name="ms", value="response.headers.x-ms", max_quantity=9))
    token = await placed_token(world)
    told = ended(token, **{"resp.x-ms": "-5"})
    await otlp_handler(world).export(export(told), call_with())
    ((_, reason, _),) = aside(world)
    assert (reason, world.used()) == ("unusable_quantity", 0)


async def test_more_than_the_most_is_captured_and_counted_as_overspend():
    world = await gpu_world(Meter(name="ms", value="response.headers.x-ms", max_quantity=9))
    token = await placed_token(world)
    told = ended(token, **{"resp.x-ms": "200000"})
    await otlp_handler(world).export(export(told), call_with())
    assert world.used() == 2_000_000


async def post(world: World, **fields):
    async with calling(world.gateway(), token=METER_TOKEN) as call:
        reply = await call("POST", "/v1/usage", json={"events": [fields]})
    return reply.body["results"][0]


async def test_usage_by_http_brings_the_providers_object_headers_and_metadata():
    world = await gpu_world(GPU, ROWS, SESSIONS)
    token = await placed_token(world)
    result = await post(
        world,
        hold_token=token,
        usage={"input": 3, "result": {"rows": 4}},
        response={"headers": {"X-GPU-Ms": "70"}, "body": {"a": 1}, "duration_ms": 5},
        metadata={"session": "s-1"},
        request={"bytes": 10},
    )
    assert (result["outcome"], result["amount_nano"]) == ("captured", 740)
    lines, event = captured(world)
    assert lines["rows"].quantity == 4
    assert (event.duration_ms, event.request_bytes, event.usage.input) == (5, 10, 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metadata": {"a": "x" * JSON_BYTES_MAX}}, "metadata has "),
        ({"response": {"body": "x" * JSON_BYTES_MAX}}, "response.body has "),
        ({"usage": {"note": "x" * JSON_BYTES_MAX}}, "usage has "),
        ({"response": {"headers": {"a": "x" * 257}}}, "response.headers"),
        ({"response": {"headers": {f"h{n}": "" for n in range(33)}}}, "response.headers"),
        ({"response": {"colour": 1}}, "response.colour"),
    ],
)
async def test_what_is_too_large_is_rejected_and_never_cut(fields, words):
    world = await gpu_world(ROWS)
    result = await post(world, hold_token=await placed_token(world), **fields)
    assert result["outcome"] == "rejected"
    assert words in result["reason"]


async def test_a_long_header_makes_no_long_token():
    world = await gpu_world(GPU)
    token = await placed_token(world, headers={"x-tier": "g" * 5_000})
    assert len(world.tokens.read(token).noted["request.headers.x-tier"]) == NOTED_CHARS_MAX


def test_text_of_a_log_is_read_by_its_form():
    facts = make_facts(
        {"X-A": "1"},
        {
            "a.b": "12",
            "a.c": "x y",
            "d": '{"e": [1]}',
            "d.f": "lost",
            "n": "nan",
            "g": "true",
            "w": "2.0",
            "h": "2.5",
        },
    )
    assert facts.headers == {"x-a": "1"}
    assert facts.metadata == {
        "a": {"b": 12, "c": "x y"},
        "d": {"e": [1], "f": "lost"},
        "n": "nan",
        "g": True,
        "w": 2,
        "h": 2.5,
    }


def test_envoy_is_told_to_log_what_meters_read():
    policy = gpu_policy(GPU, SESSIONS)
    options = EnvoyOptions(
        listen=Address.parse("127.0.0.1:10000"),
        upstreams=(Upstream.parse("http://127.0.0.1:9999"),),
        authz=(Address.parse("127.0.0.1:9001"),),
        meter_headers=meter_headers(policy),
        meter_metadata=meter_metadata(policy),
    )
    assert dict(meter_formats(options)) == {
        "resp.x-gpu-ms": "%RESP(X-GPU-MS):64%",
        "meta.gpu.kind": "%DYNAMIC_METADATA(sidecar.metadata:gpu:kind):256%",
        "meta.session": "%DYNAMIC_METADATA(sidecar.metadata:session):256%",
    }
    assert meters_untold(gpu_policy(GPU, ROWS)) == ("rows",)
    many = [Meter(name=f"m{n}", value=f"metadata.m{n}") for n in range(TOLD_MAX + 1)]
    with pytest.raises(Exception, match="33 paths of metadata; a log entry tells 32"):
        meter_metadata(gpu_policy(*many))
