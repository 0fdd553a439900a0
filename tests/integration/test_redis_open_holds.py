"""Holds in flight over all shards: every page's end is the next one's beginning."""

from collections.abc import AsyncIterator

import pytest
from fixtures.live_store import LiveStore, event_of, hold_id_of, hold_of

from sidecar.outbound.redis import open_holds
from sidecar.outbound.redis.open_holds import RedisOpenHolds
from sidecar.services.open_holds import HoldPosition
from sidecar.services.ports import StoredHold

CUSTOMERS = ("cus_1", "cus_2", "cus_3", "cus_4", "cus_5")


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def fill(store: LiveStore, holds: int, *, ttl_ms: int = 60_000) -> None:
    """Open holds, customer by turn; ten of them expire in one instant."""
    facts = [await store.add_customer(10_000, customer_id=name) for name in CUSTOMERS]
    for number in range(holds):
        owner = facts[number % len(facts)]
        await store.balances.place_hold(
            hold_of(owner, number, 1, ttl_ms=ttl_ms + number // 10 * 1_000)
        )


async def walk(store: LiveStore, limit: int, customer_id: str = "") -> tuple[list[StoredHold], int]:
    holds, pages, after = [], 0, None
    while pages == 0 or after is not None:
        page = await RedisOpenHolds(store.connection, store.keyspace).page(
            limit=limit, after=after, customer_id=customer_id
        )
        assert len(page.holds) <= limit
        holds += page.holds
        pages, after = pages + 1, page.next
    return holds, pages


@pytest.mark.parametrize(("limit", "batch"), [(7, 3), (1, 500), (200, 2), (47, 500)])
async def test_pages_cover_every_hold_once(store, monkeypatch, limit, batch):
    monkeypatch.setattr(open_holds, "BATCH", batch)
    await fill(store, 47)
    holds, _ = await walk(store, limit)
    assert sorted(hold.terms.hold_id for hold in holds) == sorted(map(hold_id_of, range(47)))
    places = [
        (store.keyspace.shard_of(hold.terms.customer_id), hold.terms.expires_at_ms)
        for hold in holds
    ]
    assert places == sorted(places)


async def test_many_that_expire_in_one_instant_are_all_told(store, monkeypatch):
    monkeypatch.setattr(open_holds, "BATCH", 4)
    await fill(store, 30)
    for shard in range(store.keyspace.shards):
        key = store.keyspace.expiry(shard)
        for hold_id in await store.connection.command("ZRANGE", key, 0, -1):
            await store.connection.command("ZADD", key, 10**13, hold_id)
    holds, pages = await walk(store, 5)
    assert len({hold.terms.hold_id for hold in holds}) == len(holds) == 30
    assert pages >= 6


async def test_one_customer_is_told_apart_though_pages_are_short(store, monkeypatch):
    monkeypatch.setattr(open_holds, "BATCH", 4)
    monkeypatch.setattr(open_holds, "LOOKED_AT_MAX", 4)
    await fill(store, 40)
    holds, _ = await walk(store, 3, "cus_3")
    assert {hold.terms.customer_id for hold in holds} == {"cus_3"}
    assert len(holds) == 8


async def test_what_ended_is_not_told_and_what_lives_on_is_told_again_at_most(store):
    await fill(store, 10)
    await store.balances.release_hold("cus_1", hold_id_of(0))
    facts = await store.facts("cus_2")
    await store.balances.capture_hold(event_of(hold_of(facts, 1, 1), 1), (), prepaid=True)
    page = await RedisOpenHolds(store.connection, store.keyspace).page(limit=1)
    first = page.holds[0].terms
    await store.balances.extend_hold(first.customer_id, first.hold_id, 600_000)
    rest, after = [], page.next
    while after is not None:
        later = await RedisOpenHolds(store.connection, store.keyspace).page(limit=4, after=after)
        rest += later.holds
        after = later.next
    told = [hold.terms.hold_id for hold in (*page.holds, *rest)]
    assert set(told) == {hold_id_of(number) for number in range(2, 10)}
    assert [hold.served for hold in rest if hold.terms.hold_id == first.hold_id] == [True]


async def test_an_entry_without_a_hold_and_a_place_beyond_the_end_are_no_holds(store):
    await store.connection.command("ZADD", store.keyspace.expiry(0), 1, "0" * 40)
    holds = RedisOpenHolds(store.connection, store.keyspace)
    assert (await holds.page(limit=5)).holds == []
    beyond = HoldPosition(shard=9_999, expires_at_ms=10**15, hold_id="f" * 40)
    assert (await holds.page(limit=5, after=beyond)).next is None
