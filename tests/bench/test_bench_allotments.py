"""
Checks without blocks of credit and with them, in one run: what the gateway and Redis spend.

A block pays where holds of one customer come often enough to share a call. So the rows are of few
busy customers and of many that share the same rate, each with the share that came from blocks.
"""

from pathlib import Path
from statistics import median

import pytest
from bench.deployment import Gateway, running_gateway
from bench.results import Results, Row, row_of_loads

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAPTURE = "CheckRequest_json_ok"
CUSTOMERS = (2, 64)
COUNTS = {16: 3_000, 64: 6_000}
"""Checks of one run, by how many are under way at a time."""
RUNS = 5
WARM = 3_000
HALVED, PACED_SECONDS, PACED_MAX = 64, 2, 256


@pytest.mark.parametrize("customers", CUSTOMERS)
async def test_checks_with_and_without_blocks(
    customers: int, redis_of_test: str, bench_folder: Path, results: Results
):
    for allotments in ("off", "auto"):
        async with running_gateway(
            bench_folder / f"allotments-{allotments}-{customers}",
            redis_of_test,
            customers=[
                Customer(
                    customer_id=f"cus_{allotments}_{number:02d}", plan="prepaid", currency="USD"
                )
                for number in range(customers)
            ],
            listen_setting="SIDECAR_GRPC_FAST_LISTEN",
            settings={"SIDECAR_ALLOTMENTS": allotments},
        ) as gateway:
            await gateway.load(do="check", capture=CAPTURE, count=WARM, concurrency=16)
            for row in await _rows(gateway, allotments, customers):
                results.add(row)
            placed = await gateway.metric("sidecar_allotted_holds_total", outcome="placed")
            opened = await gateway.metric("sidecar_allotted_holds_total", outcome="opened")
            holds = await gateway.metric("sidecar_holds_total", transition="placed")
            results.texts[f"holds from blocks, {customers} customers, allotments {allotments}"] = (
                f"{placed:.0f} of {holds:.0f}; {opened:.0f} opened in the store by now"
            )
            if placed:
                results.texts[f"until the store had them, {customers} customers"] = await _told(
                    gateway
                )
            assert allotments == "auto" or not placed
            for bad in ("lost", "unfit"):
                assert not await gateway.metric("sidecar_allotted_holds_total", outcome=bad)


async def _told(gateway: Gateway) -> str:
    """How many of the batches were told of within which time."""
    name = "sidecar_allotted_hold_told_seconds"
    count = await gateway.metric(f"{name}_count")
    shares = []
    for edge in (0.03, 0.04, 0.05, 0.1):
        within = await gateway.metric(f"{name}_bucket", le=str(edge))
        shares.append(f"{within / count:.1%} within {edge * 1e3:.0f} ms")
    return f"{count:.0f} batches: {', '.join(shares)}"


async def _rows(gateway: Gateway, allotments: str, customers: int) -> list[Row]:
    rows = []
    order = {"do": "check", "capture": CAPTURE}
    name = f"checks, {customers} customers, allotments {allotments}"
    for concurrency, count in COUNTS.items():
        runs = [
            await gateway.load(count=count, concurrency=concurrency, **order) for _ in range(RUNS)
        ]
        assert all(run["accepted"] for run in runs), runs
        assert not any("denied" in run["failed"] for run in runs), runs
        rows.append(row_of_loads(name, f"{concurrency} at a time", runs))
        if concurrency == HALVED:
            rate = median(run["accepted"] / run["seconds"] for run in runs) / 2
            paced = [
                await gateway.load(
                    count=int(rate * PACED_SECONDS), concurrency=PACED_MAX, rate=rate, **order
                )
                for _ in range(RUNS)
            ]
            assert all(run["accepted"] for run in paced), paced
            rows.append(row_of_loads(name, "half load", paced))
    return rows
