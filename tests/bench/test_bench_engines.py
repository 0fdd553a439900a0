"""Our gRPC engines alone, side by side. Beside one in Go: `test_bench_peers.py`."""

from dataclasses import replace

import pytest
from bench.engines import (
    AT_A_TIME,
    CONNECTIONS,
    engine_of_ours,
    requests,
    row_of_runs,
    run,
    running_engine,
)
from bench.results import Results

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = {"grpcio": 4_000, "fast": 16_000}
RUNS = 5


@pytest.mark.parametrize("traced", [False, True])
async def test_calls_a_second_of_an_engine_alone(*, traced: bool, results: Results):
    cpu: dict[str, float] = {}
    for name, count in CALLS.items():
        sending = requests(count // CONNECTIONS, traced=traced)
        async with running_engine(*engine_of_ours(name)) as engine:
            await run(engine, sending[:500])
            runs = [await run(engine, sending) for _ in range(RUNS)]
        setting = f"{CONNECTIONS} x {AT_A_TIME}{', traced' if traced else ''}"
        row = row_of_runs(f"engine alone, {name}", setting, runs)
        cpu[name] = row.cpu_us
        times = cpu["grpcio"] / row.cpu_us
        results.add(replace(row, note=f"{times:.1f} times less CPU than grpcio"))
    assert cpu["fast"] < cpu["grpcio"]
