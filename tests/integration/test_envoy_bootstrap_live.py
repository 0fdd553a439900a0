"""A real Envoy runs the generated configuration between caller, provider and policy server."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from fixtures.envoy_bench import TOKEN, running

from sidecar.inbound.envoy.attributes import LogAttribute
from sidecar.inbound.envoy.bootstrap import EnvoyRoute
from sidecar.inbound.extraction.token_usage import UsageKey
from sidecar.inbound.grpc.metadata import GATEWAY_HEADER, TOKEN_HEADER

ROUTES = (
    EnvoyRoute(name="free", prefix="/free", free=True, upstream="upstream"),
    EnvoyRoute(
        name="upload", prefix="/upload", priced=True, streaming_upload=True, upstream="upstream"
    ),
    EnvoyRoute(name="chat", prefix="/v1", priced=True, upstream="upstream"),
)


async def test_the_log_of_a_request_carries_its_hold_and_its_tokens(tmp_path: Path) -> None:
    async with running(tmp_path, routes=ROUTES) as bench:
        status, _ = await bench.post("/v1/chat/completions", json={"model": "gpt-fake"})
        record = await bench.policy.record(log_type="DownstreamEnd")
        assert status == 200
        assert record[LogAttribute.HOLD_ID] == "hold-1"
        assert record[LogAttribute.HOLD_TOKEN] == "signed"
        assert record[LogAttribute.ROUTE] == "chat"
        assert record[LogAttribute.CODE] == "200"
        assert record[LogAttribute.AI_INPUT] == "11"
        assert record[LogAttribute.AI_OUTPUT] == "7"
        assert record[LogAttribute.AI_CACHED] == "4"
        assert record[LogAttribute.AI_REASONING] == "2"
        assert record[LogAttribute.AI_MODEL] == "gpt-fake"
        # The provider sent 42 digits.
        assert record[LogAttribute.TOKENS_USED] == "18" + "0" * 18
        senders = {(one[GATEWAY_HEADER], one[TOKEN_HEADER]) for one in bench.policy.metadata}
        assert senders == {("gateway-1", TOKEN)}
        assert len(bench.policy.metadata) == 2


async def test_the_log_tells_what_meters_read_and_nothing_of_what_is_not_there(
    tmp_path: Path,
) -> None:
    told = {"meter_headers": ("x-tokens-used", "x-absent"), "meter_metadata": ("gpu.kind",)}
    async with running(tmp_path, routes=ROUTES, **told) as bench:
        await bench.post("/v1/chat/completions", json={"model": "gpt-fake"})
        record = await bench.policy.record(log_type="DownstreamEnd")
        assert record["resp.x-tokens-used"] == "18" + "0" * 40
        assert "resp.x-absent" not in record
        assert "meta.gpu.kind" not in record


async def test_a_check_sees_a_cut_body_and_none_of_the_callers_forgeries(tmp_path: Path) -> None:
    forged = {
        "x-sidecar-token": "mine",
        "x-request-id": "11111111-1111-1111-1111-111111111111",
        "x-envoy-auth-partial-body": "false",
        "x-envoy-retry-on": "5xx",
    }
    async with running(tmp_path, routes=ROUTES, body_bytes=1000) as bench:
        await bench.post("/v1/chat/completions", data=b"\xff" * 9000, headers=forged)
        (check,) = bench.policy.checks
        assert check.attributes is not None
        assert check.attributes.request is not None
        http = check.attributes.request.http
        assert http is not None
        assert http.raw_body == b"\xff" * 1000
        assert check.attributes.context_extensions == {"route": "chat"}
        assert "x-sidecar-token" not in http.headers
        assert "x-envoy-retry-on" not in http.headers
        assert http.headers["x-request-id"] != forged["x-request-id"]
        assert http.headers["x-envoy-auth-partial-body"] == "true"
        record = await bench.policy.record(log_type="DownstreamEnd")
        assert record[LogAttribute.REQUEST_ID] == http.headers["x-request-id"]


async def test_the_provider_sees_the_path_that_was_checked_and_need_not_compress(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, routes=ROUTES) as bench:
        wish = {"accept-encoding": "br"}
        await bench.post("//v1/./chat/%63ompletions?x=1", json={}, headers=wish)
        await bench.post("/free/thing", headers=wish)
        assert bench.provider.paths == ["/v1/chat/completions", "/free/thing"]
        assert "accept-encoding" not in bench.provider.headers[0]
        assert bench.provider.headers[1]["accept-encoding"] == "br"
        status, _ = await bench.post("/v1%2fchat", json={})
        assert status == 400
        assert len(bench.policy.checks) == 1


@pytest.mark.parametrize("headers", [{"content-type": "application/grpc"}, {}], ids=["grpc", "up"])
async def test_a_body_that_may_never_end_is_not_waited_for(
    headers: dict[str, str], tmp_path: Path
) -> None:
    path = "/v1/chat" if headers else "/upload"
    may_end, ended = asyncio.Event(), False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal ended
        yield b"first"
        await may_end.wait()
        ended = True
        yield b"last"

    async with running(tmp_path, routes=ROUTES) as bench:
        call = asyncio.create_task(bench.post(path, data=endless(), headers=headers))
        async with asyncio.timeout(30):
            await bench.policy.checked.wait()
        assert not ended
        may_end.set()
        assert (await call)[0] == 200


async def test_a_compressed_answer_is_metered_and_a_free_one_is_not(tmp_path: Path) -> None:
    async with running(tmp_path, routes=ROUTES) as bench:
        await bench.post("/v1/chat/completions?answer=gzip", json={})
        await bench.post("/free/chat?answer=json", json={})
        metered = await bench.policy.record(route="chat")
        free = await bench.policy.record(route="free")
        assert metered[LogAttribute.AI_INPUT] == "11"
        measured = {key for key in free if key.startswith(("ai_", "sse_", "hold_"))}
        assert not measured
        assert len(bench.policy.checks) == 1


async def test_a_shape_that_envoy_does_not_recognise_is_metered_where_it_is_named(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as bench:
        await bench.post("/v1/embeddings?answer=bare", json={})
        await bench.post("/v1/other?answer=bare", json={})
        named = await bench.policy.record(route="embeddings")
        guessed = await bench.policy.record(route="default")
        assert named[LogAttribute.AI_INPUT] == "11"
        assert LogAttribute.AI_INPUT not in guessed


async def test_a_stream_that_the_caller_cuts_after_its_usage_is_still_metered(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, routes=ROUTES) as bench:
        await bench.cut("/v1/chat/completions?answer=openai-cut", after=b"total_tokens")
        record = await bench.policy.record(details="downstream_remote_disconnect")
        assert LogAttribute.AI_INPUT not in record
        assert json.loads(record[LogAttribute.SSE_USAGE]) == {
            UsageKey.PROMPT: 11,
            UsageKey.COMPLETION: 7,
            UsageKey.TOTAL: 18,
            UsageKey.CACHED: 4,
            UsageKey.REASONING: 2,
        }
        assert record[LogAttribute.SSE_MODEL] == "gpt-fake"


async def test_an_anthropic_stream_is_metered_and_claims_no_output_before_its_end(
    tmp_path: Path,
) -> None:
    started = {UsageKey.INPUT: 11, UsageKey.CACHE_READ: 4, UsageKey.CACHE_CREATION: 1}
    async with running(tmp_path, routes=ROUTES, flush_interval=timedelta(seconds=1)) as bench:
        await bench.post("/v1/messages?answer=anthropic", json={})
        whole = await bench.policy.record(log_type="DownstreamEnd")
        assert whole[LogAttribute.AI_INPUT] == "16"
        assert whole[LogAttribute.AI_OUTPUT] == "7"
        assert json.loads(whole[LogAttribute.SSE_USAGE]) == {**started, UsageKey.OUTPUT: 7}
        # The second stays open: it beats with its hold once a second, until it ends.
        call = asyncio.create_task(bench.post("/v1/messages?answer=anthropic-cut", json={}))
        beat = await bench.policy.record(log_type="DownstreamPeriodic")
        bench.provider.release.set()
        await call
        end = await bench.policy.record(log_type="DownstreamEnd", hold_id="hold-2")
        assert beat[LogAttribute.HOLD_ID] == "hold-2"
        assert json.loads(end[LogAttribute.SSE_USAGE]) == started


async def test_usage_outlives_refusals_and_a_restart_of_the_receiver(tmp_path: Path) -> None:
    async with running(tmp_path, routes=ROUTES) as bench:
        bench.policy.refusals = 2
        await bench.post("/v1/chat/completions", json={})
        assert (await bench.policy.record(hold_id="hold-1"))[LogAttribute.AI_INPUT] == "11"
        assert bench.policy.refusals == 0
        await bench.post("/v1/chat/completions", json={})
        await bench.policy.stop()
        await asyncio.sleep(1)  # Longer than the flush interval: the first tries fail.
        await bench.policy.start(bench.policy_socket)
        assert (await bench.policy.record(hold_id="hold-2"))[LogAttribute.AI_INPUT] == "11"
