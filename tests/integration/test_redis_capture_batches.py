"""Captures of a batch: one write, and each its own end, which is the one that it has alone."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count

import pytest
from fixtures.live_store import (
    LiveStore,
    event_of,
    hold_of,
    open_shards,
    quota_lines,
    quota_take,
)
from fixtures.redis_cluster import RedisCluster

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.usage import RatedLine
from sidecar.outbound.redis import pipeline
from sidecar.services.ports import CaptureOutcome, CaptureStatus, HoldCapture

NUMBERS = count(1)
"""Of holds: an id is known to the whole shard."""


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    await store.connection.load_scripts()
    yield store
    await store.connection.aclose()


def statuses(outcomes) -> list[object]:
    return [one.status if isinstance(one, CaptureOutcome) else type(one) for one in outcomes]


async def captures(store, many: int, customers: int = 1, name: str = "cus") -> list[HoldCapture]:
    """Of placed holds, that many, of customers on several shards."""
    found = []
    for number in range(customers):
        facts = await store.add_customer(granted=10_000, customer_id=f"{name}_{number}")
        for _ in range(many // customers):
            hold = hold_of(facts, next(NUMBERS), 10)
            placed = await store.balances.place_hold(hold)
            event = replace(event_of(hold, 3, placed), customer_id=f"{name}_{number}")
            found.append(HoldCapture(event=event, quota_lines=(), prepaid=True))
    return found


async def test_each_of_a_batch_has_its_own_outcome(store):
    first, second, third = await captures(store, 3)
    unknown = replace(second, event=replace(second.event, customer_id="nobody"))
    (line,) = third.event.lines
    huge = RatedLine(meter=line.meter, quantity=1, amount_nano=AMOUNT_NANO_MAX + 1)
    beyond = replace(third, event=replace(third.event, lines=(huge,)))
    calls = store.connection.calls
    outcomes = await store.balances.capture_holds([first, unknown, beyond, first, third])
    assert statuses(outcomes) == [
        CaptureStatus.CAPTURED,
        CaptureStatus.NO_CUSTOMER,
        InvalidInput,
        CaptureStatus.DUPLICATE,
        CaptureStatus.CAPTURED,
    ]
    assert store.connection.calls - calls == 1
    assert await store.balances.capture_holds([]) == []


async def test_a_batch_is_what_its_captures_are_one_by_one(store):
    outcomes = await store.balances.capture_holds(await captures(store, 40, customers=8))
    alone = [
        await store.balances.capture_hold(capture.event, (), prepaid=True)
        for capture in await captures(store, 40, customers=8, name="one")
    ]
    for one, other in zip(outcomes, alone, strict=True):
        assert replace(one, epoch=0, seq=0) == replace(other, epoch=0, seq=0)


async def test_counters_and_who_pays_go_along(store):
    facts = await store.add_customer(granted=0)
    take = quota_take(30, 50)
    hold = hold_of(facts, next(NUMBERS), 0, counters=(take,), credit_required=False, prepaid=False)
    placed = await store.balances.place_hold(hold)
    (outcome,) = await store.balances.capture_holds(
        [
            HoldCapture(
                event=event_of(hold, 3, placed), quota_lines=quota_lines(hold, 12), prepaid=False
            )
        ]
    )
    assert (outcome.status, outcome.overspent_nano) == (CaptureStatus.CAPTURED, 0)
    assert (await store.fields())[take.field.encode()].split(b"\n")[0] == b"12"


async def test_a_server_that_forgot_the_scripts_learns_them_in_the_midst_of_a_batch(store):
    batch = await captures(store, 5)
    await store.connection.command("SCRIPT", "FLUSH")
    outcomes = await store.balances.capture_holds(batch)
    assert statuses(outcomes) == [CaptureStatus.CAPTURED] * 5


async def test_a_shard_that_was_lost_fails_its_own_captures_alone(store):
    batch = await captures(store, 16, customers=8)
    lost = store.keyspace.shard_of("cus_0")
    await store.connection.command("DEL", store.keyspace.shard(lost))
    outcomes = await store.balances.capture_holds(batch)
    for capture, outcome in zip(batch, outcomes, strict=True):
        if store.keyspace.shard_of(capture.event.customer_id) == lost:
            assert isinstance(outcome, StoreUnavailable)
        else:
            assert outcome.status is CaptureStatus.CAPTURED


async def test_a_key_of_another_type_is_refused_alone(store):
    first, second = await captures(store, 2, customers=2)
    key = store.keyspace.customer("cus_0")
    await store.connection.command("DEL", key)
    await store.connection.command("SET", key, "no hash")
    outcomes = await store.balances.capture_holds([first, second])
    assert isinstance(outcomes[0], StoreUnavailable)
    assert outcomes[1].status is CaptureStatus.CAPTURED


async def test_a_silent_server_leaves_every_capture_open(store, monkeypatch):
    batch = await captures(store, 3)
    monkeypatch.setattr(store.connection, "_timeout_seconds", 0.05)
    monkeypatch.setattr(pipeline, "SILENT_SECONDS_MAX", 0.05)
    other = await LiveStore.open(store_url(store))
    try:
        sleeping = asyncio.create_task(other.connection.command("DEBUG", "SLEEP", "0.5"))
        await asyncio.sleep(0.1)
        assert statuses(await store.balances.capture_holds(batch)) == [StoreUnavailable] * 3
        await sleeping
    finally:
        await other.connection.aclose()
    monkeypatch.setattr(store.connection, "_timeout_seconds", 20.0)
    again = statuses(await store.balances.capture_holds(batch))
    assert set(again) <= {CaptureStatus.CAPTURED, CaptureStatus.DUPLICATE}


def store_url(store: LiveStore) -> str:
    pool = store.connection._link._pool
    return f"unix://{pool.connection_kwargs['path']}"


@pytest.mark.timeout(180)
async def test_a_cluster_has_an_end_for_each_too(redis_cluster: RedisCluster):
    store = await LiveStore.open(redis_cluster.url)
    try:
        batch = await captures(store, 16, customers=8)
        # Scripts are not loaded: every node learns them from the batch.
        outcomes = await store.balances.capture_holds([*batch, batch[0]])
        assert statuses(outcomes) == [CaptureStatus.CAPTURED] * 16 + [CaptureStatus.DUPLICATE]
        lost = store.keyspace.shard_of("cus_1")
        await store.connection.command("DEL", store.keyspace.shard(lost))
        for capture, outcome in zip(batch, await store.balances.capture_holds(batch), strict=True):
            away = store.keyspace.shard_of(capture.event.customer_id) == lost
            assert isinstance(outcome, StoreUnavailable if away else CaptureOutcome)
        await open_shards(store.connection, store.keyspace, epoch=2)
    finally:
        await store.connection.aclose()
