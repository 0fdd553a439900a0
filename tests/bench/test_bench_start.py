"""
How long a gateway takes until it is ready, and what it keeps in memory then.

What it keeps once it has seen many customers tells `test_bench_curves.py`.
"""

from pathlib import Path
from statistics import median

import pytest
from bench.deployment import MEMORY_TARGET, Gateway, resident_mib, running_gateway
from bench.results import Results, Row

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNS = 7
TARGET = f"targets 1.5 s, {MEMORY_TARGET}"
CUSTOMER = Customer(customer_id="cus_start", plan="prepaid", currency="USD")


async def test_the_start_of_a_gateway(redis_of_test: str, bench_folder: Path, results: Results):
    """From exec to /readyz 200, with the example policy and both gRPC engines, as shipped."""
    starts: list[Gateway] = []
    resident: list[float] = []
    # The first one writes Python's compiled files where there are none, and is not counted.
    for number in range(RUNS + 1):
        async with running_gateway(
            bench_folder / f"start-{number}",
            redis_of_test,
            customers=[CUSTOMER],
            listen_setting="SIDECAR_GRPC_FAST_LISTEN",
        ) as gateway:
            starts.append(gateway)
            resident.append(resident_mib(gateway.process.pid))
    seconds = [start.ready_seconds for start in starts[1:]]
    cpu_seconds = median(start.ready_cpu_seconds for start in starts[1:])
    results.add(
        Row(
            what="gateway, start",
            setting="to /readyz 200, example policy",
            runs=RUNS,
            per_second=1 / median(seconds),
            low=1 / max(seconds),
            high=1 / min(seconds),
            cpu_us=cpu_seconds * 1e6,
            resident_mib=median(resident[1:]),
            note=f"{median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f}), "
            f"{cpu_seconds:.2f} s of processor; {TARGET}",
        )
    )
