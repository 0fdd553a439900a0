"""Holds placed from blocks by processes that have them, on a real Redis and in real time."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.blocks import blocks_of
from fixtures.live_store import CUSTOMER, LiveStore, event_of, hold_of, quota_take
from fixtures.losing_redis import LosingRedis

from sidecar import telemetry
from sidecar.domain.allotments import FRESH_SECONDS
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.holds import make_hold_id
from sidecar.outbound.redis.allotting import RedisBlocks
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.push import Caches, PushListener
from sidecar.services import allotments
from sidecar.services.allotment_blocks import HoldStage
from sidecar.services.allotments import AllottedHolds
from sidecar.services.ports import CaptureStatus, PlaceHold, PlaceOutcome, PlaceStatus

AMOUNT = 10


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


@asynccontextmanager
async def gateway(
    store: LiveStore, name: str = "one", blocks: RedisBlocks | None = None, **changes
) -> AsyncIterator[AllottedHolds]:
    """A process' holds, with its ear on the push channel; everything is returned at the end."""
    balances = RedisBalances(
        store.connection, store.keyspace, store.clock, store_timeout_seconds=20.0, teller=name
    )
    holds = AllottedHolds(
        balances,
        blocks or blocks_of(store, name),
        store.clock,
        monotonic=time.monotonic,
        random_bytes=secrets.token_bytes,
        **{"blocks_max": 100, "holds_max": 10_000} | changes,
    )
    push = PushListener(store.connection, Caches(store.directory, holds), on_recall=holds.recall)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(push.run(stop))
        running = group.create_task(holds.run(stop))
        await until(lambda: push.trusted)
        try:
            yield holds
        finally:
            stop.set()
            await running


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(2_000):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")


async def until_numbers(store: LiveStore, *numbers: int) -> None:
    for _ in range(2_000):
        if await store.numbers() == numbers:
            return
        await asyncio.sleep(0.005)
    assert await store.numbers() == numbers


def fresh(facts, amount: int = AMOUNT, **changes: object) -> PlaceHold:
    """A hold of this very second."""
    hold = hold_of(facts, 0, amount, **changes)
    hold_id = make_hold_id(int(time.time()), secrets.token_bytes(16))
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    return replace(hold, terms=replace(hold.terms, hold_id=hold_id), deadline=deadline)


async def warm(holds: AllottedHolds, make: Callable[[], PlaceHold]) -> list[PlaceOutcome]:
    """Place until a block serves."""
    outcomes = []
    for _ in range(500):
        outcomes.append(await holds.place_hold(make()))
        assert outcomes[-1].status is PlaceStatus.PLACED
        if outcomes[-1].block_id:
            return outcomes
        await asyncio.sleep(0.001)
    raise AssertionError("no block was ever taken")


