"""A rebuilt store says what the ledger says, of every kind of credit: reconcile finds nothing."""

from datetime import UTC, datetime, timedelta

import pytest
from fixtures.live_store import SystemClock, event_of
from fixtures.losing_redis import losing_redis
from fixtures.recovering import Recovering, recovering, usage_of
from fixtures.stream_records import until

from sidecar.app.reconciling import make_reconciler
from sidecar.domain.grants import GrantKind, WithdrawalKind
from sidecar.services.control_ports import Grant, Withdrawal, WithdrawalState
from sidecar.services.ports import CaptureStatus

PINNED, TAKEN, OWING, BILLED, AHEAD, GONE = CUSTOMERS = (
    *("cus_pinned", "cus_taken", "cus_owing"),
    *("cus_billed", "cus_ahead", "cus_gone"),
)


@pytest.fixture
def redis():
    with losing_redis() as redis:
        yield redis


@pytest.fixture
async def world(redis, postgres_pool):
    redis.start()
    async with recovering(redis.url, postgres_pool) as world:
        yield world


async def give(world: Recovering, customer_id: str, grant_id: str, amount: int, **terms) -> None:
    grant = Grant(
        grant_id=grant_id, customer_id=customer_id, amount_nano=amount, currency="USD", **terms
    )
    stored = await world.record.create_grant(grant)
    await world.store.accounts.apply_grant(stored)
    await world.record.note_applied(stored)


async def take(
    world: Recovering, customer_id: str, grant_id: str, kind: WithdrawalKind, amount: int | None
) -> int:
    withdrawal = await world.record.create_withdrawal(
        Withdrawal(
            withdrawal_id=f"w_{grant_id}_{kind.value}",
            customer_id=customer_id,
            grant_id=grant_id,
            kind=kind,
            amount_nano=amount,
        )
    )
    taken = await world.store.accounts.apply_withdrawal(withdrawal)
    await world.record.finish_withdrawal(
        withdrawal, state=WithdrawalState.APPLIED, withdrawn_nano=taken
    )
    return taken


async def live_through(world: Recovering) -> None:
    """Every way in which credit comes, goes and is set aside."""
    now = datetime.now(UTC)
    for customer_id in CUSTOMERS:
        await world.customer(customer_id, 100)
    # Holds that pin grants of several kinds, one for some meters only, one void beneath the pins.
    promo = {"kind": GrantKind.PROMOTIONAL, "priority": 5}
    await give(world, PINNED, "promo", 40, expires_at=now + timedelta(days=9), **promo)
    await give(world, PINNED, "scoped", 70, meters=("output",), priority=1)
    await world.place(PINNED, 1, 90)
    await world.spend(PINNED, 2, 15)
    await take(world, PINNED, "promo", WithdrawalKind.VOID, None)
    # Refunds in part, a void of all, usage before, between and behind.
    await give(world, TAKEN, "second", 60)
    await world.spend(TAKEN, 3, 30)
    assert await take(world, TAKEN, "g_cus_taken", WithdrawalKind.REFUND, 20) == 20
    await world.spend(TAKEN, 4, 60)
    await take(world, TAKEN, "second", WithdrawalKind.VOID, None)
    # More usage than credit, before a grant pays some of it back.
    hold = await world.place(OWING, 5, 100)
    assert await world.capture(hold, 170) is CaptureStatus.CAPTURED
    await give(world, OWING, "pays", 30)
    # Billed afterwards: its usage takes no credit.
    hold = await world.place(BILLED, 6, 50)
    event = usage_of(hold, 50)
    await world.store.balances.capture_hold(event, (), prepaid=False)
    # Credit that begins later, and a hold corrected after an estimate.
    await give(world, AHEAD, "ahead", 500, effective_at=now + timedelta(days=3))
    estimated = await world.place(AHEAD, 7, 80)
    assert (
        await world.capture_event(event_of(estimated, 80, estimated=True), estimated, 80)
        is CaptureStatus.CAPTURED
    )
    assert (
        await world.capture_event(event_of(estimated, 35), estimated, 35) is CaptureStatus.CORRECTED
    )
    # Credit that ends soon, with some of it used and some pinned.
    await give(world, GONE, "brief", 50, expires_at=now + timedelta(seconds=4), priority=1)
    await world.spend(GONE, 8, 20)
    await world.place(GONE, 9, 10)
    await until(lambda: datetime.now(UTC) > now + timedelta(seconds=4.1))
    await world.spend(GONE, 10, 5)


async def assert_nothing_wrong(world: Recovering) -> None:
    reconciler = make_reconciler(
        world.store.connection, world.store.keyspace, world.pool, SystemClock()
    )
    report = await reconciler.run_once()
    assert [one for one in report.differences if one.kind.wrong] == []
    assert report.unread == []
    assert report.customers == len(CUSTOMERS)


@pytest.mark.parametrize("loss", ["wiped", "wiped_unsettled", "forced"])
async def test_reconcile_finds_nothing_wrong_after_a_rebuild(world, redis, loss):
    await live_through(world)
    if loss != "wiped_unsettled":
        await world.settle()
        await assert_nothing_wrong(world)
    if loss == "forced":
        assert await world.rebuilder.rebuild(None, force=True) == 4
        world.facts.clear()
        await world.store.cards.publish_again()
    else:
        if loss == "wiped_unsettled":
            # Half of it is settled, the other half is on the stream that is lost.
            await world.settlement.settle_shard(world.store.keyspace.shard_of(PINNED))
        redis.wipe()
        assert await world.refused(PINNED, 999)
        await world.recover()
    await assert_nothing_wrong(world)
    await world.settle()
    await assert_nothing_wrong(world)
    # What workers do then, and life goes on.
    for grant in await world.record.pending_grants(limit=100):
        await world.store.accounts.apply_grant(grant)
        await world.record.note_applied(grant)
    for withdrawal in await world.record.pending_withdrawals(limit=100):
        await world.store.accounts.apply_withdrawal(withdrawal)
    await assert_nothing_wrong(world)
    for number, customer_id in enumerate((PINNED, TAKEN, BILLED, AHEAD, GONE), 20):
        if (await world.store.balance(customer_id)).available_nano >= 5:
            await world.spend(customer_id, number, 5)
    await world.settle()
    await assert_nothing_wrong(world)
    await world.assert_equal(*CUSTOMERS)
