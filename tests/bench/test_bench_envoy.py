"""
Requests through a real Envoy, with and without Sidecar: modes side by side in one run.

Envoy, of one worker, and the gateway share the last core; wrk, the upstream and Redis have the
first. Run by `make bench-envoy`.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from bench.deployment import Gateway, processor_seconds, running_gateway, secret_of
from bench.envoys import ANSWER, RunningEnvoy, running_envoy, running_upstream
from bench.results import Results, Row, medians
from bench.wrk import load_core, measured_core, needs_wrk, pin, run_wrk, write_script
from fixtures.stack import CHAT, free_port

from sidecar.outbound.embedded import EmbeddedRedis
from sidecar.services.control_ports import Customer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.envoy, needs_wrk]

RUNS = 5
SECONDS = 2
CONNECTIONS = (1, 16)
CAPTURED_SECONDS = 30.0
TOO_LATE = 503
BODY = json.dumps({"model": "gpt-4o-mini", "max_tokens": 50, "messages": []})
CUSTOMERS = [
    Customer(customer_id=f"cus_{number:02d}", plan="prepaid", currency="USD")
    for number in range(32)
]


@dataclass(frozen=True, slots=True)
class Mode:
    """What Envoy does beside passing on: `engine` is asked for checks, and told the usage."""

    engine: str | None = None
    usage: bool = False


MODES = {
    "plain": Mode(),
    "checks, grpcio": Mode(engine="grpcio"),
    "checks, fast": Mode(engine="fast"),
    "checks and usage, grpcio": Mode(engine="grpcio", usage=True),
    "checks and usage, fast": Mode(engine="fast", usage=True),
}
"""The last two have the whole configuration that `sidecar envoy config` writes."""


@dataclass(frozen=True, slots=True)
class Measured:
    gateway: Gateway
    envoys: dict[str, RunningEnvoy]
    script: Path

    async def run(self, name: str, connections: int) -> dict[str, float]:
        """One run of one mode; its usage is captured before its clock of processors stops."""
        gateway, envoy = self.gateway, self.envoys[name]
        placed = await gateway.metric("sidecar_holds_total", transition="placed")
        records, redis = await gateway.redis.usage_records(), gateway.redis
        before = (processor_seconds(gateway.process.pid), processor_seconds(envoy.pid))
        redis_before = await redis.processor_seconds()
        run = await run_wrk(envoy.address, self.script, connections=connections, seconds=SECONDS)
        allowed = run.requests - run.refused
        if MODES[name].usage:
            await self._until_captured(records + allowed)
        own = processor_seconds(gateway.process.pid) - before[0]
        its = processor_seconds(envoy.pid) - before[1]
        in_redis = await redis.processor_seconds() - redis_before
        placed = await gateway.metric("sidecar_holds_total", transition="placed") - placed
        assert allowed > 0, run
        # Each that passed had a hold. Where no check is asked for, there are those at most that
        # were still under way when the run before hung up.
        held = placed >= allowed if MODES[name].engine else placed <= connections
        assert held, (name, placed, run)
        return {
            "sent": run.requests,
            "refused": run.refused,
            "rate": allowed / run.seconds,
            "p50": run.p50_ms,
            "p99": run.p99_ms,
            "gateway": own / run.requests * 1e6,
            "envoy": its / run.requests * 1e6,
            "redis": in_redis / run.requests * 1e6,
        }

    async def _until_captured(self, records: int) -> None:
        async with asyncio.timeout(CAPTURED_SECONDS):
            while True:
                if await self.gateway.redis.usage_records() >= records:
                    return
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("connections", CONNECTIONS)
async def test_requests_through_envoy(
    connections: int,
    redis_of_test: str,
    bench_redis: EmbeddedRedis,
    bench_folder: Path,
    results: Results,
):
    pin(bench_redis.pid, load_core())
    folder = bench_folder / f"envoy-{connections}"
    async with measured(folder, redis_of_test) as side:
        for name, mode in MODES.items():
            await check_answers(side.envoys[name], mode)
        denied = await side.gateway.metric("sidecar_checks_total", decision="deny")
        assert denied > 0
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in MODES}
        # In turn, each as often early as late; the first round warms.
        for number in range(RUNS + 1):
            for name in sorted(MODES, reverse=bool(number % 2)):
                runs[name].append(await side.run(name, connections))
        # What was refused had no answer in time; nobody lacked credit.
        assert await side.gateway.metric("sidecar_checks_total", decision="deny") == denied
    for found in runs.values():
        del found[0]
    for name, found in runs.items():
        results.add(row_of_runs(name, connections, found, runs["plain"]))


@asynccontextmanager
async def measured(folder: Path, redis_url: str) -> AsyncIterator[Measured]:
    """An upstream, a gateway with both engines, and an Envoy of each mode."""
    grpcio = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            running_gateway(
                folder,
                redis_url,
                customers=CUSTOMERS,
                listen_setting="SIDECAR_GRPC_FAST_LISTEN",
                # Holds without usage would otherwise expire while others are measured.
                settings={"SIDECAR_GRPC_LISTEN": grpcio, "SIDECAR_HOLD_TTL_SECONDS": "3600"},
            )
        )
        pin(gateway.process.pid, measured_core())
        engines = {None: None, "grpcio": grpcio, "fast": gateway.address}
        upstream = await stack.enter_async_context(running_upstream(folder, load_core()))
        envoys = {
            name: await stack.enter_async_context(
                running_envoy(
                    folder,
                    f"envoy-{number}",
                    environment=gateway.environment,
                    upstream=upstream.address,
                    authz=engines[mode.engine],
                    usage=mode.usage,
                    core=measured_core(),
                )
            )
            for number, (name, mode) in enumerate(MODES.items())
        }
        headers = [
            {"authorization": f"Bearer {secret_of(one)}", "content-type": "application/json"}
            for one in CUSTOMERS
        ]
        yield Measured(gateway, envoys, write_script(folder / "chat.lua", CHAT, headers, BODY))


async def check_answers(envoy: RunningEnvoy, mode: Mode) -> None:
    """The upstream's own answer comes, and an unknown key passes only where nobody asks."""
    async with asyncio.timeout(CAPTURED_SECONDS):
        # Five Envoys begin on the gateway's core: the first checks may come too late.
        found = await envoy.post(secret_of(CUSTOMERS[0]), BODY)
        while found[0] == TOO_LATE:
            await asyncio.sleep(0.1)
            found = await envoy.post(secret_of(CUSTOMERS[0]), BODY)
    status, content = found
    assert (status, json.loads(content)) == (200, ANSWER)
    status, _ = await envoy.post("sk_nobody", BODY)
    assert status == (401 if mode.engine else 200)


