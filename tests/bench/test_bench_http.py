"""
Checks over HTTP, and what HTTP itself costs: side by side, by `wrk` (of Debian) on another core.

Whether a server of our own would be worth it shows in the difference of the two that do nothing.
"""

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from statistics import median

import aiohttp
import pytest
from bench.deployment import processor_seconds, running_gateway, running_server
from bench.results import Results, Row

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNS = 5
SECONDS = 2
CONNECTIONS = 16
CUSTOMER = Customer(customer_id="cus_http", plan="prepaid", currency="USD")
ASKED = {
    "method": "POST",
    "path": "/v1/chat/completions",
    "host": "api.example.com",
    "headers": {
        "authorization": "Bearer sk_cus_http_of_the_bench",
        "content-type": "application/json",
    },
    "body": json.dumps({"model": "gpt-4o-mini", "max_tokens": 50, "messages": []}),
}
SCRIPT = """
wrk.method, wrk.path, wrk.body = "POST", "/v1/check", %s
wrk.headers["content-type"] = "application/json"
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50), latency:percentile(99)))
end
"""


async def load(address: str, pid: int, script: Path) -> dict[str, float]:
    """One run of wrk on the first core; what is measured has the last."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, cores[-1:])
    used = processor_seconds(pid)
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", str(cores[0]), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s"),
        *("-s", str(script), f"http://{address}"),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    found = re.search(rb"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", told)
    assert found is not None, told
    requests, duration, failed, p50, p99 = map(int, found.groups())
    assert (requests > 0, failed) == (True, 0), told
    return {
        "rate": requests / duration * 1e6,
        "cpu": (processor_seconds(pid) - used) / requests * 1e6,
        "p50": p50 / 1e3,
        "p99": p99 / 1e3,
    }


async def check_allowed(address: str) -> None:
    """A denial would be another, cheaper path, and is answered 200 as well."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/check", json=ASKED) as response,
    ):
        answer = await response.json()
    assert answer["allow"], answer


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk: apt install wrk")
async def test_checks_over_http(redis_of_test: str, bench_folder: Path, results: Results):
    script = bench_folder / "check.lua"
    script.write_text(SCRIPT % json.dumps(json.dumps(ASKED)))
    async with (
        running_gateway(bench_folder / "http", redis_of_test, customers=[CUSTOMER]) as gateway,
        running_server("http_process.py", "aiohttp") as with_aiohttp,
        running_server("http_process.py", "raw") as raw,
    ):
        await check_allowed(gateway.http)
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
