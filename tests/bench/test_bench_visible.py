"""
How long after its log a request is in the customer's balance: both as they are seen from outside.

From a log record that goes to the gateway's fast listener to a balance that shows its amount, read
from Redis as the admin API reads it. Envoy's own buffer, of up to 250 ms, comes before that.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from bench.deployment import (
    CAPTURES,
    METADATA,
    SHARDS,
    Gateway,
    Worker,
    processor_seconds,
    running_gateway,
    secret_of,
)
from bench.results import Results, Row, row_of_loads

from sidecar.services.control_ports import Customer

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECK, EXPORT = "CheckRequest_json_ok", "ExportLogsServiceRequest_json"
RUNS = 5
ALONE = 200
"""Events of one run, one after the other."""
BATCH, AT_A_TIME = 20, 4
"""Of what others send meanwhile: as full as Envoy's buffer of 16 KiB makes them."""
FULL_EVENTS = 3_000
WATCH_SECONDS, WATCHED_A_SECOND = 2.5, 100
"""Of a run under load; each event is sent when it is due and the one before was seen."""
PAUSE_SECONDS = 0.001
"""Between two looks at the balance under load, so that looking is none of it."""
LOAD_SECONDS = WATCH_SECONDS + 1.0
POLL_SECONDS = 0.02
AT_A_TIME_MAX = 64
"""Batches under way when they come at their times, whatever the answers do."""
TARGET = "target 50 ms p99"
WATCHED_CUSTOMER = Customer(customer_id="cus_watched", plan="prepaid", currency="USD")
OTHERS = [
    Customer(customer_id=f"cus_{number:02d}", plan="prepaid", currency="USD")
    for number in range(32)
]


@pytest.mark.parametrize("journal", ["off", "on"])
async def test_the_balance_after_the_log(
    journal: str, redis_of_test: str, bench_folder: Path, results: Results
):
    folder = bench_folder / f"visible-{journal}"
    async with (
        running_gateway(
            folder,
            redis_of_test,
            customers=[*OTHERS, WATCHED_CUSTOMER],
            listen_setting="SIDECAR_GRPC_FAST_LISTEN",
            settings={"SIDECAR_JOURNAL": journal, "SIDECAR_JOURNAL_DIR": str(folder / "journal")},
        ) as gateway,
        _watcher(gateway) as watcher,
    ):
        what = f"balance after the log, journal {journal}"
        await _watch_alone(watcher, 50)
        cpu = processor_seconds(gateway.process.pid)
        alone = [await _watch_alone(watcher, ALONE) for _ in range(RUNS)]
        cpu = processor_seconds(gateway.process.pid) - cpu
        rates = [ALONE / run["seconds"] for run in alone]
        row = Row(
            what=what,
            setting="one event at a time",
            runs=RUNS,
            per_second=median(rates),
            low=min(rates),
            high=max(rates),
            # With the check before it, which the watcher places a hold by.
            cpu_us=cpu / (RUNS * ALONE) * 1e6,
        )
        results.add(_seen(row, alone))

        await _full_rate(gateway)
        full = median([await _full_rate(gateway) for _ in range(RUNS)])
        runs = [await _watch_under_load(gateway, watcher, full / 2) for _ in range(RUNS)]
        row = row_of_loads(what, "half load", [load for load, _ in runs], events_each=BATCH)
        results.add(_seen(row, [watched for _, watched in runs]))


@asynccontextmanager
async def _watcher(gateway: Gateway) -> AsyncIterator[Worker]:
    order = {
        "address": gateway.address,
        "captures": str(CAPTURES),
        "secrets": [secret_of(WATCHED_CUSTOMER)],
        "metadata": METADATA,
        "redis_url": gateway.redis.url,
        "shards": SHARDS,
        "customer_id": WATCHED_CUSTOMER.customer_id,
    }
    async with Worker.run("balance_watcher.py", order) as watcher:
        yield watcher


async def _watch_alone(watcher: Worker, count: int) -> dict[str, Any]:
    order = {"check": CHECK, "export": EXPORT, "count": count, "seconds": 60.0}
    await watcher.ask(order | {"every_seconds": 0.0, "pause_seconds": 0.0})
    return await watcher.ask({})


async def _full_rate(gateway: Gateway) -> float:
    """Events a second as fast as they are taken."""
    await gateway.client.ask({"do": "hold", "capture": CHECK, "count": FULL_EVENTS})
    run = await gateway.load(do="export", capture=EXPORT, batch=BATCH, concurrency=AT_A_TIME)
    return run["accepted"] * BATCH / run["seconds"]


async def _watch_under_load(
    gateway: Gateway, watcher: Worker, rate: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the others' load was, and what was watched while it lasted."""
    events = int(rate * LOAD_SECONDS / BATCH) * BATCH
    await gateway.client.ask({"do": "hold", "capture": CHECK, "count": events})
    order = {
        "check": CHECK,
        "export": EXPORT,
        "count": int(WATCH_SECONDS * WATCHED_A_SECOND),
        "seconds": WATCH_SECONDS,
        "every_seconds": 1 / WATCHED_A_SECOND,
        "pause_seconds": PAUSE_SECONDS,
    }
    await watcher.ask(order)
    before = await gateway.redis.usage_records()
    load = asyncio.ensure_future(
        gateway.load(
            do="export",
            capture=EXPORT,
            batch=BATCH,
            concurrency=AT_A_TIME_MAX,
            rate=rate / BATCH,
        )
    )
    # Its messages are made first, and then it begins.
    while await gateway.redis.usage_records() == before:
        assert not load.done(), "nothing of the load has arrived"
        await asyncio.sleep(POLL_SECONDS)
    watched = await watcher.ask({})
    assert not load.done(), "the load ended before what was watched"
    return await load, watched


def _seen(row: Row, runs: list[dict[str, Any]]) -> Row:
    """The row with the times until the balance showed an event, over all runs."""
    seen, answered = (
        sorted(one for run in runs for one in run[name]) for name in ("seen_ms", "answered_ms")
    )
    return replace(
        row,
        p50_ms=_quantile(seen, 0.50),
        p99_ms=_quantile(seen, 0.99),
        note=f"slowest of {len(seen)} {seen[-1]:.1f} ms; answered {_quantile(answered, 0.50):.1f}, "
        f"{_quantile(answered, 0.99):.1f} ms; {TARGET}",
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
