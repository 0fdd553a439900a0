"""
Hostile bytes into each handler: no exception but the two that an engine words, and no allow
for what is not a request of a known customer with credit.
"""

import asyncio
import json
import string

import pytest
from fixtures.grpc_edges import (
    CAPTURES,
    KEY,
    add_customer,
    allows,
    als_handler,
    call_with,
    check_handler,
    check_request,
    ended,
    export,
    find_principal,
    otlp_handler,
)
from fixtures.http_edges import World
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.usage import TOKEN_KINDS, TokenUsage
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.inbound.extraction.token_usage import (
    AiUsage,
    HeaderUsage,
    UsageKey,
    UsageSources,
    extract_usage,
)
from sidecar.inbound.grpc.engine import GrpcError
from sidecar.inbound.ingest import IngestHandler
from sidecar.wire import envoy_authz_pb2 as authz
from sidecar.wire import usage_service_pb2 as ingest_wire

EXAMPLES = settings(max_examples=150, deadline=None)
CHECKS = [path.read_bytes() for path in sorted(CAPTURES.glob("CheckRequest_*.bin"))]
LOGS = [path.read_bytes() for path in sorted(CAPTURES.glob("ExportLogs*.bin"))]
STREAMS = [
    path.read_bytes()
    for path in sorted(CAPTURES.glob("StreamAccessLogs*.bin"))
    if path.stat().st_size < 20_000
]


@st.composite
def mutated(draw, seeds):
    """A seed with a few octets changed, removed, doubled or cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["flip", "drop", "double", "cut", "insert"])):
            case "flip":
                data[at] = draw(st.integers(0, 255))
            case "drop":
                del data[at : at + draw(st.integers(1, 8))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


def hostile(seeds):
    return st.one_of(st.binary(max_size=300), mutated(seeds))


def run(coroutine):
    """The answer, or None if the handler refused in a way that an engine words."""

    async def bounded():
        async with asyncio.timeout(30):
            return await coroutine

    try:
        return asyncio.run(bounded())
    except (GrpcError, StoreUnavailable):
        return None


async def with_customer(use):
    world = World()
    await add_customer(world)
    return await use(world)


@EXAMPLES
@given(hostile(CHECKS))
def test_no_bytes_are_allowed_that_are_no_request_of_a_customer(data):
    # The customers of the captures are not known here.
    answer = run(with_customer(lambda world: check_handler(world).check(data, call_with())))
    assert answer is None or not allows(answer)


@EXAMPLES
@given(mutated([check_request().SerializeToString()]))
def test_an_altered_check_is_allowed_only_with_the_whole_key_on_a_covered_path(data):
    answer = run(with_customer(lambda world: check_handler(world).check(data, call_with())))
    if answer is None or not allows(answer):
        return
    http = authz.CheckRequest.FromString(data).attributes.request.http
    if not http.path.startswith(b"/open"):
        assert any(KEY.encode() in row.value + row.raw_value for row in http.headers)


@EXAMPLES
@given(hostile([*LOGS, export(ended("forged"), ended())]))
def test_no_log_batch_burns_anything_without_a_hold(data):
    async def use(world):
        answer = await otlp_handler(world).export(data, call_with())
        assert world.state.stream == []
        return answer

    assert run(with_customer(use)) in (None, b"")


@EXAMPLES
@given(st.lists(hostile(STREAMS), max_size=3))
def test_no_log_stream_burns_anything_or_breaks(messages):
    async def stream():
        for data in messages:
            yield data

    async def use(world):
        answer = await als_handler(world).stream(stream(), call_with())
        assert world.state.stream == []
        return answer

    assert run(with_customer(use)) == b""


@EXAMPLES
@given(
    hostile(
        [
            ingest_wire.IngestRequest(
                events=[ingest_wire.IngestEvent(hold_token=b"t", status=200), {}]
            ).SerializeToString()
        ]
    )
)
def test_no_ingest_batch_burns_anything_or_breaks(data):
    async def use(world):
        handler = IngestHandler(
            metering=world.metering, clock=world.clock, find_principal=find_principal
        )
        answer = await handler.ingest(data, call_with())
        assert world.state.stream == []
        return len(ingest_wire.IngestResponse.FromString(answer).results)

    count = run(with_customer(use))
    if count is not None:
        assert count == len(ingest_wire.IngestRequest.FromString(data).events)


def _keys():
    known = ["type", "text", "content", "role", "id", "tools", "messages", "input", "n", "model"]
    return st.sampled_from(known) | st.text(string.ascii_letters, max_size=4)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys(), inner, max_size=4),
    max_leaves=12,
)


def _bodies():
    fields = st.dictionaries(
        st.sampled_from(["model", "messages", "input", "prompt", "n", "best_of", "max_tokens"])
        | st.sampled_from(["max_output_tokens", "tools", "system", "N", "stream", "models"]),
        JSON,
        max_size=6,
    )
    return st.one_of(
        st.binary(max_size=64), (fields | JSON).map(lambda value: json.dumps(value).encode())
    )


def _request(body):
    async def use():
        seen = []

        class Checks:
            async def check(self, request):
                seen.append(request)
                raise StoreUnavailable("seen")

            async def abandon(self, decision):
                raise AssertionError

        request = check_request()
        request.attributes.request.http.raw_body = body
        handler = check_handler(World(), checks=Checks())
        with pytest.raises(GrpcError):
            await handler.check(request.SerializeToString(), call_with())
        await handler.drain(5)
        return seen[0]

    return asyncio.run(use())


@EXAMPLES
@given(_bodies())
def test_a_body_of_any_kind_gives_facts_or_invalid_input(body):
    request = _request(body)
    try:
        facts = read_request_facts(request)
    except InvalidInput:
        return
    assert facts.choices >= 1
    assert facts.input_bound is None or facts.input_bound >= len(body)
    assert facts.output_bound is None or facts.output_bound >= 0
    assert len(facts.model.encode()) <= 128


NUMBERS = st.none() | st.integers() | st.floats() | st.text(max_size=4) | st.just(())
DIGITS = st.none() | st.text("0123456789", max_size=22) | st.text(max_size=5)


@EXAMPLES
@given(
    st.builds(
        UsageSources,
        ai=st.builds(AiUsage, input=DIGITS, output=DIGITS, cached=DIGITS, status=DIGITS),
        sse=st.none()
        | st.text(max_size=40)
        | st.dictionaries(st.sampled_from([*UsageKey, "model"]), NUMBERS),
        headers=st.builds(HeaderUsage, total=DIGITS, input=DIGITS, output=DIGITS),
    )
)
def test_usage_of_any_kind_gives_counts_or_invalid_input(sources):
    try:
        usage = extract_usage(sources).usage
    except InvalidInput:
        return
    assert isinstance(usage, TokenUsage)
    for kind in TOKEN_KINDS:
        count = getattr(usage, kind)
        assert count is None or (type(count) is int and count >= 0)


COUNTS = st.integers(0, 10**12)


@EXAMPLES
@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_dialects_agree_on_what_was_used(fresh, read, created, output):
    total_input = fresh + read + created
    anthropic = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": created,
        "output_tokens": output,
    }
    openai = {"prompt_tokens": total_input, "completion_tokens": output, "cached_tokens": read}
    for sse in (anthropic, openai, json.dumps(openai)):
        usage = extract_usage(UsageSources(sse=sse)).usage
        assert (usage.input, usage.output, usage.cache_read) == (total_input, output, read)
