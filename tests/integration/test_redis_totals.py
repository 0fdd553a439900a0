"""Running totals: intervals reserved once, and captures cut off after reserving."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fixtures.live_store import (
    CUSTOMER,
    LiveStore,
    event_of,
    hold_id_of,
    hold_of,
)

from sidecar.domain.errors import InvalidInput, PricedElsewhere
from sidecar.domain.holds import HoldState
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.services.ports import CaptureStatus, PlaceStatus, RatingDemand, TotalStep


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def test_intervals_of_a_total_are_disjoint_and_reserved_once(store):
    facts = await store.add_customer(granted=100)
    holds = [hold_of(facts, n, 10) for n in range(20)]

    async def reserve(number: int) -> dict[str, int | None]:
        demands = [
            RatingDemand(key="v:0:1", quantity=3),
            RatingDemand(key="v:1:1", quantity=number),
        ]
        event = event_of(holds[number], 0)
        reserved = await store.balances.reserve_totals(CUSTOMER, hold_id_of(number), event, demands)
        assert reserved.made
        return {step.key: step.before for step in reserved.steps}

    totals = await asyncio.gather(*(reserve(n % 20) for n in range(60)))
    assert totals[:20] == totals[20:40] == totals[40:]
    assert sorted(total["v:0:1"] for total in totals[:20]) == list(range(0, 60, 3))
    assert (await store.fields())[b"t:v:0:1"] == b"60"
    assert (await store.fields())[b"t:v:1:1"] == str(sum(range(20))).encode()


async def test_a_captured_id_keeps_its_interval(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 10)
    await store.balances.place_hold(hold)
    event = event_of(hold, 5)
    demand = RatingDemand(key="v:0:1", quantity=4)
    await store.balances.reserve_totals(
        CUSTOMER, hold_id_of(9), event_of(hold_of(facts, 9, 0), 0), [demand]
    )
    first = await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), event, [demand])
    assert first.steps == (TotalStep(key="v:0:1", quantity=4, before=4),)
    await store.balances.capture_hold(event, (), prepaid=True, steps=first.count)
    assert (await store.fields())[b"t:v:0:1"] == b"8"
    before = await store.dump()
    other = RatingDemand(key="v:1:1", quantity=4)
    for demands in ([demand], [other], [replace(demand, quantity=9)]):
        again = await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), event, demands)
        assert (again.steps, again.made) == (first.steps, False)
    assert await store.dump() == before
    with pytest.raises(InvalidInput, match="same running total"):
        await store.balances.reserve_totals(CUSTOMER, hold_id_of(2), event, [other, other])
    assert f"r:{hold_id_of(1)}".encode() not in await store.fields()


async def test_another_report_waits_for_the_one_that_has_moved_the_totals(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 10)
    await store.balances.place_hold(hold)
    few, many = event_of(hold, 3, estimated=True), event_of(hold, 9)

    async def reserve(event, quantity):
        demands = [RatingDemand(key="v:0:1", quantity=quantity)]
        return await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), event, demands)

    first = await reserve(few, 3)
    waiting = await reserve(many, 9)
    assert (waiting.pending, waiting.made, waiting.steps) == (few, False, ())
    assert (await store.fields())[b"t:v:0:1"] == b"3"
    early = await store.balances.capture_hold(many, (), prepaid=True, steps=waiting.count)
    assert (early.status, early.booked_nano) == (CaptureStatus.MOVED, 0)
    done = await store.balances.capture_hold(few, (), prepaid=True, steps=first.count)
    assert done.status is CaptureStatus.CAPTURED
    second = await reserve(many, 9)
    assert [step.quantity for step in second.steps] == [3, 6]
    # Who finished the first one too late finds it known.
    known = await store.balances.capture_hold(few, (), prepaid=True, steps=first.count)
    assert known.status is CaptureStatus.DUPLICATE
    stale = await store.balances.capture_hold(many, (), prepaid=True, steps=first.count)
    assert stale.status is CaptureStatus.MOVED
    done = await store.balances.capture_hold(many, (), prepaid=True, steps=second.count)
    assert (done.status, done.booked_nano) == (CaptureStatus.CORRECTED, 6)
    assert (await store.fields())[b"t:v:0:1"] == b"9"


async def estimate(store, facts, quantity: int):
    """A captured estimate with some of a total; returns its hold."""
    hold = hold_of(facts, 1, 10)
    await store.balances.place_hold(hold)
    event = event_of(hold, 5, estimated=True)
    demand = RatingDemand(key="v:0:1", quantity=quantity)
    reserved = await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), event, [demand])
    await store.balances.capture_hold(event, (), prepaid=True, steps=reserved.count)
    return hold


async def test_a_correction_of_another_price_version_moves_no_total(store):
    hold = await estimate(store, await store.add_customer(granted=100), 4)
    before = await store.dump()
    other = event_of(hold, 6, price_version="another")
    demand = RatingDemand(key="w:0:1", quantity=6)
    with pytest.raises(PricedElsewhere):
        await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), other, [demand])
    # What says the same again is known, by whatever version.
    same = event_of(hold, 5, price_version="another")
    demand = RatingDemand(key="w:0:1", quantity=5)
    reserved = await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), same, [demand])
    assert not reserved.made
    known = await store.balances.capture_hold(same, (), prepaid=True, steps=reserved.count)
    assert known.status is CaptureStatus.DUPLICATE
    # Its marker tells now that it was measured.
    after = await store.dump()
    assert [key for key in before if before[key] != after[key] and b":done:" not in key] == [
        store.keyspace.shard(store.keyspace.shard_of(CUSTOMER)).encode()
    ]


async def test_a_total_that_is_not_kept_any_more_goes_back_to_nothing_and_not_below(store):
    hold = await estimate(store, await store.add_customer(granted=100), 9)
    await store.set_field("t:v:0:1", "2")
    demand = RatingDemand(key="v:0:1", quantity=1)
    measured = event_of(hold, 1)
    reserved = await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), measured, [demand])
    assert reserved.steps[-1] == TotalStep(key="v:0:1", quantity=-8, before=8)
    assert (await store.fields())[b"t:v:0:1"] == b"0"


async def test_a_correction_cut_off_after_its_step_is_handed_to_the_sweep(store):
    hold = await estimate(store, await store.add_customer(granted=100), 4)
    measured = event_of(hold, 7)
    demand = RatingDemand(key="v:0:1", quantity=7)
    reserved = await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), measured, [demand])
    again = await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), measured, [demand])
    assert (again, reserved.count) == (reserved, 2)
    shard = store.keyspace.shard_of(CUSTOMER)
    await store.connection.command("ZADD", store.keyspace.expiry(shard), 1, hold_id_of(1))
    assert await store.balances.orphan_hold(CUSTOMER, hold_id_of(1)) == measured
    stored = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert (stored.state, stored.interrupted) == (HoldState.CAPTURED, True)
    done = await store.balances.capture_hold(measured, (), prepaid=True, steps=reserved.count)
    assert (done.status, done.booked_nano) == (CaptureStatus.CORRECTED, 2)
    assert await store.connection.command("ZCARD", store.keyspace.expiry(shard)) == 0
    assert await store.connection.command("HLEN", store.keyspace.open(shard)) == 0
    assert f"r:{hold_id_of(1)}".encode() not in await store.fields()
    assert (await store.fields())[b"t:v:0:1"] == b"7"


async def test_a_capture_cut_off_after_reserving_is_handed_to_the_sweep(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 10, ttl_ms=1)
    placed = await store.balances.place_hold(hold)
    event = event_of(hold, 0, placed)
    demand = RatingDemand(key="v:0:1", quantity=4)
    await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), event, [demand])
    assert await store.balances.release_hold(CUSTOMER, hold_id_of(1)) is False
    await store.wait_due(hold_id_of(1))
    assert await store.balances.orphan_hold(CUSTOMER, hold_id_of(1)) == event
    stored = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert stored.state is HoldState.OPEN
    assert stored.terms.expires_at_ms > placed.expires_at_ms + 20_000
    assert await store.balances.orphan_hold(CUSTOMER, hold_id_of(1)) is None
    finished = await store.balances.capture_hold(event_of(hold, 5, placed), (), prepaid=True)
    assert (finished.status, finished.held_nano) == (CaptureStatus.CAPTURED, 10)


async def test_late_usage_cut_off_after_reserving_is_found_by_the_sweep_too(store):
    facts = await store.add_customer(granted=100)
    event = event_of(hold_of(facts, 1, 10), 0)
    demand = RatingDemand(key="v:0:1", quantity=4)
    await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), event, [demand])
    assert (await store.place(facts, 1, 10)).status is PlaceStatus.MISMATCH
    shard = store.keyspace.shard_of(CUSTOMER)
    await store.connection.command("ZADD", store.keyspace.expiry(shard), 1, hold_id_of(1))
    assert await store.balances.due_holds(shard, 10) == [(CUSTOMER, hold_id_of(1))]
    assert await store.balances.orphan_hold(CUSTOMER, hold_id_of(1)) == event
    stored = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert stored.terms.estimate == {line.meter: line.quantity for line in event.lines}
    assert (
        await store.balances.capture_hold(event_of(hold_of(facts, 1, 10), 5), (), prepaid=True)
    ).status is CaptureStatus.LATE
    assert await store.connection.command("ZCARD", store.keyspace.expiry(shard)) == 0
    assert await store.connection.command("HLEN", store.keyspace.open(shard)) == 0


async def test_totals_of_an_unknown_customer_or_of_rubbish_are_not_moved(store):
    facts = await store.add_customer()
    stranger = replace(facts, customer_id="cus_nobody")
    demand = RatingDemand(key="v:0:1", quantity=4)
    event = event_of(hold_of(stranger, 1, 0), 0)
    before = await store.dump()
    reserved = await store.balances.reserve_totals("cus_nobody", hold_id_of(1), event, [demand])
    assert [step.before for step in reserved.steps] == [0]
    assert not reserved.made
    assert await store.dump() == before
    await store.set_field("t:v:0:1", "lots")
    with pytest.raises(StoreDamaged):
        await store.balances.reserve_totals(
            CUSTOMER, hold_id_of(2), event_of(hold_of(facts, 2, 0), 0), [demand]
        )


async def test_what_is_remembered_of_an_id_expires_after_two_days(store):
    facts = await store.add_customer(granted=100)
    await store.balances.capture_hold(event_of(hold_of(facts, 1, 0), 5), (), prepaid=True)
    done = store.keyspace.done(store.keyspace.shard_of(CUSTOMER), hold_id_of(1))
    assert 172_700 < await store.connection.command("TTL", done) <= 172_800


async def test_every_decision_of_a_shard_has_its_own_number(store):
    facts = await store.add_customer(granted=100)
    for number in range(5):
        await store.balances.capture_hold(event_of(hold_of(facts, number, 0), 5), (), prepaid=True)
    shard = store.keyspace.shard_of(CUSTOMER)
    entries = await store.connection.command("XRANGE", store.keyspace.usage(shard), "-", "+")
    fields = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in entries]
    numbers = [int(entry[b"seq"]) for entry in fields]
    assert numbers == sorted(set(numbers))
    assert len({entry[b"ep"] for entry in fields}) == 1
    instants = [int(entry[b"at"]) for entry in fields]
    assert instants == sorted(instants)
    assert abs(instants[0] / 1_000 - datetime.now(UTC).timestamp()) < 3_600
