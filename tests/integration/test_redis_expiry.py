"""Holds as they are read, extended, expired and orphaned."""

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
    quota_lines,
    quota_take,
)

from sidecar.domain.holds import Bound, HoldState


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def test_an_open_hold_is_read_with_its_instants(store):
    facts = await store.add_customer(granted=100)
    hold = hold_of(facts, 1, 30, counters=(quota_take(5, 50),))
    hold = replace(
        hold, terms=replace(hold.terms, bound=Bound.ESTIMATED, team_id="team", user_id="user")
    )
    placed = await store.balances.place_hold(hold)
    stored = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert stored.state is HoldState.OPEN
    assert stored.terms == replace(
        hold.terms, decided_at_ms=placed.instant_ms, expires_at_ms=placed.expires_at_ms
    )
    assert await store.accounts.list_open_holds(CUSTOMER, 10) == [stored]
    assert await store.balances.find_hold(hold_id_of(1)) == CUSTOMER
    assert await store.balances.find_hold(hold_id_of(2)) is None


async def test_a_hold_that_ended_is_still_read_with_its_terms(store):
    facts = await store.add_customer(granted=100)
    holds = [hold_of(facts, n, 10, ttl_ms=1 if n == 3 else 60_000) for n in (1, 2, 3)]
    for hold in holds:
        await store.balances.place_hold(hold)
    await store.balances.release_hold(CUSTOMER, hold_id_of(1))
    await store.balances.capture_hold(event_of(holds[1], 4), (), prepaid=True)
    await store.expire(hold_id_of(3))
    states = (HoldState.RELEASED, HoldState.CAPTURED, HoldState.ORPHANED)
    for number, state in enumerate(states, start=1):
        stored = await store.balances.read_hold(CUSTOMER, hold_id_of(number))
        assert stored.state is state
        assert stored.terms.amount_nano == 10
        assert stored.terms.decided_at_ms > 0
        assert await store.balances.find_hold(hold_id_of(number)) == CUSTOMER
    assert await store.accounts.list_open_holds(CUSTOMER, 10) == []


async def test_listing_open_holds_is_bounded(store):
    facts = await store.add_customer(granted=1_000)
    for number in range(12):
        await store.place(facts, number, 1)
    assert len(await store.accounts.list_open_holds(CUSTOMER, 5)) == 5
    assert len(await store.accounts.list_open_holds(CUSTOMER, 50)) == 12


async def test_a_sign_of_life_moves_the_expiry_only_away(store):
    facts = await store.add_customer(granted=100)
    placed = await store.place(facts, 1, 10)
    assert await store.balances.extend_hold(CUSTOMER, hold_id_of(1), 1) is True
    near = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert near.terms.expires_at_ms == placed.expires_at_ms
    assert await store.balances.extend_hold(CUSTOMER, hold_id_of(1), 600_000) is True
    far = await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    assert far.terms.expires_at_ms >= placed.instant_ms + 600_000
    assert await store.balances.extend_hold(CUSTOMER, hold_id_of(2), 600_000) is False


async def test_an_orphan_is_released_and_recorded_with_what_it_was_for(store):
    facts = await store.add_customer(granted=100)
    take = quota_take(5, 50)
    hold = hold_of(facts, 1, 30, counters=(take,), ttl_ms=1)
    hold = replace(hold, terms=replace(hold.terms, team_id="team"))
    placed = await store.balances.place_hold(hold)
    await store.expire(hold_id_of(1))
    assert await store.numbers() == (100, 0, 0, 100)
    assert (await store.fields())[take.line.field.encode()] == b"0"
    record = (await store.records())[-1]
    assert (record.kind, record.amount_nano, record.held_nano) == ("orphan", 0, 30)
    assert record.hold_id == hold_id_of(1)
    assert record.event.amount_nano == 0
    assert {line.meter: line.quantity for line in record.event.lines} == hold.terms.estimate
    assert record.event.model == hold.terms.model
    assert record.event.team_id == hold.terms.team_id
    assert record.event.route == hold.terms.route
    assert int(record.event.occurred_at.timestamp() * 1_000) == placed.instant_ms
    assert await store.balances.orphan_hold(CUSTOMER, hold_id_of(1)) is None
    assert len(await store.records()) == 2


async def test_a_hold_that_is_not_due_is_left_alone(store):
    facts = await store.add_customer(granted=100)
    await store.place(facts, 1, 30)
    assert await store.balances.orphan_hold(CUSTOMER, hold_id_of(1)) is None
    assert await store.balances.orphan_hold(CUSTOMER, hold_id_of(2)) is None
    assert await store.numbers() == (100, 0, 30, 70)
    assert len(await store.records()) == 1


async def test_an_expiry_that_belongs_to_nobody_does_not_stop_the_sweep(store):
    shard = store.keyspace.shard_of(CUSTOMER)
    await store.connection.command("ZADD", store.keyspace.expiry(shard), 1, "0" * 40)
    assert await store.balances.due_holds(shard, 10) == []
    assert await store.connection.command("ZCARD", store.keyspace.expiry(shard)) == 0


async def test_the_shards_instant_never_runs_backwards(store):
    facts = await store.add_customer(granted=100)
    shard = store.keyspace.shard(store.keyspace.shard_of(CUSTOMER))
    ahead = int(datetime.now(UTC).timestamp() * 1_000) + 5_000
    await store.connection.command("HSET", shard, "clock", ahead)
    assert (await store.place(facts, 1, 1)).instant_ms == ahead
    assert (await store.place(facts, 2, 1)).instant_ms == ahead


async def test_a_captured_quota_gives_back_what_was_not_used(store):
    facts = await store.add_customer(granted=100)
    take = quota_take(40, 50)
    hold = hold_of(facts, 1, 30, counters=(take,))
    placed = await store.balances.place_hold(hold)
    await store.balances.capture_hold(
        event_of(hold, 10, placed), quota_lines(hold, 12), prepaid=True
    )
    assert (await store.fields())[take.line.field.encode()] == b"12"
