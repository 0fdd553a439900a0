"""A month of 10 million events of 10,000 customers, invoiced by two processes."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from bench.deployment import Worker
from bench.filling import settle_down, size_gib
from bench.invoice_card import CARD
from bench.invoice_filling import AMOUNT, SHARDS, fill_month
from bench.results import Results, Row

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.large]

EVENTS = int(os.environ.get("SIDECAR_INVOICE_EVENTS", "10000000"))
CUSTOMERS = int(os.environ.get("SIDECAR_INVOICE_CUSTOMERS", "10000"))
PROCESSES = 2
BATCH = 200
GROWTH_MAX_KIB = 65_536
"""What a process may need more than before its round, however many customers there are."""


async def test_a_month_is_invoiced_with_flat_memory(make_database: Callable, results: Results):
    end = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = (end - timedelta(days=1)).replace(day=1)
    dsn = await make_database()
    await fill_month(dsn, customers=CUSTOMERS, each=EVENTS // CUSTOMERS, start=start, end=end)
    await settle_down(dsn)
    order = {
        "postgres_dsn": dsn,
        "card": CARD.content(),
        "shards": SHARDS,
        "batch": BATCH,
    }
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(Worker.run("invoice_process.py", order))
            for _ in range(PROCESSES)
        ]
        started = time.perf_counter()
        rounds = await asyncio.gather(*(worker.ask({}) for worker in workers))
        seconds = time.perf_counter() - started
        again = [await worker.ask({}) for worker in workers]
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            "SELECT count(*) AS invoices, sum(total_nano)::bigint AS nano,"
            " count(*) FILTER (WHERE findings <> '[]') AS findings,"
            " (SELECT sum(events)::bigint FROM invoice_parts) AS events"
            " FROM invoices WHERE state = 'closed'"
        )
    finally:
        await connection.close()
    assert tuple(row) == (CUSTOMERS, EVENTS * AMOUNT, 0, 2 * EVENTS)
    assert sum(one["closed"] for one in again) == 0
    growth = max(one["resident_most_kib"] - one["resident_before_kib"] for one in rounds)
    results.add(
        Row(
            what="invoiced events, large",
            setting=f"{EVENTS:,} events of {CUSTOMERS:,} customers, {await size_gib(dsn):.1f} GiB,"
            f" {PROCESSES} processes",
            runs=1,
            per_second=EVENTS / seconds,
            low=EVENTS / seconds,
            high=EVENTS / seconds,
            cpu_us=sum(one["cpu_seconds"] for one in rounds) / EVENTS * 1e6,
            note=f"{seconds:.0f} s in all, memory grew by {growth // 1024} MiB",
        )
    )
    assert growth <= GROWTH_MAX_KIB, rounds
