"""Settling into tables of 5 million events against settling into empty ones."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from bench.filling import fill_ledger, settle_down, size_gib
from bench.results import Results
from bench.settling import (
    Streams,
    add_customers,
    check_ledger,
    ledger_numbers,
    make_customers,
    row_of_rounds,
    rows_scanned,
    running_settlement,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.large]

FILLED = 5_000_000
CUSTOMERS = 1_000
EVENTS = 20_000
RUNS = 7
SHARDS = 4
BATCH = 1_000
RATIO_MIN = 0.5
GROWTH_MAX = 1.2
"""Of the settling process's memory: over the runs, and of full tables against empty ones."""


async def test_settling_does_not_slow_down_as_tables_grow(
    redis_of_test: str, make_database: Callable, bench_folder: Path, results: Results
):
    customers = make_customers(CUSTOMERS)
    empty, full = await make_database(), await make_database()
    for dsn in (empty, full):
        await add_customers(dsn, customers)
    await fill_ledger(full, FILLED)
    async with (
        Streams.prepare(bench_folder / "large", redis_of_test, customers, shards=SHARDS) as streams,
        running_settlement(redis_of_test, empty, shards=SHARDS, batch=BATCH) as into_empty,
        running_settlement(redis_of_test, full, shards=SHARDS, batch=BATCH) as into_full,
    ):
        # Not the empty one: a vacuum that finds nothing makes Postgres plan for empty tables.
        await settle_down(full)
        scanned_before = await rows_scanned(full)
        workers = {"empty": into_empty, "full": into_full}
        rounds = {name: [] for name in workers}
        # In turn, each as often the first, so that whatever else the machine does meets both
        # alike. The first round warms.
        for number in range(RUNS + 1):
            records = streams.make(EVENTS)
            for name in sorted(workers, reverse=bool(number % 2)):
                await streams.append(records)
                rounds[name].append(await workers[name].ask({}))
    # Time tells of the machine too; this tells of the statements alone.
    assert await rows_scanned(full) == scanned_before
    for dsn, before in ((empty, 0), (full, FILLED)):
        check_ledger(await ledger_numbers(dsn), before + EVENTS * (RUNS + 1))
    gib = await size_gib(full)
    for name, into in (("empty", "empty tables"), ("full", f"{FILLED:,} events, {gib:.1f} GiB")):
        assert all(one["settled"] == EVENTS for one in rounds[name])
        del rounds[name][0]
        results.add(row_of_rounds("settled events, large", into, EVENTS, rounds[name]))
    seconds = {name: median(one["seconds"] for one in runs) for name, runs in rounds.items()}
    ratio = seconds["empty"] / seconds["full"]
    results.texts[f"rate into {FILLED:,} events over rate into empty tables"] = f"{ratio:.2f}"
    assert ratio >= RATIO_MIN
    resident = {name: [one["resident_kib"] for one in runs] for name, runs in rounds.items()}
    for sizes in resident.values():
        assert sizes[-1] <= GROWTH_MAX * sizes[0], resident
    assert resident["full"][-1] <= GROWTH_MAX * resident["empty"][-1], resident
