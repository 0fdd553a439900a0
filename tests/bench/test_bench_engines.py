"""
gRPC engines alone, side by side: a captured check over two connections, as Envoy has.

The client writes frames that were made before, so that it is never what is measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import pytest
from bench.deployment import CAPTURES, METADATA, processor_seconds, running_server
from bench.frames import CallFrames, Connection
from bench.results import Results, Row

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = {"grpcio": 4_000, "fast": 16_000}
RUNS = 5
CONNECTIONS = 2
AT_A_TIME = 16
"""On each connection."""
CHECK = "/envoy.service.auth.v3.Authorization/Check"


@dataclass
class Engine:
    host: str
    port: int
    pid: int


@asynccontextmanager
async def running_engine(name: str) -> AsyncIterator[Engine]:
    async with running_server("engine_process.py", name) as (address, pid):
        host, _, port = address.rpartition(":")
        yield Engine(host, int(port), pid)


def requests(count: int, *, traced: bool) -> list[bytes]:
    """The captured check as calls of one connection."""
    frames = CallFrames(CHECK, list(METADATA.items()), "500m")
    message = (CAPTURES / "CheckRequest_json_ok.bin").read_bytes()
    return [frames.of(number, message, traced=traced) for number in range(count)]


async def call(engine: Engine, sending: list[bytes]) -> list[float]:
    """Send all over a connection of its own; the seconds that each took."""
    connection = await Connection.open(engine.host, engine.port)
    answered = await connection.send(sending, AT_A_TIME)
    await connection.close()
    assert len(answered.seconds) == len(sending), "a call was refused"
    return answered.seconds


async def run(engine: Engine, sending: list[bytes]) -> tuple[float, float, list[float]]:
    """Calls a second, processor microseconds of a call, and what each took."""
    before, started = processor_seconds(engine.pid), time.perf_counter()
    taken = await asyncio.gather(*(call(engine, sending) for _ in range(CONNECTIONS)))
    seconds, calls = time.perf_counter() - started, CONNECTIONS * len(sending)
    cpu_us = (processor_seconds(engine.pid) - before) / calls * 1e6
    return calls / seconds, cpu_us, [one for each in taken for one in each]


@pytest.mark.parametrize("traced", [False, True])
async def test_calls_a_second_of_an_engine_alone(*, traced: bool, results: Results):
    cpu: dict[str, float] = {}
    for name, count in CALLS.items():
        sending = requests(count // CONNECTIONS, traced=traced)
        async with running_engine(name) as engine:
            await run(engine, sending[:500])
            runs = [await run(engine, sending) for _ in range(RUNS)]
        times = sorted(one for _, _, taken in runs for one in taken)
        rates = [rate for rate, _, _ in runs]
        cpu[name] = median(cpu_us for _, cpu_us, _ in runs)
        results.add(
            Row(
                what=f"engine alone, {name}",
                setting=f"{CONNECTIONS} x {AT_A_TIME}{', traced' if traced else ''}",
                runs=RUNS,
                per_second=median(rates),
                low=min(rates),
                high=max(rates),
                cpu_us=cpu[name],
                p50_ms=times[len(times) // 2] * 1e3,
                p99_ms=times[len(times) * 99 // 100] * 1e3,
                note=f"{cpu['grpcio'] / cpu[name]:.1f} times less CPU than grpcio",
            )
        )
    assert cpu["fast"] < cpu["grpcio"]
