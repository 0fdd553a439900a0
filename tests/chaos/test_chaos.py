"""
Workers are killed with SIGKILL at every point while usage comes and the providers fail.

SIDECAR_CHAOS_SEED repeats a run as far as processes allow, SIDECAR_CHAOS_KILLS sets how many are
killed; `make chaos` kills 1,000.
"""

import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from chaos.billing_checks import (
    check_collected,
    check_inbox,
    check_invoices,
    check_standings,
    contents,
    metered_customers,
)
from chaos.buyers import Buyers
from chaos.losses import Losses
from chaos.newcomers import Newcomers, Subscribers
from chaos.parts import SHARDS
from chaos.telling import numbers_of
from chaos.world import REPORTED, World
from fixtures.live_store import LiveStore, SystemClock
from fixtures.simulation_model import write_policy

from sidecar.app.reconciling import make_reconciler
from sidecar.outbound.policy_files.holder import PolicyHolder
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.pool import Pool
from sidecar.standins.stripe_faults import Fault

SEED = int(os.environ.get("SIDECAR_CHAOS_SEED") or secrets.randbelow(2**32))
KILLS = int(os.environ.get("SIDECAR_CHAOS_KILLS") or 60)
KILLS_FOR_ALL_POINTS = 900
KILLS_MORE_MAX = 200


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url, shards=SHARDS)
    yield store
    await store.connection.aclose()


@pytest.fixture
async def world(
    store: LiveStore, redis_url: str, postgres_pool: Pool, postgres_dsn: str, tmp_path: Path
) -> AsyncIterator[World]:
    policies = PolicyHolder(write_policy(tmp_path))
    await policies.load_initial()
    world = World(Random(SEED), store, postgres_pool, (redis_url, postgres_dsn), tmp_path)
    async with world.outside.serving():
        world.stories += [Newcomers(world), Subscribers(world), Buyers(world), Losses(world)]
        await world.open(policies)
        yield world


@pytest.mark.timeout(7_200)
async def test_no_death_of_a_worker_loses_or_doubles_anything(
    world: World, capsys: pytest.CaptureFixture[str]
):
    told = 0
    losses = next(story for story in world.stories if isinstance(story, Losses))
    try:
        while world.tally.kills.total() < KILLS or is_to_go_on(world):
            await world.use()
            await losses.strike()
            await world.kill_some()
            told = tell(told, world, capsys)
        unkilled = world.unkilled()
        await world.finish()
        await check_usage(world)
        await check_ledger(world)
        await check_provider(world)
        await check_invoices(world)
        await check_inbox(world)
        await check_standings(world)
        await check_collected(world)
        for story in world.stories:
            await story.check()
        before = await contents(world.pool)
        await world.run_all()
        assert await contents(world.pool) == before  # To do it all again changes nothing.
        check_faults(world)
        if KILLS >= KILLS_FOR_ALL_POINTS:
            assert not unkilled, f"{unkilled}\n{numbers_of(SEED, world)}"
    except BaseException as error:
        error.add_note(f"repeat it with SIDECAR_CHAOS_SEED={SEED} SIDECAR_CHAOS_KILLS={KILLS}")
        raise
    with capsys.disabled():
        print(f"\n{numbers_of(SEED, world)}")  # noqa: T201


def tell(told: int, world: World, capsys: pytest.CaptureFixture[str]) -> int:
    """How far a long run has come, for whoever waits for it."""
    hundreds = world.tally.kills.total() // 100
    if hundreds > told:
        with capsys.disabled():
            print(f"{world.tally.kills.total()} kills, {len(world.unkilled())} points to go")  # noqa: T201
    return hundreds


def is_to_go_on(world: World) -> bool:
    """A long run kills at each point that workers come by, if some more deaths will do."""
    if KILLS < KILLS_FOR_ALL_POINTS or world.tally.kills.total() >= KILLS + KILLS_MORE_MAX:
        return False
    return bool(world.unkilled())


def check_faults(world: World) -> None:
    """Enough calls failed."""
    drawn = world.outside.drawn
    assert drawn.total() - drawn[Fault.NONE] > KILLS // 20


async def check_usage(world: World) -> None:
    """Each event once, with its quantities."""
    found = await world.pool.fetch(
        "SELECT client_key, count(*) AS times FROM usage_events GROUP BY 1"
    )
    assert {row["client_key"]: row["times"] for row in found} == {
        sent.event_id: 1 for sent in world.sent
    }
    quantities: Counter[tuple[str, str]] = Counter()
    for row in await world.pool.fetch("SELECT customer_id, meter, quantity FROM usage_lines"):
        quantities[row["customer_id"], row["meter"]] += row["quantity"]
    for customer, plan in world.customers:
        expected = world.expected(customer, plan).quantities
        assert all(quantities[customer, meter] == expected[meter] for meter in REPORTED)
    assert await world.pool.fetchval("SELECT count(*) FROM quarantine") == 0


async def check_ledger(world: World) -> None:
    """To the nano the price of the totals, and what the live store says."""
    ledger = PostgresLedger(world.pool)
    buyers = next(story for story in world.stories if isinstance(story, Buyers))
    for customer, plan in world.customers:
        expected = world.expected(customer, plan).total_nano
        left = buyers.given_nano(customer) - expected
        (_, used, held, available) = await world.store.numbers(customer)
        found = (used, held, available)
        assert found == (expected, 0, left), await buyers.story_of(customer)
        assert await ledger.read_available(customer) == available
        revenue = await world.pool.fetchval(
            "SELECT revenue_nano FROM account_balances WHERE customer_id = $1", customer
        )
        assert int(revenue or 0) == expected
    report = await make_reconciler(
        world.store.connection, world.store.keyspace, world.pool, SystemClock()
    ).run_once()
    assert (report.differences, report.unread) == ([], [])


async def check_provider(world: World) -> None:
    """The provider has each quantity once, and nothing of what credit pays."""
    states = await world.pool.fetch("SELECT state, count(*) AS n FROM report_windows GROUP BY 1")
    assert {row["state"] for row in states} <= {"sent"}
    differ = await world.pool.fetch(
        "SELECT customer_id, meter, outcome, detail FROM report_reconciliations"
        " WHERE outcome <> 'same'"
    )
    assert [dict(row) for row in differ] == []
    expected = {
        (world.outside.account_of(customer), meter): Decimal(quantity)
        for customer in metered_customers(world)
        for meter, quantity in world.expected(customer, "invoiced").quantities.items()
        if meter in REPORTED and quantity
    }
    assert world.outside.stripe.meter_totals() == expected
    assert list(world.outside.stripe.bugs) == []
