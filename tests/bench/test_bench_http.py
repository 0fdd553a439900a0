"""
Checks over HTTP, and what HTTP itself costs: side by side, by `wrk` (of Debian) on another core.

Whether a server of our own would be worth it shows in the difference of the two that do nothing.
"""

import json
from pathlib import Path
from statistics import median

import pytest
from bench.deployment import (
    asked_over_http,
    checked_over_http,
    processor_seconds,
    python_script,
    running_gateway,
    running_server,
    secret_of,
)
from bench.results import Results, Row
from bench.wrk import measured_core, needs_wrk, pin, run_wrk, write_script

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNS = 5
SECONDS = 2
CONNECTIONS = 16
CUSTOMER = Customer(customer_id="cus_http", plan="prepaid", currency="USD")


async def load(address: str, pid: int, script: Path) -> dict[str, float]:
    """One run of wrk on the first core; what is measured has the last."""
    pin(pid, measured_core())
    used = processor_seconds(pid)
    run = await run_wrk(address, script, connections=CONNECTIONS, seconds=SECONDS)
    assert run.refused == 0, run
    return {
        "rate": run.requests / run.seconds,
        "cpu": (processor_seconds(pid) - used) / run.requests * 1e6,
        "p50": run.p50_ms,
        "p99": run.p99_ms,
    }


@needs_wrk
async def test_checks_over_http(redis_of_test: str, bench_folder: Path, results: Results):
    asked = asked_over_http(secret_of(CUSTOMER))
    headers = {"content-type": "application/json"}
    script = write_script(bench_folder / "check.lua", "/v1/check", [headers], json.dumps(asked))
    async with (
        running_gateway(bench_folder / "http", redis_of_test, customers=[CUSTOMER]) as gateway,
        running_server(*python_script("http_process.py", "aiohttp")) as with_aiohttp,
        running_server(*python_script("http_process.py", "raw")) as raw,
    ):
        # A denial would be another, cheaper path, and is answered 200 as well.
        answer = await checked_over_http(gateway.http, asked)
        assert answer["allow"], answer
        servers = {
            "check": (gateway.http, gateway.process.pid),
            "aiohttp alone": with_aiohttp,
            "raw asyncio alone": raw,
        }
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(RUNS + 1):
            for name, (address, pid) in servers.items():
                runs[name].append(await load(address, pid, script))
    for name, found in runs.items():
        warm = found[1:]
        middle = {number: median(run[number] for run in warm) for number in warm[0]}
        results.add(
            Row(
                what=f"HTTP, {name}",
                setting=f"{CONNECTIONS} connections",
                runs=RUNS,
                per_second=middle["rate"],
                low=min(run["rate"] for run in warm),
                high=max(run["rate"] for run in warm),
                cpu_us=middle["cpu"],
                p50_ms=middle["p50"],
                p99_ms=middle["p99"],
            )
        )
