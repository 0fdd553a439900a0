"""
Processes that die while they collect, for every provider: nothing lost, nothing taken twice.

SIDECAR_COLLECT_SEED repeats the lots (not the order of what runs side by side),
SIDECAR_COLLECT_INVOICES and SIDECAR_COLLECT_KILLS make it longer.
"""

import asyncio
import os
import random
import secrets
from collections import Counter

import pytest
from fixtures.collecting_banks import BANKS
from fixtures.collecting_parts import NANO, CollectingWorld, Fuse, Lot
from fixtures.collecting_process import live
from fixtures.forks import Forks
from fixtures.invoice_tables import TABLES, close

SEED = int(os.environ.get("SIDECAR_COLLECT_SEED") or secrets.randbelow(2**32))
STORY = f"SIDECAR_COLLECT_SEED={SEED}"
INVOICES = int(os.environ.get("SIDECAR_COLLECT_INVOICES") or 9)
KILLS = int(os.environ.get("SIDECAR_COLLECT_KILLS") or 4)
CHANCE = 0.05
CALLS = ("due", "adopt", "claim", "note_try", "collect", "finish")
POINTS = {f"{call} {when}" for call in CALLS for when in ("before", "after")}
KINDS = 3
"""Of customers, by their number."""
WAYS_MAX = 30
BEGIN_SECONDS_MAX = 60.0


@pytest.fixture(params=BANKS)
async def bank(request):
    bank = BANKS[request.param]()
    async with bank.serving() as url:
        bank.url = url
        yield bank


@pytest.fixture
async def world(bank, postgres_pool):
    collector, end = bank.make(bank.url)
    yield CollectingWorld(postgres_pool, collector, bank.provider)
    await end()


async def still_open(pool) -> int:
    return await pool.fetchval("SELECT count(*) FROM collections WHERE ended_at IS NULL")


async def check(bank, pool, story: str) -> Counter[str]:
    """Paid here is paid there, once and to the unit; failed here is paid nowhere."""
    taken = bank.taken()
    rows = await pool.fetch("SELECT invoice_id, state, amount_minor FROM collections")
    for row in rows:
        wanted = [row["amount_minor"]] if row["state"] == "paid" else []
        assert taken.get(row["invoice_id"], []) == wanted, (row, taken, story)
        assert row["state"] in ("paid", "failed"), story
    assert all(count <= 1 for count in bank.asked().values()), (bank.asked(), story)
    assert taken.keys() <= {row["invoice_id"] for row in rows}
    # Stripe's are posted, and told, by the inbox.
    posted = await pool.fetch(
        "SELECT first_entry_id, amount_nano FROM ledger_transactions JOIN ledger_entries"
        " USING (customer_id, transaction_id) WHERE kind = 'payment' AND account = 'clearing'"
    )
    assert sorted(row["amount_nano"] for row in posted) == sorted(
        -row["amount_minor"] * NANO // 100
        for row in rows
        if row["state"] == "paid" and bank.provider != "stripe"
    ), story
    lost = await pool.fetchval("SELECT count(*) FROM collection_attempts WHERE outcome = 'failed'")
    told = await pool.fetchval("SELECT count(*) FROM notices WHERE kind = 'payment.failed'")
    assert told == (0 if bank.provider == "stripe" else lost), story
    return Counter(row["state"] for row in rows)


async def test_a_death_at_any_single_step_of_any_call(bank, world):
    """
    Each call of each port, before it and after it; a living worker goes on each time.

    Where customers differ each kind of them comes up. What a provider answers decides which calls
    follow, so some points may take more ways than that.
    """
    dice = random.Random(SEED)
    points: Counter[str] = Counter()
    invoice = 0
    for way in range(WAYS_MAX):
        if way >= KINDS and points.keys() >= POINTS:
            break
        number = 0
        while True:
            number, invoice = number + 1, invoice + 1
            name = await bank.prepare(world, 3 * invoice + way)
            world.invoices.close(f"inv_{invoice}", name, provider=bank.provider)
            fuse = Fuse(number)
            await world.live_and_die(fuse)
            for _ in range(60):
                await world.pool.execute("UPDATE collections SET lease_until = NULL")
                await world.worker().collect_once()
                bank.move(dice)
                new = await world.invoices.due(limit=1)
                if not new and not await still_open(world.pool):
                    break
            await check(bank, world.pool, f"{STORY}; {fuse.point}")
            if not fuse.point:
                break
            points[fuse.point] += 1
    assert points.keys() >= POINTS, (points, STORY)


async def test_deaths_of_three_workers_and_faults_of_the_provider_together(bank, world):
    dice = random.Random(SEED)
    lot = Lot(dice, CHANCE)
    for number in range(INVOICES):
        name = await bank.prepare(world, number)
        due = (number + 1) * NANO
        world.invoices.close(f"inv_{number}", name, due, provider=bank.provider)
    bank.storm(SEED)
    for _ in range(3_000):
        await asyncio.gather(*(world.live_and_die(lot) for _ in range(3)))
        bank.move(dice)
        if dice.random() < 0.3:  # A lease of the dead ends; of the living, too.
            await world.pool.execute("UPDATE collections SET lease_until = NULL")
        if not await world.invoices.due(limit=1) and not await still_open(world.pool):
            break
    story = f"{STORY}; {lot.deaths}"
    assert not await still_open(world.pool), story
    states = await check(bank, world.pool, story)
    assert states.total() == INVOICES, story
    assert lot.deaths.total() >= INVOICES, story


async def test_processes_that_are_killed(bank, world, postgres_dsn):
    dice = random.Random(SEED)
    await world.pool.execute(TABLES)
    for number in range(1, INVOICES + 1):
        name = await bank.prepare(world, number)
        await close(world.pool, number, customer=name, due=number * NANO, provider=bank.provider)
    # They ended this month, and the customers' providers collect since before.
    await world.pool.execute("UPDATE payers SET collect_since = '2026-01-01'")
    bank.storm(SEED)
    forks = Forks("fixtures.collecting_process")
    for life in range(KILLS + 1):
        process = forks.start(live, bank.provider, postgres_dsn, bank.url)
        try:
            assert await process.has_spoken(BEGIN_SECONDS_MAX)
            assert process.take_answer() == "begins"
            if life == KILLS:
                bank.calm()
            for _ in range(4_000):
                bank.move(dice)
                await asyncio.sleep(dice.random() * 0.02)
                count = await world.pool.fetchval("SELECT count(*) FROM collections")
                if count == INVOICES and not await still_open(world.pool):
                    break
                if life < KILLS and dice.random() < 0.1:
                    break
        finally:
            process.kill()
            assert await process.has_ended(BEGIN_SECONDS_MAX)
            process.close()
    states = await check(bank, world.pool, STORY)
    assert states.total() == INVOICES, STORY
