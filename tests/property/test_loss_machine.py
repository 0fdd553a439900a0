"""
A live store that is wiped or goes back, at any moment of anything: nothing acknowledged is lost.

The real scripts on a real Redis, a real ledger, journals on a real disk. Each sequence is drawn by
its seed: SIDECAR_LOSS_SEED repeats one, SIDECAR_LOSS_SEQUENCES sets how many there are.
"""

import os
import secrets
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from fixtures.live_store import LiveStore, SystemClock
from fixtures.loss_parts import SHARDS, Stores
from fixtures.loss_steps import LossSteps, apply_pending
from fixtures.loss_world import CUSTOMERS, LONG_MS, LossWorld

from sidecar import telemetry
from sidecar.app.reconciling import make_reconciler
from sidecar.domain.credit_replay import replay_credit
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.holds import Bound
from sidecar.outbound.postgres.ledger import PostgresLedger
from sidecar.outbound.postgres.pool import Pool
from sidecar.services.metering import UsageOutcome

SEED = int(os.environ.get("SIDECAR_LOSS_SEED") or secrets.randbelow(2**32))
SEQUENCES = int(os.environ.get("SIDECAR_LOSS_SEQUENCES") or 24)
STEPS = int(os.environ.get("SIDECAR_LOSS_STEPS") or 120)
ROUNDS_MAX = 12


def proven_overspend() -> float:
    labels = {"bound": Bound.PROVEN.value}
    return telemetry.REGISTRY.get_sample_value("sidecar_overspend_nano_total", labels) or 0.0


@pytest.mark.parametrize("number", range(SEQUENCES))
async def test_no_loss_of_the_store_loses_doubles_or_invents_usage(
    number: int, redis_url: str, postgres_pool: Pool, tmp_path: Path
):
    seed = SEED + number
    world = LossWorld(Random(seed), Stores(url=redis_url, pool=postgres_pool), tmp_path)
    proven = proven_overspend()
    try:
        await world.open()
        steps = LossSteps(world)
        for _ in range(STEPS):
            await steps.step()
        await recover(world)
        await check_acknowledged(world)
        await finish(world)
        await check_usage(world)
        await check_credit(world)
        assert proven_overspend() == proven
        await check_repeats(world)
    except BaseException as error:
        error.add_note(
            f"repeat it with SIDECAR_LOSS_SEED={seed} SIDECAR_LOSS_SEQUENCES=1"
            f" SIDECAR_LOSS_STEPS={STEPS}; it went:\n" + "\n".join(world.log)
        )
        raise
    finally:
        await world.aclose()


async def recover(world: LossWorld) -> None:
    """As all processes do in their rounds, until nobody has anything left to do."""
    for _ in range(ROUNDS_MAX):
        await world.end_leases()
        for process in (*world.controls, *world.gateways):
            await process.report()
        control = world.controls[0]
        try:
            made = await control.rebuilder.look_once()
            for gateway in world.gateways:
                await gateway.journal_watch.look()
                await gateway.renew()
            await apply_pending(world, control)
            settled = await control.settlement.settle_once()
            if not (made or settled or await is_unsettled(world)):
                return
        except StoreUnavailable as error:
            world.note(f"-- {error}")
    raise AssertionError("the store does not come to rest")


async def is_unsettled(world: LossWorld) -> bool:
    """Whether a stream has anything behind its offset; what is before it may be trimmed later."""
    rows = await world.stores.pool.fetch("SELECT shard, stream_offset FROM shards")
    return any(
        world.raw.xrange(
            world.stores.keyspace.usage(row["shard"]), f"({row['stream_offset']}", "+", count=1
        )
        for row in rows
    )


async def finish(world: LossWorld) -> None:
    """Senders repeat until they are answered; all holds end, all grants begin and end."""
    for shot in world.shots:
        for _ in range(1_000):
            if shot.is_told:
                break
            await world.tell(world.rng.choice(world.gateways), shot)
        assert shot.is_told
    await recover(world)
    for _ in range(2):
        world.advance(LONG_MS + 1)
        await world.controls[0].sweeper.sweep_once()
        await recover(world)


