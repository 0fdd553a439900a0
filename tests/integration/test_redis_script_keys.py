"""
Each script touches one slot, and no key but those that its call names.

Every call runs as a user who may touch nothing but the KEYS of that call: a name that Lua made
by itself would be refused.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fixtures.blocks import block_of, placed_from
from fixtures.counter_stores import FLIGHT, RATE, ROLLING, WINDOW
from fixtures.live_store import (
    CUSTOMER,
    LiveStore,
    event_of,
    hold_id_of,
    hold_of,
    quota_lines,
)
from redis.crc import key_slot

from sidecar.domain.counters import CounterTake
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.grants import WithdrawalKind
from sidecar.domain.rebuilding import RecordedUsage
from sidecar.domain.standing import Standing, StandingFact
from sidecar.domain.usage import TokenUsage, UsageReport
from sidecar.outbound.redis import scripts
from sidecar.outbound.redis.accounts import RedisLiveAccounts
from sidecar.outbound.redis.allotting import RedisBlocks
from sidecar.outbound.redis.auditing import RedisLiveBooks
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.claimed_holds import RedisClaimedHolds
from sidecar.outbound.redis.connection import Argument, RedisConnection
from sidecar.outbound.redis.quarantine import RedisQuarantine
from sidecar.outbound.redis.scripts import Script
from sidecar.outbound.redis.shards import RedisLiveShards
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.services.allotment_blocks import WINDOWED
from sidecar.services.allotment_ports import Registered
from sidecar.services.control_ports import Credential, Withdrawal
from sidecar.services.ports import CaptureStatus, PlaceStatus, RatingDemand

USER = "declared-keys-only"
REPORT = UsageReport(
    edge="otlp", gateway_id="gateway-1", received_at=datetime.now(UTC), usage=TokenUsage()
)


class DeclaredKeysOnly(RedisConnection):
    """Its user is given the right to the KEYS of each script's call, and to no others."""

    admin: RedisConnection
    called: dict[str, int]

    async def run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Argument], **times: Any
    ) -> Any:
        assert len({key_slot(key.encode()) for key in keys}) == 1, (script.name, keys)
        patterns = [f"~{key}" for key in keys]
        await self.admin.command("ACL", "SETUSER", USER, "resetkeys", *patterns)
        self.called[script.name] = self.called.get(script.name, 0) + 1
        return await super().run(script, keys, arguments, **times)

    async def commands(self, batch: Any, **times: Any) -> list[Any]:
        """Single commands name their keys themselves."""
        await self.admin.command("ACL", "SETUSER", USER, "allkeys", "allchannels")
        return await super().commands(batch, **times)


@pytest.fixture
async def store(redis_url: str, redis_socket: Path) -> AsyncIterator[LiveStore]:
    admin = await LiveStore.open(redis_url)
    await admin.connection.command("ACL", "SETUSER", USER, "reset", "on", ">pw", "+@all")
    url = f"unix://{USER}@{redis_socket}?password=pw"
    bound = DeclaredKeysOnly.from_url(url, timeout_seconds=20.0)
    bound.admin, bound.called = admin.connection, {}
    yield replace(
        admin,
        balances=RedisBalances(bound, admin.keyspace, admin.clock, store_timeout_seconds=20.0),
        accounts=RedisLiveAccounts(bound, admin.keyspace),
    )
    await bound.aclose()
    await admin.connection.command("ACL", "DELUSER", USER)
    await admin.connection.aclose()


def takes() -> tuple[CounterTake, ...]:
    """A take of each kind of counter, so that no branch of the counters' Lua is left out."""
    now = datetime.now(UTC)
    counters = (WINDOW, ROLLING, RATE, FLIGHT)
    return tuple(counter.take(NOBODY, 1, now, hard=True) for counter in counters)


async def set_up(store: LiveStore) -> CustomerFacts:
    """A customer through every write of the control plane."""
    await store.add_customer(granted=100)
    await store.accounts.put_standing(CUSTOMER, StandingFact(standing=Standing.GOOD))
    credential = Credential(
        credential_id="crd_1", customer_id=CUSTOMER, secret_hash="0f" * 32, generation=1
    )
    await store.accounts.put_credential(credential)
    return await store.facts()


