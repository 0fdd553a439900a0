"""Grants on the real scripts: cases in which a number once went wrong."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from fixtures.live_store import CUSTOMER, LiveStore, SystemClock, event_of, hold_of

from sidecar.domain.errors import Conflict, InvalidInput
from sidecar.domain.grants import GRANTS_ACTIVE_MAX, Rollover, WithdrawalKind
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import from_epoch_ms, to_epoch_ms
from sidecar.domain.usage import RatedLine, UsageEvent
from sidecar.services.control_ports import Grant, Withdrawal
from sidecar.services.ports import CaptureOutcome, PlaceStatus


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


@pytest.fixture
def start(store: LiveStore) -> datetime:
    """An instant ahead of real time, at which a test lets the shard's clock stand still."""
    return from_epoch_ms(to_epoch_ms(SystemClock().now() + timedelta(hours=1)))


async def give(store: LiveStore, grant_id: str, amount: int, **fields: object) -> None:
    await store.accounts.apply_grant(
        Grant(grant_id=grant_id, customer_id=CUSTOMER, amount_nano=amount, currency="USD", **fields)
    )


async def take(
    store: LiveStore, name: str, kind: WithdrawalKind, amount: int | None, grant_id: str = "first"
) -> int:
    return await store.accounts.apply_withdrawal(
        Withdrawal(
            withdrawal_id=name,
            customer_id=CUSTOMER,
            grant_id=grant_id,
            kind=kind,
            amount_nano=amount,
        )
    )


async def at(store: LiveStore, instant: datetime) -> None:
    await store.set_clock(to_epoch_ms(instant))


async def capture(store: LiveStore, event: UsageEvent, *, prepaid: bool = True) -> CaptureOutcome:
    return await store.balances.capture_hold(event, (), prepaid=prepaid)


async def test_a_grant_that_only_pays_a_debt_moves_nothing(store):
    facts = await store.add_customer()
    await capture(store, event_of(hold_of(facts, 1, 10), 10))
    await give(store, "small", 4)
    record = (await store.records())[-1]
    assert (record.kind, record.amount_nano, record.overage_nano) == ("grant", 4, -4)
    assert record.movements == ()


@pytest.mark.parametrize("used", [0, 40, 100])
async def test_the_least_that_rolls_over_comes_though_the_grant_before_is_spent(store, start, used):
    facts = await store.add_customer()
    await at(store, start)
    ends = start + timedelta(seconds=10)
    await give(store, "first", 100, expires_at=ends)
    rollover = Rollover(from_grant_id="first", least_nano=30, most_nano=50)
    await give(store, "second", 100, effective_at=ends, rollover=rollover)
    if used:
        await capture(store, event_of(hold_of(facts, 1, used), used))
    await at(store, ends)
    await store.balances.prune_counters(store.keyspace.shard_of(CUSTOMER), 100)
    left = 100 - used
    rolled = min(50, max(left, 30))
    assert [(g.grant_id, g.free_nano) for g in await store.accounts.list_live_grants(CUSTOMER)] == [
        ("second", 100 + rolled)
    ]
    balance = await store.balance()
    assert balance.granted_nano == 200 + max(0, rolled - left)
    assert balance.expired_nano == max(0, left - rolled)


@pytest.mark.parametrize("before", [True, False])
async def test_a_correction_is_billed_as_what_it_corrects(store, before):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30)
    await capture(store, event_of(hold, 30, estimated=True), prepaid=before)
    outcome = await capture(store, event_of(hold, 20), prepaid=not before)
    assert outcome.booked_nano == -10
    record = (await store.records())[-1]
    assert record.prepaid is before
    change = -(record.amount_nano - record.overage_nano) if before else 0
    assert sum(movement.amount_nano for movement in record.movements) == change
    (grant,) = await store.accounts.list_live_grants(CUSTOMER)
    assert grant.free_nano == (80 if before else 100)


async def test_what_a_correction_gives_back_is_given_back_before_it_expires(store, start):
    """The ledger has no grant with less than nothing left, not even between two records."""
    facts = await store.add_customer()
    await at(store, start)
    await give(store, "short", 100, expires_at=start + timedelta(seconds=10))
    hold = hold_of(facts, 1, 90)
    await store.balances.place_hold(hold_of(facts, 2, 5))
    await capture(store, event_of(hold, 90, estimated=True))
    await at(store, start + timedelta(seconds=10))
    await capture(store, event_of(hold, 20))
    left = 0
    for record in await store.records():
        left += sum(movement.amount_nano for movement in record.movements)
        assert left >= 0
    kinds = [record.kind for record in await store.records()]
    assert kinds == ["grant", "capture", "expire", "correction:1", "expire"]


async def test_credit_that_expires_pays_what_the_same_capture_owes_first(store, start):
    facts = await store.add_customer()
    await at(store, start)
    await give(store, "scoped", 50, meters=("input",), expires_at=start + timedelta(seconds=10))
    hold = hold_of(facts, 1, 50, parts={"input": 50})
    await store.balances.place_hold(hold)
    await at(store, start + timedelta(seconds=10))
    line = RatedLine(meter="output", quantity=30, amount_nano=30)
    outcome = await capture(store, replace(event_of(hold, 0), lines=(line,)))
    assert outcome.overspent_nano == 0
    balance = await store.balance()
    assert (balance.deficit_nano, balance.expired_nano) == (0, 20)
    last = [(r.kind, r.amount_nano, r.overage_nano) for r in await store.records()][-2:]
    assert last == [("capture", 30, 30), ("expire", 20, -30)]


