"""The gRPC edges behind a real Envoy with the generated configuration: check, log, settle."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from fixtures.envoy_bench import TOKEN, Bench, running
from fixtures.grpc_edges import CHECK_NANO, KEY, add_customer, aside, check_handler, intake
from fixtures.http_edges import World

from sidecar.inbound.envoy.access_log import AccessLogHandler
from sidecar.inbound.envoy.otlp_logs import OtlpLogsHandler
from sidecar.inbound.grpc.fast.engine import FastEngine
from sidecar.inbound.grpc.grpcio_engine import GrpcioEngine
from sidecar.inbound.principals import parse_gateway_tokens

CALLER = {"authorization": f"Bearer {KEY}"}


@dataclass
class Live:
    bench: Bench
    world: World

    async def until(self, probe):
        async with asyncio.timeout(30):
            while not probe():  # noqa: ASYNC110  What is awaited happens in Envoy.
                await asyncio.sleep(0.02)

    async def captured(self, count=1):
        await self.until(lambda: len(self.world.state.stream) >= count)
        return [event for _, event, _ in self.world.state.stream]


@asynccontextmanager
async def live(folder, *, engine_class=GrpcioEngine, **changes):
    world = World()
    await add_customer(world)
    find = parse_gateway_tokens(f"{TOKEN} name=envoy gateways=gateway-1").find
    checks = check_handler(world, find_principal=find, checks_open=False)
    logs = OtlpLogsHandler(intake=intake(world, "otlp"), find_principal=find)
    stream = AccessLogHandler(intake=intake(world, "als"), find_principal=find)
    methods = [*checks.methods(), *logs.methods()]
    if engine_class is GrpcioEngine:
        methods += stream.methods()
    async with running(folder, **changes) as bench:
        await bench.policy.stop()
        engine = engine_class(methods, listen=f"unix:{bench.policy_socket}")
        await engine.start()
        try:
            yield Live(bench, world)
        finally:
            await engine.stop(2)
            await checks.drain(5)
            await stream.drain(5)


ENGINES = [GrpcioEngine, FastEngine]


@pytest.mark.parametrize(
    ("engine_class", "transport"),
    [(GrpcioEngine, "otlp"), (GrpcioEngine, "als"), (FastEngine, "otlp")],
)
async def test_a_request_is_checked_served_logged_and_settled(tmp_path, engine_class, transport):
    async with live(tmp_path, engine_class=engine_class, transport=transport) as run:
        forged = {"x-sidecar-customer": "cus_evil", "x-request-id": "chosen"}
        status, _ = await run.bench.post("/ai/chat", json={}, headers=CALLER | forged)
        assert status == 200
        (event,) = await run.captured()
        assert (event.usage.input, event.usage.output) == (11, 7)
        assert (event.usage.cache_read, event.usage.reasoning) == (4, 2)
        assert (event.model, event.edge, event.gateway_id) == ("gpt-fake", transport, "gateway-1")
        assert (run.world.held(), run.world.used()) == (0, 11_000)
        (seen,) = run.bench.provider.headers
        assert not [name for name in seen if name.startswith("x-sidecar-")]
        assert "authorization" not in seen


async def test_a_streams_usage_in_another_dialect(tmp_path):
    async with live(tmp_path) as run:
        await run.bench.post("/ai/chat?answer=anthropic", json={}, headers=CALLER)
        (event,) = await run.captured()
        assert (event.usage.input, event.usage.output) == (16, 7)


@pytest.mark.parametrize("engine_class", ENGINES)
async def test_denials_reach_the_client_as_they_are_worded_and_hold_nothing(tmp_path, engine_class):
    async with live(tmp_path, engine_class=engine_class) as run:
        run.world.state.accounts["cus_1"].granted = CHECK_NANO - 1
        status, raw = await run.bench.post("/ai/chat", json={}, headers=CALLER)
        assert (status, json.loads(raw)["code"]) == (402, "no_available_credits")
        status, raw = await run.bench.post("/ai/chat", json={})
        assert (status, json.loads(raw)["code"]) == (401, "unidentified")
        twice = [("x-api-key", KEY), ("x-api-key", KEY)]
        status, raw = await run.bench.post("/ai/chat", json={}, headers=twice)
        assert (status, json.loads(raw)["code"]) == (401, "unidentified")
        # As many as Envoy itself lets through.
        many = CALLER | {f"x-{n}": "v" for n in range(93)}
        status, raw = await run.bench.post("/ai/chat", json={}, headers=many)
        assert (status, json.loads(raw)["code"]) == (402, "no_available_credits")
        assert run.bench.provider.paths == []
        assert (run.world.held(), run.world.used(), aside(run.world)) == (0, 0, [])


@pytest.mark.parametrize("engine_class", ENGINES)
async def test_a_check_that_envoy_gives_up_on_leaves_no_hold(tmp_path, engine_class):
    async with live(tmp_path, engine_class=engine_class) as run:
        run.world.state.gate.clear()
        status, _ = await run.bench.post("/ai/chat", json={}, headers=CALLER)
        assert status == 503
        run.world.state.gate.set()
        account = run.world.state.accounts["cus_1"]
        await run.until(lambda: account.ended and not account.open)
        assert account.held == 0
        assert run.bench.provider.paths == []


@pytest.mark.parametrize("engine_class", ENGINES)
async def test_a_silent_store_is_retried_and_then_is_envoys_own_503(tmp_path, engine_class):
    async with live(tmp_path, engine_class=engine_class) as run:
        run.world.state.away = True
        status, raw = await run.bench.post("/ai/chat", json={}, headers=CALLER)
        assert (status, raw) == (503, b"")
        run.world.state.away = False
        status, _ = await run.bench.post("/ai/chat", json={}, headers=CALLER)
        assert status == 200


async def test_logs_wait_in_envoy_while_the_store_is_silent(tmp_path):
    async with live(tmp_path) as run:
        asking = asyncio.create_task(
            run.bench.post("/ai/chat?answer=openai-cut", json={}, headers=CALLER)
        )
        await run.until(lambda: run.world.held() == CHECK_NANO)
        run.world.state.away = True
        run.bench.provider.release.set()
        await asking
        await asyncio.sleep(1)
        assert run.world.state.stream == []
        run.world.state.away = False
        (event,) = await run.captured()
        assert event.usage.input == 11


async def test_a_client_that_hangs_up_pays_for_what_was_measured(tmp_path):
    async with live(tmp_path) as run:
        async with run.bench.session.post(
            f"{run.bench.url}/ai/chat?answer=openai-cut", json={}, headers=CALLER
        ) as response:
            seen = b""
            while b"reasoning_tokens" not in seen:
                seen += await response.content.readany()
            response.close()
        (event,) = await run.captured()
        assert (event.usage.input, event.usage.output, event.estimated) == (11, 7, False)