async def test_a_busy_customers_holds_come_from_a_block_without_a_round_trip(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        placed = await warm(holds, lambda: fresh(facts))
        before = store.connection.calls
        served = [await holds.place_hold(fresh(facts)) for _ in range(3)]
        assert store.connection.calls == before
        assert {one.status for one in served} == {PlaceStatus.PLACED}
        assert all(one.block_id for one in served)
        count = len(placed) + len(served)
        told = [one.numbers.available_nano for one in served]
        assert told == [told[0] - AMOUNT * n for n in range(3)]
        # As of the store's last word on the block: a hold that it placed since may be missing.
        assert 0 <= told[0] - (1_000_000 - AMOUNT * (len(placed) + 1)) <= 2 * AMOUNT
    # All of them are open, and nothing of the block is left.
    assert await store.numbers() == (1_000_000, 0, AMOUNT * count, 1_000_000 - AMOUNT * count)
    shard = store.keyspace.shard_of(CUSTOMER)
    assert await store.connection.command("HLEN", store.keyspace.open(shard)) == count


async def test_the_store_hears_of_each_hold_and_usage_ends_it(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        await warm(holds, lambda: fresh(facts))
        hold = fresh(facts)
        outcome = await holds.place_hold(hold)
        assert outcome.block_id
        for _ in range(1_000):
            if await store.balances.find_hold(hold.terms.hold_id):
                break
            await asyncio.sleep(0.005)
        captured = await store.balances.capture_hold(event_of(hold, 4, outcome), (), prepaid=True)
        assert (captured.status, captured.held_nano) == (CaptureStatus.CAPTURED, AMOUNT)
        stored = await store.balances.read_hold(CUSTOMER, hold.terms.hold_id)
        assert stored.terms.decided_at_ms == outcome.instant_ms


async def test_a_decision_from_a_block_is_never_ahead_of_the_stores_clock(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        await warm(holds, lambda: fresh(facts))
        for _ in range(20):
            outcome = await holds.place_hold(fresh(facts))
            seconds, micros = await store.connection.command("TIME")
            assert outcome.instant_ms <= int(seconds) * 1_000 + int(micros) // 1_000


async def test_too_little_elsewhere_brings_the_block_back_within_the_check(store):
    facts = await store.add_customer(granted=2_000)
    async with gateway(store) as holds, gateway(store, "two") as others:
        await warm(holds, lambda: fresh(facts))
        held = (await store.numbers())[2]
        wish = fresh(facts, 2_000 - held + 20)
        first = await others.place_hold(wish)
        assert first.status is PlaceStatus.RECALLED

        async def placed() -> bool:
            outcome = await others.place_hold(wish)
            return outcome.status in {PlaceStatus.PLACED, PlaceStatus.DENIED}

        await eventually(placed)
        # For a while nobody takes another one.
        again = [await holds.place_hold(fresh(facts, 1)) for _ in range(10)]
        assert not any(one.block_id for one in again)


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(2_000):
        if await is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")


async def test_near_zero_holds_are_placed_one_by_one_and_none_is_denied_too_early(store):
    facts = await store.add_customer(granted=AMOUNT * 100)
    outcomes = []
    async with gateway(store) as holds, gateway(store, "two") as others:
        for number in range(2_000):
            ask = (holds, others)[number % 2]
            outcome = await ask.place_hold(fresh(facts))
            if outcome.status is PlaceStatus.RECALLED:
                await asyncio.sleep(0.01)
                continue
            outcomes.append(outcome.status)
            if outcome.status is PlaceStatus.DENIED:
                break
    assert outcomes.count(PlaceStatus.PLACED) == 100
    assert await store.numbers() == (AMOUNT * 100, 0, AMOUNT * 100, 0)


async def test_a_check_that_comes_again_has_the_same_answer_and_one_hold(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds, gateway(store, "two") as others:
        await warm(holds, lambda: fresh(facts))
        await warm(others, lambda: fresh(facts))
        before = (await store.numbers())[0]
        hold = fresh(facts)
        first = await holds.place_hold(hold)
        again = await holds.place_hold(hold)
        elsewhere = await others.place_hold(hold)
        assert first.block_id
        assert (again.status, again.instant_ms) == (PlaceStatus.REPEATED, first.instant_ms)
        assert elsewhere.status in {PlaceStatus.PLACED, PlaceStatus.REPEATED}
        other = replace(hold, fingerprint="POST /other 10")
        assert (await holds.place_hold(other)).status is PlaceStatus.MISMATCH
        assert before == 1_000_000
    shard = store.keyspace.shard_of(CUSTOMER)
    count = await store.connection.command("HLEN", store.keyspace.open(shard))
    assert (await store.numbers())[2] == count * AMOUNT


async def test_a_repeat_of_what_the_store_placed_is_the_stores_to_answer(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        hold = fresh(facts)
        first = await holds.place_hold(hold)
        count = 1 + len(await warm(holds, lambda: fresh(facts)))
        again = await holds.place_hold(hold)
        assert (again.status, again.instant_ms) == (PlaceStatus.REPEATED, first.instant_ms)
        assert not again.block_id
    assert (await store.numbers())[2] == AMOUNT * count


async def test_a_hold_that_nobody_was_told_of_goes_back(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        placed = await warm(holds, lambda: fresh(facts))
        hold = fresh(facts)
        outcome = await holds.place_hold(hold)
        assert outcome.block_id
        assert await holds.release_hold(CUSTOMER, hold.terms.hold_id)
        assert not await holds.release_hold(CUSTOMER, hold.terms.hold_id)
        # A repeat is the store's to answer; it may place it anew, or not at all.
        count = len(placed)
    assert await store.numbers() == (1_000_000, 0, AMOUNT * count, 1_000_000 - AMOUNT * count)


async def test_what_no_store_can_keep_is_refused_before_it_is_placed(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        await warm(holds, lambda: fresh(facts))
        hold = fresh(facts)
        hold = replace(hold, terms=replace(hold.terms, model="\ud800"))
        with pytest.raises(InvalidInput):
            await holds.place_hold(hold)
        assert (await holds.place_hold(fresh(facts))).block_id


async def test_a_second_try_that_the_store_placed_is_given_back_there(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        count = len(await warm(holds, lambda: fresh(facts)))
        hold = fresh(facts)
        assert (await holds.place_hold(hold)).block_id
        assert await holds.release_hold(CUSTOMER, hold.terms.hold_id)
        again = await holds.place_hold(hold)
        assert (again.status, again.block_id) == (PlaceStatus.PLACED, "")
        assert await holds.release_hold(CUSTOMER, hold.terms.hold_id)
    assert (await store.numbers())[2] == AMOUNT * count


async def test_a_customer_that_has_changed_is_served_by_the_store_at_once(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        await warm(holds, lambda: fresh(facts))
        holds.drop_customer(CUSTOMER)
        outcome = await holds.place_hold(fresh(facts))
        assert (outcome.status, outcome.block_id) == (PlaceStatus.PLACED, "")


async def test_a_block_serves_nothing_that_the_store_would_judge_otherwise(store):
    facts = await store.add_customer(granted=1_000_000)
    take = quota_take(1, 1_000)
    async with gateway(store) as holds:
        await warm(holds, lambda: fresh(facts, counters=(take,)))
        other = [
            fresh(replace(facts, revision=facts.revision + 1), counters=(take,)),
            fresh(replace(facts, credential_id="crd", generation=1), counters=(take,)),
            fresh(facts, counters=(quota_take(1, 999),)),
            fresh(facts, counters=(quota_take(1, 1_000, hard=False),)),
            fresh(facts, counters=(take,), invoices=()),
            fresh(facts, counters=(take,), credit_required=False),
            fresh(facts, counters=(take,), probe=True),
            fresh(facts, counters=(take,), prepaid=False),
            fresh(facts),
        ]
        for hold in other:
            assert not (await holds.place_hold(hold)).block_id
        old = fresh(facts, counters=(take,))
        old_id = make_hold_id(int(time.time()) - 60, secrets.token_bytes(16))
        old = replace(old, terms=replace(old.terms, hold_id=old_id))
        assert not (await holds.place_hold(old)).block_id
        assert (await holds.place_hold(fresh(facts, counters=(take,)))).block_id


async def test_a_soft_limit_that_is_passed_inside_a_block_is_told(store):
    facts = await store.add_customer(granted=1_000_000)
    soft = quota_take(1, 20, hard=False)
    seen = []
    async with gateway(store) as holds:
        for _ in range(60):
            outcome = await holds.place_hold(fresh(facts, counters=(soft,)))
            seen.append((outcome.numbers.used["tokens"], "tokens" in outcome.numbers.over))
            await asyncio.sleep(0.001)
    assert [used for used, _ in seen] == list(range(1, 61))
    assert all(over is (used > 20) for used, over in seen)


async def test_nothing_is_placed_from_a_block_that_was_not_renewed_in_time(store, monkeypatch):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        await warm(holds, lambda: fresh(facts))
        (block,) = holds._blocks.values()
        now = time.monotonic
        assert block.place_until <= now() + 1.0
        monkeypatch.setattr(holds, "_monotonic", lambda: now() + 1.0)
        outcome = await holds.place_hold(fresh(facts))
        assert (outcome.status, outcome.block_id) == (PlaceStatus.PLACED, "")


async def test_blocks_are_renewed_while_they_are_used_and_returned_when_they_are_not(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        count = len(await warm(holds, lambda: fresh(facts)))
        renewed = telemetry.ALLOTMENTS.labels("renewed")._value
        wanted = renewed.get() + 3
        while renewed.get() < wanted:
            outcome = await holds.place_hold(fresh(facts))
            assert outcome.status is PlaceStatus.PLACED
            count += 1
            await asyncio.sleep(0.002)
        await until(lambda: not holds._blocks and not holds._leaving)
        held = AMOUNT * count
        await until_numbers(store, 1_000_000, 0, held, 1_000_000 - held)


async def test_more_than_it_may_remember_is_asked_of_the_store(store):
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store, holds_max=3) as holds:
        await warm(holds, lambda: fresh(facts))
        outcomes = [await holds.place_hold(fresh(facts)) for _ in range(6)]
        assert [bool(one.block_id) for one in outcomes] == [True, True, *[False] * 4]


async def test_no_more_blocks_than_there_may_be(store):
    first = await store.add_customer(granted=1_000_000)
    second = await store.add_customer(granted=1_000_000, customer_id="cus_bob")
    async with gateway(store, blocks_max=1) as holds:
        await warm(holds, lambda: fresh(first))
        for _ in range(20):
            assert not (await holds.place_hold(fresh(second))).block_id
            await holds.place_hold(fresh(first))


def test_the_times_keep_their_promises() -> None:
    """An id is remembered for longer than it may be placed without asking."""
    assert allotments.REMEMBERED_SECONDS > FRESH_SECONDS + 1
    assert allotments.TICK_SECONDS < 0.05


class Away(RedisBlocks):
    """Blocks whose store does not answer while it is away."""

    is_away = False

    async def allot(self, *args, **kwargs):
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().allot(*args, **kwargs)

    async def register(self, *args, **kwargs):
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().register(*args, **kwargs)


async def test_holds_wait_for_a_store_that_is_away_and_are_all_there_afterwards(store):
    facts = await store.add_customer(granted=1_000_000)
    blocks = Away(store.connection, store.keyspace, teller="one")
    async with gateway(store, blocks=blocks) as holds:
        count = len(await warm(holds, lambda: fresh(facts)))
        blocks.is_away = True
        served = 0
        # Until the block's time is over: then nothing is placed without the store.
        while (await holds.place_hold(fresh(facts))).block_id:
            served += 1
            await asyncio.sleep(0.01)
        assert served
        count += served + 1
        blocks.is_away = False
        await until(lambda: all(one.stage is HoldStage.KNOWN for one in holds._local.values()))
    assert await store.numbers() == (1_000_000, 0, AMOUNT * count, 1_000_000 - AMOUNT * count)


async def test_a_store_that_lost_its_blocks_is_told_to_nobody_as_if_it_had_them(store, capsys):
    """The loss of the store is the one thing that leaves holds without credit: it is told."""
    facts = await store.add_customer(granted=1_000_000)
    async with gateway(store) as holds:
        await warm(holds, lambda: fresh(facts))
        lost = telemetry.ALLOTTED_HOLDS.labels("lost")._value.get()
        key = store.keyspace.customer(CUSTOMER)
        names = [name for name in await store.fields() if name[:2] in {b"h:", b"b:"}]
        assert (await holds.place_hold(fresh(facts))).block_id
        await store.connection.command("HDEL", key, *names, "blocks")
        assert (await holds.place_hold(fresh(facts))).block_id
        await until(lambda: all(one.stage is HoldStage.KNOWN for one in holds._local.values()))
        assert telemetry.ALLOTTED_HOLDS.labels("lost")._value.get() > lost
        assert not (await holds.place_hold(fresh(facts))).block_id
    assert "allotted_holds_uncovered" in capsys.readouterr().out


async def test_nothing_is_placed_from_a_block_before_its_first_answer(store):
    facts = await store.add_customer(granted=1_000_000)
    blocks = Away(store.connection, store.keyspace, teller="one")
    blocks.is_away = True
    async with gateway(store, blocks=blocks) as holds:
        outcomes = [await holds.place_hold(fresh(facts)) for _ in range(60)]
        assert not any(one.block_id for one in outcomes)
    assert (await store.numbers())[2] == 60 * AMOUNT


async def test_a_redis_that_is_killed_and_comes_back_has_every_hold_of_its_blocks(tmp_path):
    """A block serves for its second without it; then nothing is placed until it is back."""
    redis = LosingRedis(folder=tmp_path)
    redis.start()
    store = await LiveStore.open(redis.url)
    try:
        facts = await store.add_customer(granted=1_000_000)
        async with gateway(store) as holds:
            placed = await warm(holds, lambda: fresh(facts))
            redis.kill("first")
            with pytest.raises(StoreUnavailable):
                await place_on(holds, facts, placed)
            assert placed[-1].block_id
            redis.start()
            await until(lambda: all(one.stage is HoldStage.KNOWN for one in holds._local.values()))
            await eventually(lambda: is_back(store))
        held = AMOUNT * len(placed)
        assert await store.numbers() == (1_000_000, 0, held, 1_000_000 - held)
    finally:
        await store.connection.aclose()
        for name in tuple(redis.processes):
            redis.kill(name)


async def place_on(holds: AllottedHolds, facts, placed: list[PlaceOutcome]) -> None:
    while True:
        placed.append(await holds.place_hold(fresh(facts)))
        await asyncio.sleep(0.01)


async def is_back(store: LiveStore) -> bool:
    return b"blocks" not in await store.fields()
