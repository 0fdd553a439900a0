"""Settlement: from the shards' streams to a real Postgres, each event once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bench.results import Results
from bench.settling import (
    Streams,
    add_customers,
    check_ledger,
    ledger_numbers,
    make_customers,
    row_of_rounds,
    running_settlement,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

SETTINGS = {"as shipped": (64, 1_000), "full batches": (4, 1_000), "large batches": (4, 5_000)}
"""Shards and batch size. The events of a run spread over the shards, so only few shards make
batches full."""
EVENTS = 20_000
RUNS = 3
CUSTOMERS = 200


@pytest.mark.parametrize("name", SETTINGS)
async def test_settled_events_a_second(
    name: str, redis_of_test: str, make_database: Callable, bench_folder: Path, results: Results
):
    shards, batch = SETTINGS[name]
    customers = make_customers(CUSTOMERS)
    dsn = await make_database()
    await add_customers(dsn, customers)
    rounds = []
    async with (
        Streams.prepare(
            bench_folder / f"settle-{shards}-{batch}", redis_of_test, customers, shards=shards
        ) as streams,
        running_settlement(redis_of_test, dsn, shards=shards, batch=batch) as worker,
    ):
        for _ in range(RUNS):
            records = streams.make(EVENTS)
            await streams.append(records)
            rounds.append(await worker.ask({}))
        assert [one["settled"] for one in rounds] == [EVENTS] * RUNS
        check_ledger(await ledger_numbers(dsn), EVENTS * RUNS)

        # The same facts once more, under new stream ids.
        before = await ledger_numbers(dsn)
        await streams.append(records)
        repeated = await worker.ask({})
        assert repeated["settled"] == 0
        assert await ledger_numbers(dsn) == before
    setting = f"{shards} shards, batches of {min(batch, EVENTS // shards):,}"
    results.add(row_of_rounds(f"settled events, {name}", setting, EVENTS, rounds))
    results.add(row_of_rounds(f"repeated events, {name}", setting, EVENTS, [repeated]))