async def lose_and_rebuild(store: LiveStore, facts: CustomerFacts) -> None:
    """A shard through everything of its losing and coming back."""
    bound, keys = store.balances._connection, store.keyspace
    shard, old, lost = keys.shard_of(CUSTOMER), hold_of(facts, 5, 4), hold_of(facts, 4, 10)
    shards = RedisLiveShards(bound, keys)
    await RedisQuarantine(bound, keys).put(REPORT, reason="unpriced", key="k1")
    await RedisUsageStream(bound, keys).tell_settled(shard, 1, 1)
    epoch = next(one.epoch for one in await shards.look() if one.shard == shard)
    await shards.close({shard: epoch})
    await store.connection.command("HSET", keys.shard(shard), "building", epoch + 1)
    ended = RecordedUsage(
        hold_id=hold_id_of(6),
        customer_id=CUSTOMER,
        captured=True,
        amount_nano=1,
        overage_nano=0,
        estimated=False,
        digest="0f",
        corrections=0,
        decided_at=datetime.now(UTC),
    )
    await shards.remember(shard, epoch + 1, [ended])
    await shards.open(shard, epoch + 1, claims=True)
    assert await store.balances.restore_hold(lost.terms, 60_000, prepaid=True, parts={})
    claimed = await store.balances.capture_hold(event_of(old, 4), (), prepaid=True)
    assert claimed.status is CaptureStatus.CLAIMED
    await RedisClaimedHolds(bound, keys).answer(CUSTOMER, hold_id_of(5), None)


async def use_a_block(store: LiveStore, facts: CustomerFacts) -> None:
    """A block that is given, told of a hold, and returned."""
    windows = tuple(one for one in takes() if one.counter.kind in WINDOWED)
    block = block_of(facts, counters=windows)
    blocks = RedisBlocks(store.balances._connection, store.keyspace)
    assert (await blocks.allot(block, 10, (5, 5))).outcome.status is PlaceStatus.PLACED
    _, told = placed_from(block, facts, 7, 3, quantities=(1, 1))
    assert list(await blocks.register(block.terms, 1, [told], ends=True)) == [Registered.OPENED]


async def test_every_script_touches_the_keys_of_its_call_in_one_slot(store):
    facts = await set_up(store)
    hold = hold_of(facts, 1, 10, counters=takes())
    assert (await store.balances.place_hold(hold)).status is PlaceStatus.PLACED
    assert await store.balances.extend_hold(CUSTOMER, hold_id_of(1), 120_000)
    assert await store.balances.read_hold(CUSTOMER, hold_id_of(1))
    estimated = event_of(hold, 4, estimated=True)
    demand = RatingDemand(key="t:v:output:0", quantity=5)
    await store.balances.reserve_totals(CUSTOMER, hold_id_of(1), estimated, (demand,))
    await store.balances.capture_hold(estimated, quota_lines(hold, 5), prepaid=True)
    await store.balances.capture_hold(event_of(hold, 6), quota_lines(hold, 6), prepaid=True)
    other = hold_of(facts, 2, 10, counters=takes())
    await store.balances.place_hold(other)
    assert await store.balances.release_hold(CUSTOMER, hold_id_of(2))
    short = hold_of(facts, 3, 10, counters=takes(), ttl_ms=1)
    await store.balances.place_hold(short)
    await store.expire(hold_id_of(3))
    await use_a_block(store, facts)
    withdrawal = Withdrawal(
        withdrawal_id="wdr_1", customer_id=CUSTOMER, grant_id="grant-1", kind=WithdrawalKind.VOID
    )
    assert await store.accounts.apply_withdrawal(withdrawal) > 0
    books = RedisLiveBooks(store.balances._connection, store.keyspace)
    book = await books.read_book(CUSTOMER)
    assert book is not None
    assert await books.mend_book(CUSTOMER, book, book.numbers, book.grants)
    await lose_and_rebuild(store, facts)
    shard = store.keyspace.shard_of(CUSTOMER)
    # Past everything that the counters keep, so that the sweep has something to prune.
    await store.set_clock(4_000_000_000_000)
    assert await store.balances.prune_counters(shard, 100) > 0
    called = store.balances._connection.called
    missing = {script.name for script in scripts.ALL} - set(called)
    assert not missing, "call these here too, so that they are held to their keys"


async def test_the_right_is_what_refuses_a_key_that_is_not_named(store):
    """Else the test above could not fail."""
    bound = store.balances._connection
    source = b"return redis.call('GET', KEYS[1] .. ':other')"
    wrong = Script(name="wrong", source=source, sha="0" * 40, shard_key=0, guarded=False)
    with pytest.raises(StoreUnavailable, match="can't access at least one of the keys"):
        await bound.run(wrong, ("sc:{s00}:a",), ())
