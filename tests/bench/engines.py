"""
A gRPC engine in a process of its own, and a load for it: a captured check over two connections.

The client writes frames that were made before, so that it is never what is measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

from bench.deployment import CAPTURES, METADATA, processor_seconds, python_script, running_server
from bench.frames import CallFrames, Connection
from bench.results import Row

CONNECTIONS = 2
AT_A_TIME = 16
"""On each connection."""
CHECK = "/envoy.service.auth.v3.Authorization/Check"


@dataclass(frozen=True, slots=True)
class Engine:
    host: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Run:
    rate: float
    """Calls a second."""
    cpu_us: float
    """Of the engine's process, for each call."""
    seconds: list[float]
    """What each call took."""


@asynccontextmanager
async def running_engine(
    *command: str, environment: dict[str, str] | None = None
) -> AsyncIterator[Engine]:
    async with running_server(*command, environment=environment) as (address, pid):
        host, _, port = address.rpartition(":")
        yield Engine(host, int(port), pid)


def engine_of_ours(name: str) -> tuple[str, ...]:
    """The command of one of ours, `fast` or `grpcio`."""
    return python_script("engine_process.py", name)


def requests(count: int, *, traced: bool = False) -> list[bytes]:
    """The captured check as calls of one connection."""
    frames = CallFrames(CHECK, list(METADATA.items()), "500m")
    message = (CAPTURES / "CheckRequest_json_ok.bin").read_bytes()
    return [frames.of(number, message, traced=traced) for number in range(count)]


async def run(engine: Engine, sending: list[bytes]) -> Run:
    """Send all of it over each of the connections."""
    before, started = processor_seconds(engine.pid), time.perf_counter()
    taken = await asyncio.gather(*(_call(engine, sending) for _ in range(CONNECTIONS)))
    seconds, calls = time.perf_counter() - started, CONNECTIONS * len(sending)
    cpu_us = (processor_seconds(engine.pid) - before) / calls * 1e6
    return Run(calls / seconds, cpu_us, [one for each in taken for one in each])


async def _call(engine: Engine, sending: list[bytes]) -> list[float]:
    """Send all over a connection of its own; the seconds that each took."""
    connection = await Connection.open(engine.host, engine.port)
    answered = await connection.send(sending, AT_A_TIME)
    await connection.close()
    assert len(answered.seconds) == len(sending), "a call was refused"
    return answered.seconds


def row_of_runs(what: str, setting: str, runs: Sequence[Run]) -> Row:
    times = sorted(one for each in runs for one in each.seconds)
    rates = [each.rate for each in runs]
    return Row(
        what=what,
        setting=setting,
        runs=len(runs),
        per_second=median(rates),
        low=min(rates),
        high=max(rates),
        cpu_us=median(each.cpu_us for each in runs),
        p50_ms=times[len(times) // 2] * 1e3,
        p99_ms=times[len(times) * 99 // 100] * 1e3,
    )
