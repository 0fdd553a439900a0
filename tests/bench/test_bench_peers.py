"""
Sidecar beside peers in Go and Rust, in turn in one run: the engines alone, and whole checks.

The peers are small programs of our own (`peers/`), each held to one core: grpc-go with Envoy's
generated messages and go-redis; tonic with the part of the messages that it needs, and redis-rs.
Their check is a smaller job than ours; the head of `peers/go/main.go` says what is missing.
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
from bench.peer_programs import ONE_CORE, Peer, Peers, build, running_peer
from bench.results import Results, row_of_loads

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNS = 5
OURS = "fast"
"""What all others are compared with."""
CALLS, CALLS_GRPCIO = 16_000, 4_000
MESSAGES = {"no body": "CheckRequest_json_ok", "with body": "CheckRequest_rawheaders_and_body"}
CHECKS = {1: 1_000, 16: 2_000, 64: 2_000}
"""Checks of one run of ours, by how many are under way at a time."""
MORE = 4
"""Times as many of the peer's, so that a run is no shorter than its clock can tell."""
LISTENERS = {"grpcio": "SIDECAR_GRPC_LISTEN", OURS: "SIDECAR_GRPC_FAST_LISTEN"}
CUSTOMERS = [
    Customer(customer_id=f"cus_{number:02d}", plan="prepaid", currency="USD")
    for number in range(32)
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def peers(bench_folder: Path, results: Results) -> AsyncIterator[Peers]:
    built = await build(bench_folder)
    results.texts |= built.texts
    if not built.engines:
        pytest.skip("; ".join(f"{name} {text}" for name, text in built.texts.items()))
    yield built


async def test_engines_alone_beside_those_of_others(peers: Peers, results: Results):
    ours = {name: engine_of_ours(name) for name in ("grpcio", OURS)}
    async with AsyncExitStack() as stack:
        engines = {
            name: await stack.enter_async_context(
                running_engine(*command, environment=os.environ | ONE_CORE)
            )
            for name, command in (ours | peers.engines).items()
        }
        sending = {
            name: requests((CALLS_GRPCIO if name == "grpcio" else CALLS) // CONNECTIONS)
            for name in engines
        }
        for name, engine in engines.items():
            await run(engine, sending[name][:500])
        runs: dict[str, list[Run]] = {name: [] for name in engines}
        for _ in range(RUNS):
            for name, engine in engines.items():
                runs[name].append(await run(engine, sending[name]))
    for name, found in runs.items():
        setting = f"{name}, {CONNECTIONS} x {AT_A_TIME}"
        row = row_of_runs("beside peers, engine alone", setting, found)
        own, first = ([(one.rate, one.cpu_us) for one in each] for each in (found, runs[OURS]))
        results.add(replace(row, note=_compared(own, first)))


async def test_checks_beside_those_of_others(
    peers: Peers, redis_of_test: str, bench_folder: Path, results: Results
):
    async with AsyncExitStack() as stack:
        servers: dict[str, Gateway | Peer] = {}
        for name, setting in LISTENERS.items():
            gateway = running_gateway(
                bench_folder / f"beside-peers-{name}",
                redis_of_test,
                customers=CUSTOMERS,
                listen_setting=setting,
            )
            servers[name] = await stack.enter_async_context(gateway)
        for name, command in peers.checks(redis_of_test).items():
            peer = running_peer(command, redis_of_test, customers=CUSTOMERS)
            servers[name] = await stack.enter_async_context(peer)
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