def row_of_runs(
    name: str,
    connections: int,
    runs: list[dict[str, float]],
    plain: list[dict[str, float]],
) -> Row:
    middle = medians(runs)
    notes = []
    if runs is not plain:
        pairs = list(zip(runs, plain, strict=True))
        share = median(one["rate"] / other["rate"] for one, other in pairs)
        added = median(one["p50"] - other["p50"] for one, other in pairs)
        envoy = median(one["envoy"] / other["envoy"] for one, other in pairs)
        notes.append(f"of plain: rate {share:.3f}, p50 +{added:.2f} ms, Envoy's CPU {envoy:.1f}")
    refused = sum(run["refused"] for run in runs)
    if refused:
        notes.append(f"refused {refused:.0f} of {sum(run['sent'] for run in runs):.0f}")
    return Row(
        what=f"through Envoy, {name}",
        setting=f"{connections} connection{'s' if connections > 1 else ''}",
        runs=len(runs),
        per_second=middle["rate"],
        low=min(run["rate"] for run in runs),
        high=max(run["rate"] for run in runs),
        cpu_us=middle["gateway"],
        redis_us=middle["redis"],
        envoy_us=middle["envoy"],
        p50_ms=middle["p50"],
        p99_ms=middle["p99"],
        note="; ".join(notes),
    )