async def rows_of(world: LossWorld) -> Counter:
    rows = await world.stores.pool.fetch("SELECT customer_id, hold_id, kind FROM usage_events")
    return Counter((row["customer_id"], row["hold_id"], row["kind"]) for row in rows)


async def check_acknowledged(world: LossWorld) -> None:
    """Before any sender repeats anything."""
    rows = await rows_of(world)
    for shot in world.shots:
        if shot.acknowledged:
            assert rows[shot.customer, shot.hold_id, "capture"] == 1, shot


async def check_usage(world: LossWorld) -> None:
    """Each request's usage is charged once with its quantities, and nothing else is."""
    rows = await rows_of(world)
    assert max(rows.values(), default=0) <= 1
    captured = {key[:2] for key in rows if key[2] == "capture"}
    assert captured == {(shot.customer, shot.hold_id) for shot in world.shots}
    found: dict[str, Counter] = {}
    for row in await world.stores.pool.fetch("SELECT hold_id, meter, quantity FROM usage_lines"):
        found.setdefault(row["hold_id"], Counter())[row["meter"]] += row["quantity"]
    for shot in world.shots:
        counted = found.pop(shot.hold_id, Counter())
        assert {m: q for m, q in counted.items() if q} == {
            m: q for m, q in shot.quantities.items() if q
        }, shot
    assert not [one for one in found.values() if any(one.values())]
    aside = await world.stores.pool.fetch("SELECT key, reason, payload FROM quarantine")
    assert not aside, [str(dict(row)) for row in aside]


async def live_store(world: LossWorld) -> LiveStore:
    control = world.controls[0]
    return LiveStore(
        connection=control.connection,
        keyspace=world.stores.keyspace,
        balances=control.balances,
        accounts=control.accounts,
        directory=control.directory,
        cards=control.cards,
        stream=None,
    )


async def check_credit(world: LossWorld) -> None:
    """Live store, ledger and the decisions that were posted say the same, to the nano."""
    store, ledger = await live_store(world), PostgresLedger(world.stores.pool)
    for customer in CUSTOMERS:
        balance = await store.balance(customer)
        assert balance.held_nano == 0
        assert balance.available_nano == await ledger.read_available(customer)
        records = [r for r in world.stores.committed.values() if r.customer_id == customer]
        replayed = replay_credit(records)
        assert replayed.fits
        assert (replayed.granted_nano, replayed.used_nano) == (
            balance.granted_nano,
            balance.used_nano,
        )
        assert (replayed.voided_nano, replayed.expired_nano) == (
            balance.voided_nano,
            balance.expired_nano,
        )
        assert replayed.deficit_nano == balance.deficit_nano
    for shard in range(SHARDS):
        assert not world.raw.hlen(world.stores.keyspace.open(shard))
        assert not world.raw.zcard(world.stores.keyspace.expiry(shard))
    report = await make_reconciler(
        store.connection, world.stores.keyspace, world.stores.pool, SystemClock()
    ).run_once()
    assert (report.customers, report.differences, report.unread) == (len(CUSTOMERS), [], [])


async def check_repeats(world: LossWorld) -> None:
    """All that was ever told, once more at every gateway, changes nothing."""
    store = await live_store(world)
    before, rows = await store.dump(), await rows_of(world)
    for gateway in world.gateways:
        for shot in world.shots:
            for word in range(len(shot.words)):
                outcome = await world.outcome_of(gateway, shot, word)
                assert outcome is UsageOutcome.DUPLICATE, (shot, outcome)
        for shard in range(SHARDS):
            await gateway.replay.replay(shard)
    await world.controls[0].settlement.settle_once()
    assert await store.dump() == before
    assert await rows_of(world) == rows
