"""
What a process takes of a core while nothing asks it anything: a gateway alone, and all roles.

Both stand beside each other in the same spans of time, with the example policy and the intervals
that are shipped. All roles have their stores embedded, and these are measured, too.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest
from bench.deployment import processor_seconds, resident_mib, running_gateway, until_ready
from bench.process_trees import children_of, tree_seconds
from bench.results import Results, Row
from fixtures.stack import REPOSITORY, Process, free_port

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNS = 3
SECONDS = 20.0
SETTLED_SECONDS = 5.0
"""After it a process no longer does what belongs to its start."""
Key = tuple[str, str]
"""Which process is idle, and what of it is told."""
CUSTOMER = Customer(customer_id="cus_idle", plan="prepaid", currency="USD")


async def test_an_idle_process(redis_of_test: str, bench_folder: Path, results: Results):
    async with (
        running_gateway(
            bench_folder / "idle-gateway",
            redis_of_test,
            customers=[CUSTOMER],
            listen_setting="SIDECAR_GRPC_FAST_LISTEN",
        ) as gateway,
        _all_roles(bench_folder / "idle-all") as process,
    ):
        stores = {name: pid for pid, name in children_of(process.pid).items()}
        # Each with how its time is told: those who serve us may have processes of their own.
        measured = {
            ("gateway alone", "its process"): (gateway.process.pid, processor_seconds),
            ("all roles, embedded stores", "its process"): (process.pid, processor_seconds),
            ("all roles, embedded stores", "Redis"): (stores["redis-server"], tree_seconds),
            ("all roles, embedded stores", "Postgres"): (stores["postgres"], tree_seconds),
        }
        await asyncio.sleep(SETTLED_SECONDS)
        runs = [await _used(measured) for _ in range(RUNS)]
        for (whose, part), (pid, seconds) in measured.items():
            shares = [run[whose, part] for run in runs]
            results.add(
                Row(
                    what=f"idle, {whose}",
                    setting=f"{part}, {SECONDS:.0f} s each",
                    runs=RUNS,
                    per_second=1.0,
                    low=1.0,
                    high=1.0,
                    cpu_us=median(shares) * 1e6,
                    resident_mib=resident_mib(pid) if seconds is processor_seconds else None,
                    note=f"{_percent(median(shares))} of a core "
                    f"({_percent(min(shares))}-{_percent(max(shares))}); an idle second each",
                )
            )


@asynccontextmanager
async def _all_roles(folder: Path) -> AsyncIterator[Process]:
    """`sidecar serve` as somebody runs it at first: it makes its stores and secrets itself."""
    folder.mkdir()
    folder.chmod(0o755)  # Postgres runs as another user where we are root.
    listening = {name: f"127.0.0.1:{free_port()}" for name in ("GRPC", "GRPC_FAST", "ADMIN")}
    http = f"127.0.0.1:{free_port()}"
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("SIDECAR_")}
    environment = inherited | {
        **{f"SIDECAR_{name}_LISTEN": address for name, address in listening.items()},
        "SIDECAR_HTTP_LISTEN": http,
        "SIDECAR_DATA_DIR": str(folder / "data"),
        "SIDECAR_POLICY_DIR": str(REPOSITORY / "config" / "policy"),
        "SIDECAR_LOG_LEVEL": "error",
    }
    process = await Process.start(
        *(sys.executable, "-m", "sidecar", "serve"), log=folder / "all.log", env=environment
    )
    try:
        await until_ready(process, http)
        yield process
    finally:
        await process.stop()


async def _used(measured: Mapping[Key, tuple[int, Callable[[int], float]]]) -> dict[Key, float]:
    """The share of a core that each of these takes from now on."""

    def all_seconds() -> dict[Key, float]:
        return {key: seconds(pid) for key, (pid, seconds) in measured.items()}

    started, before = time.perf_counter(), all_seconds()
    await asyncio.sleep(SECONDS)
    took, after = time.perf_counter() - started, all_seconds()
    return {key: (after[key] - before[key]) / took for key in measured}


def _percent(share: float) -> str:
    return f"{share * 100:.2f} %"
