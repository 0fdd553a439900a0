"""
Sidecar beside a peer in Go, in turn in one run: the engines alone, and whole checks.

The peer is our own small program (`peers/go`): grpc-go, Envoy's generated messages and go-redis,
held to one core. Its check is a smaller job than ours; its head says what is missing.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import pytest_asyncio
from bench.deployment import Gateway, running_gateway
from bench.engines import (
    AT_A_TIME,
    CONNECTIONS,
    Run,
    engine_of_ours,
    requests,
    row_of_runs,
    run,
    running_engine,
)
from bench.go_peer import ONE_CORE, NotBuiltError, Peer, build, running_peer, versions
from bench.results import Results, row_of_loads

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNS = 5
OURS = "fast"
"""What all others are compared with."""
CALLS = {"grpcio": 4_000, "fast": 16_000, "grpc-go": 16_000, "grpc-go, message read": 16_000}
JOBS = {"grpc-go": "bytes", "grpc-go, message read": "ok"}
MESSAGES = {"no body": "CheckRequest_json_ok", "with body": "CheckRequest_rawheaders_and_body"}
CHECKS = {1: 1_000, 16: 2_000, 64: 2_000}
"""Checks of one run of ours, by how many are under way at a time."""
MORE = 4
"""Times as many of the peer's, so that a run is no shorter than its clock can tell."""
CUSTOMERS = [
    Customer(customer_id=f"cus_{number:02d}", plan="prepaid", currency="USD")
    for number in range(32)
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def go_peer(bench_folder: Path, results: Results) -> AsyncIterator[Path]:
    try:
        program = await build(bench_folder)
    except NotBuiltError as reason:
        results.texts["peer in Go"] = f"not measured: {reason}"
        pytest.skip(f"not measured: {reason}")
    results.texts["peer in Go"] = await versions(program)
    yield program
    program.unlink()


async def test_engines_alone_beside_one_in_go(go_peer: Path, results: Results):
    async with AsyncExitStack() as stack:
        engines = {}
        for name in CALLS:
            command = (str(go_peer), "-job", JOBS[name]) if name in JOBS else engine_of_ours(name)
            engines[name] = await stack.enter_async_context(
                running_engine(*command, environment=os.environ | ONE_CORE)
            )
        sending = {name: requests(count // CONNECTIONS) for name, count in CALLS.items()}
        runs: dict[str, list[Run]] = {name: [] for name in CALLS}
        for engine in CALLS:
            await run(engines[engine], sending[engine][:500])
        for _ in range(RUNS):
            for name, engine in engines.items():
                runs[name].append(await run(engine, sending[name]))
    for name, found in runs.items():
        row = row_of_runs(
            "beside peers, engine alone", f"{name}, {CONNECTIONS} x {AT_A_TIME}", found
        )
        own, ours = ([(one.rate, one.cpu_us) for one in each] for each in (found, runs[OURS]))
        results.add(replace(row, note=_compared(own, ours)))


async def test_checks_beside_those_of_a_peer_in_go(
    go_peer: Path, redis_of_test: str, bench_folder: Path, results: Results
):
    async with AsyncExitStack() as stack:
        servers: dict[str, Gateway | Peer] = {}
        for name, setting in (
            ("grpcio", "SIDECAR_GRPC_LISTEN"),
            (OURS, "SIDECAR_GRPC_FAST_LISTEN"),
        ):
            servers[name] = await stack.enter_async_context(
                running_gateway(
                    bench_folder / f"beside-peers-{name}",
                    redis_of_test,
                    customers=CUSTOMERS,
                    listen_setting=setting,
                )
            )
        for name, pipeline in (("grpc-go, pool", False), ("grpc-go, pipeline", True)):
            servers[name] = await stack.enter_async_context(
                running_peer(go_peer, redis_of_test, customers=CUSTOMERS, pipeline=pipeline)
            )
        for message, capture in MESSAGES.items():
            for server in servers.values():
                await server.load(do="check", capture=capture, count=500, concurrency=4)
            for at_a_time, count in CHECKS.items():
                runs = await _in_turn(servers, capture, count, at_a_time)
                _report(results, f"{message}, {at_a_time} at a time", runs)


async def _in_turn(
    servers: Mapping[str, Gateway | Peer], capture: str, count: int, at_a_time: int
) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for _ in range(RUNS):
        for name, server in servers.items():
            found = await server.load(
                do="check",
                capture=capture,
                count=count * (MORE if isinstance(server, Peer) else 1),
                concurrency=at_a_time,
            )
            # One that was refused would be another, cheaper path.
            assert "denied" not in found["failed"], (name, found)
            runs[name].append(found)
    return runs


def _report(results: Results, setting: str, runs: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, found in runs.items():
        row = row_of_loads("beside peers, checks", f"{name}, {setting}", found)
        own, ours = ([_numbers(one) for one in each] for each in (found, runs[OURS]))
        results.add(replace(row, note=f"{_compared(own, ours)}; {row.note}"))


def _numbers(run: dict[str, Any]) -> tuple[float, float]:
    return run["accepted"] / run["seconds"], run["cpu_seconds"] / run["sent"]


def _compared(some: list[tuple[float, float]], ours: list[tuple[float, float]]) -> str:
    """The medians of the rounds' ratios; of each run its rate and its processor time."""
    rate, cpu = (
        median(one[at] / other[at] for one, other in zip(some, ours, strict=True)) for at in (0, 1)
    )
    return f"{rate:.2f} of the rate and {cpu:.2f} of the CPU of {OURS}"
