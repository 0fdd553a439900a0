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
    settle_round,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

SETTINGS = {
    "as shipped": (64, 1_000, 200),
    "full batches": (4, 1_000, 200),
    "large batches": (4, 5_000, 200),
    "a customer an event": (4, 1_000, 5_000),
}
"""
Shards, batch size, customers. The events of a run spread over the shards, so only few shards make
batches full; they are of all customers in turn, so with many of them each event of a batch has a
ledger transaction, balances and windows to itself.
"""
EVENTS = 40_000
RUNS = 5


@pytest.mark.parametrize("name", SETTINGS)
async def test_settled_events_a_second(
    name: str, redis_of_test: str, make_database: Callable, bench_folder: Path, results: Results
):
    shards, batch, count = SETTINGS[name]
    customers = make_customers(count)
    dsn = await make_database()
    await add_customers(dsn, customers)
    rounds = []
    async with (
        Streams.prepare(
            bench_folder / f"settle-{shards}-{batch}-{count}",
            redis_of_test,
            customers,
            shards=shards,
        ) as streams,
        running_settlement(redis_of_test, dsn, shards=shards, batch=batch) as worker,
    ):
        for _ in range(RUNS):
            records = streams.make(EVENTS)
            await streams.append(records)
            rounds.append(await settle_round(worker, dsn))
        assert [one["settled"] for one in rounds] == [EVENTS] * RUNS
        check_ledger(await ledger_numbers(dsn), EVENTS * RUNS)

        # The same facts once more, under new stream ids.
        before = await ledger_numbers(dsn)
        await streams.append(records)
        repeated = await settle_round(worker, dsn)
        assert repeated["settled"] == 0
        assert await ledger_numbers(dsn) == before
    setting = f"{shards} shards, batches of {min(batch, EVENTS // shards):,}"
    results.add(row_of_rounds(f"settled events, {name}", setting, EVENTS, rounds))
    results.add(row_of_rounds(f"repeated events, {name}", setting, EVENTS, [repeated]))
