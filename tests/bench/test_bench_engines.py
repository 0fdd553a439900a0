"""
gRPC engines alone, side by side: a captured check over two connections, as Envoy has.

The client writes frames that were made before, so that it is never what is measured.
"""

import asyncio
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import pytest
from bench.deployment import CAPTURES, FOLDER, METADATA, REPOSITORY, processor_seconds
from bench.results import Results, Row
from hpack import Encoder

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = {"grpcio": 4_000, "fast": 16_000}
RUNS = 5
CONNECTIONS = 2
AT_A_TIME = 16
"""On each connection."""
CHECK = "/envoy.service.auth.v3.Authorization/Check"
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", CHECK),
    (":authority", "sidecar"),
    ("te", "trailers"),
    ("grpc-timeout", "500m"),
    ("content-type", "application/grpc"),
    ("x-envoy-internal", "true"),
    ("x-forwarded-for", "10.0.0.1"),
    ("user-agent", "envoy"),
    *METADATA.items(),
]
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


@dataclass
class Engine:
    host: str
    port: int
    pid: int


@asynccontextmanager
async def running_engine(name: str) -> AsyncIterator[Engine]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(FOLDER / "engine_process.py"), name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        host, _, port = (await process.stdout.readline()).decode().strip().rpartition(":")
        yield Engine(host, int(port), process.pid)
    finally:
        process.stdin.close()
        await process.wait()


def requests(count: int, *, traced: bool) -> list[bytes]:
    """HEADERS and DATA of each call; a traced one has a header that no other has."""
    encoder = Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(FIELDS)
    message = (CAPTURES / "CheckRequest_json_ok.bin").read_bytes()
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    found = []
    for number in range(count):
        trace = [("traceparent", f"00-{number * 7919:032x}-{number * 104729:016x}-01")]
        whole = block + (encoder.encode(trace) if traced else b"")
        stream_id = 2 * number + 1
        found.append(frame(1, 4, stream_id, whole) + frame(0, 1, stream_id, body))
    return found


async def call(engine: Engine, sending: list[bytes]) -> list[float]:
    """Send all, with some under way at a time; the seconds that each took."""
    reader, writer = await asyncio.open_connection(engine.host, engine.port)
    wide = frame(8, 0, 0, (2**30).to_bytes(4, "big"))
    writer.write(GREETING + frame(4, 0, 0, b"") + wide + frame(4, 1, 0, b""))
    begun: dict[int, float] = {}
    took: list[float] = []
    sent, buffer = 0, b""
    while len(took) < len(sending):
        room = min(AT_A_TIME - (sent - len(took)), len(sending) - sent)
        if room > 0:
            now = time.perf_counter()
            begun.update((2 * number + 1, now) for number in range(sent, sent + room))
            writer.write(b"".join(sending[sent : sent + room]))
            sent += room
        data = await reader.read(1 << 18)
        assert data, "the engine hung up"
        buffer += data
        at, now = 0, time.perf_counter()
        while len(buffer) - at >= 9:
            word, flags, stream_id = struct.unpack_from(">IBI", buffer, at)
            kind, end = word & 0xFF, at + 9 + (word >> 8)
            if len(buffer) < end:
                break
            assert kind not in {3, 7}, "a call was reset"
            if kind == 1 and flags & 1:
                took.append(now - begun.pop(stream_id))
            elif kind == 6 and not flags & 1:
                writer.write(frame(6, 1, 0, buffer[at + 9 : end]))
            at = end
        buffer = buffer[at:]
    writer.close()
    await writer.wait_closed()
    return took


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