async def test_grants_that_have_just_expired_make_room(store, start):
    await store.add_customer()
    await at(store, start)
    for number in range(GRANTS_ACTIVE_MAX):
        await give(store, f"g-{number}", 1, expires_at=start + timedelta(seconds=10))
    with pytest.raises(InvalidInput, match="which is the most"):
        await give(store, "more", 1)
    await at(store, start + timedelta(seconds=10))
    await give(store, "more", 1)
    assert [g.grant_id for g in await store.accounts.list_live_grants(CUSTOMER)] == ["more"]


async def test_grants_to_come_never_lock_a_customer_out(store, start):
    facts = await store.add_customer(granted=100)
    await at(store, start)
    soon = start + timedelta(seconds=10)
    await give(store, "most", AMOUNT_NANO_MAX - 100, effective_at=soon)
    rollover = Rollover(from_grant_id="most", least_nano=1, most_nano=1)
    for rolls, amount in ((None, 1), (rollover, 1)):
        with pytest.raises(InvalidInput, match="largest balance"):
            await give(store, "beyond", amount, effective_at=soon, rollover=rolls)
    await at(store, soon)
    outcome = await store.balances.place_hold(hold_of(facts, 1, 10))
    assert outcome.status is PlaceStatus.PLACED


@pytest.mark.parametrize("when", ["before it begins", "while it runs", "by its amount", "disputed"])
async def test_of_a_grant_that_was_taken_back_nothing_rolls_over(store, start, when):
    facts = await store.add_customer()
    await at(store, start)
    begins = start if when == "while it runs" else start + timedelta(seconds=5)
    ends = start + timedelta(seconds=10)
    await give(store, "first", 100, effective_at=begins, expires_at=ends)
    rollover = Rollover(from_grant_id="first", least_nano=30, most_nano=50)
    if when == "before it begins":
        await take(store, "w", WithdrawalKind.VOID, None)
    await at(store, begins)
    await store.balances.place_hold(hold_of(facts, 1, 0))
    await give(store, "second", 100, effective_at=ends, rollover=rollover)
    if when == "while it runs":
        await take(store, "w", WithdrawalKind.REFUND, None)
    if when == "by its amount":
        await take(store, "w", WithdrawalKind.VOID, 60)
        await take(store, "w2", WithdrawalKind.VOID, 40)
    if when == "disputed":
        await take(store, "w", WithdrawalKind.DISPUTE, 100)
    await at(store, ends)
    await store.balances.prune_counters(store.keyspace.shard_of(CUSTOMER), 100)
    assert [(g.grant_id, g.free_nano) for g in await store.accounts.list_live_grants(CUSTOMER)] == [
        ("second", 100)
    ]
    assert "rollover" not in [record.kind for record in await store.records()]


async def test_all_that_is_taken_back_of_a_grant_is_no_more_than_was_given(store):
    """Who checked before cannot know what is taken at the same time: the script says no."""
    facts = await store.add_customer()
    await give(store, "first", 100)
    await capture(store, event_of(hold_of(facts, 1, 50), 50))
    assert await take(store, "w1", WithdrawalKind.REFUND, 20) == 20
    assert await take(store, "w2", WithdrawalKind.DISPUTE, 70) == 70
    with pytest.raises(Conflict, match=r"0\.00000001 that is not taken back yet"):
        await take(store, "w3", WithdrawalKind.DISPUTE, 11)
    assert await take(store, "w4", WithdrawalKind.DISPUTE, 10) == 10
    assert await take(store, "w2", WithdrawalKind.DISPUTE, 70) == 70
    balance = await store.balance()
    assert (balance.voided_nano, balance.deficit_nano) == (100, 50)


async def test_what_a_hold_gives_back_of_a_voided_grant_is_taken_back_too(store):
    facts = await store.add_customer()
    await give(store, "first", 100)
    await store.balances.place_hold(hold_of(facts, 1, 30))
    assert await take(store, "w1", WithdrawalKind.VOID, None) == 70
    await store.balances.release_hold(CUSTOMER, hold_of(facts, 1, 30).terms.hold_id)
    with pytest.raises(Conflict, match=r"0\.00 that is not taken back yet"):
        await take(store, "w2", WithdrawalKind.DISPUTE, 1)


async def test_a_withdrawal_that_was_refused_stays_refused(store):
    """Two that ask at once note one outcome: what one is refused the other is not given."""
    facts = await store.add_customer()
    await give(store, "first", 100)
    hold = hold_of(facts, 1, 30)
    await store.balances.place_hold(hold)
    with pytest.raises(Conflict, match="free, less than is asked for"):
        await take(store, "w1", WithdrawalKind.REFUND, 80)
    await store.balances.release_hold(CUSTOMER, hold.terms.hold_id)
    with pytest.raises(Conflict, match="free, less than is asked for"):
        await take(store, "w1", WithdrawalKind.REFUND, 80)
    with pytest.raises(Conflict, match="did something else"):
        await take(store, "w1", WithdrawalKind.REFUND, 70)
    assert await take(store, "w2", WithdrawalKind.REFUND, 80) == 80
