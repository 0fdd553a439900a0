"""Thresholds on a real Redis and Postgres: each once a period, whoever looks, whatever crashes."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.live_store import LiveStore, event_of, hold_of, quota_lines
from fixtures.policy_parts import CUSTOMER, POLICY

from sidecar.domain.counters import Counter, CounterKind, Level
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Quota
from sidecar.domain.windows import RollingWindow
from sidecar.outbound.postgres.accounts import PostgresAccounts
from sidecar.outbound.postgres.thresholds import PostgresThresholds
from sidecar.outbound.redis.used_counters import RedisUsedCounters
from sidecar.services.control_ports import Customer
from sidecar.services.thresholds import Thresholds, UsedCounter

ID = "cus_ada"
MONTH = CalendarWindow(unit=CalendarUnit.MONTH)


def quota(limit: int = 100, **changes: object) -> Quota:
    counter = Counter(
        name="tokens", kind=CounterKind.WINDOW, measure="total", limit=limit, window=MONTH
    )
    return Quota(name="tokens", counter=replace(counter, **changes), thresholds=(50, 80, 100))


class Policies:
    def __init__(self, one: Quota) -> None:
        self.set(one)

    def set(self, one: Quota, version: str = "v1") -> None:
        self.policy: Policy = replace(POLICY, version=version, quotas={one.name: one})

    def current(self) -> Policy:
        return self.policy


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@pytest.fixture
async def parts(redis_url: str, postgres_pool):
    store = await LiveStore.open(redis_url)
    accounts = PostgresAccounts(postgres_pool)
    await accounts.create_customer(Customer(customer_id=ID, plan="pro", currency="USD"))
    await store.add_customer(granted=10**9)
    policies = Policies(quota())
    record = PostgresThresholds(postgres_pool)
    counters = RedisUsedCounters(store.connection, store.keyspace)

    def looker() -> Thresholds:
        return Thresholds(
            counters=counters,
            record=record,
            accounts=accounts,
            policies=policies,
            clock=Clock(),
            shards=range(store.keyspace.shards),
        )

    yield store, policies, record, looker
    await store.connection.aclose()


async def use(store: LiveStore, one: Quota, number: int, quantity: int) -> None:
    """Hold 90 and use a quantity of it, or 0 to leave the hold open."""
    facts = replace(await store.facts(), user_id="ada")
    take = one.counter.take(facts, 90, datetime.now(UTC), hard=False)
    hold = hold_of(facts, number, 1, counters=(take,))
    hold = replace(hold, terms=replace(hold.terms, quota_lines=(take.line,)))
    outcome = await store.balances.place_hold(hold)
    assert outcome.numbers is not None
    if quantity:
        await store.balances.capture_hold(
            event_of(hold, 1, outcome), quota_lines(hold, quantity), prepaid=True
        )


async def reached(record: PostgresThresholds) -> list[tuple[str, int, int]]:
    found = await record.list_reached(ID, limit=100)
    return [(one.subject, one.percent, one.used) for one in reversed(found)]


async def test_each_threshold_is_told_once_by_what_was_used_and_not_by_what_is_held(parts):
    store, _, record, looker = parts
    first, second = looker(), looker()
    await use(store, quota(), 1, 0)
    assert await first.look_once() == 0
    await use(store, quota(), 2, 60)
    assert await first.look_once() + await second.look_once() == 1
    await use(store, quota(), 3, 45)
    assert await second.look_once() == 2
    await use(store, quota(), 4, 10)
    assert await first.look_once() == 0
    assert await reached(record) == [("", 50, 60), ("", 80, 105), ("", 100, 105)]


async def test_a_round_in_which_nothing_was_used_is_one_question(parts):
    store, _, record, looker = parts
    one = looker()
    await one.look_once()
    before = store.connection.calls
    assert await one.look_once() == 0
    assert store.connection.calls - before == 1
    await use(store, quota(), 1, 60)

    async def unanswered(_: Collection[int]) -> Collection[int]:
        raise StoreUnavailable("a node is away")

    one._counters.stirred = unanswered
    assert await one.look_once() == 1, "each shard was looked at itself"
    assert [percent for _, percent, _ in await reached(record)] == [50]


async def test_a_crash_between_looking_and_taking_the_note_back_loses_and_doubles_nothing(parts):
    store, _, record, looker = parts
    await use(store, quota(), 1, 60)
    broken = looker()

    async def crash(shard: int, counters: list[UsedCounter]) -> None:
        raise ConnectionError

    real, broken._counters.forget = broken._counters.forget, crash
    with pytest.raises(ConnectionError):
        await broken.look_once()
    broken._counters.forget = real
    await use(store, quota(), 2, 25)
    # What was set aside is looked at first, then what came since.
    after = looker()
    await after.look_once()
    await after.look_once()
    assert [percent for _, percent, _ in await reached(record)] == [50, 80]


async def test_a_lowered_limit_crosses_without_a_request(parts):
    store, policies, record, looker = parts
    one = looker()
    await use(store, quota(), 1, 40)
    assert await one.look_once() == 0
    policies.set(quota(limit=50), version="v2")
    assert await one.look_once() == 2
    assert [percent for _, percent, _ in await reached(record)] == [50, 80]
    assert await one.look_once() == 0


async def test_a_rolling_window_adds_its_slices_and_is_told_once_a_length(parts):
    store, policies, record, looker = parts
    rolling = quota(kind=CounterKind.ROLLING, window=RollingWindow(seconds=3_600, slices=4))
    policies.set(rolling)
    one = looker()
    shard_now = int(datetime.now(UTC).timestamp() * 1_000)
    await use(store, rolling, 1, 45)
    await one.look_once()
    # The next slice, by the shard's own clock.
    later = datetime.now(UTC) + timedelta(minutes=15)
    await store.set_clock(int(later.timestamp() * 1_000))
    facts = await store.facts()
    take = rolling.counter.take(facts, 90, later, hard=False)
    hold = hold_of(facts, 2, 1, counters=(take,), deadline=later + timedelta(hours=1))
    hold = replace(hold, terms=replace(hold.terms, quota_lines=(take.line,)))
    outcome = await store.balances.place_hold(hold)
    await store.balances.capture_hold(
        event_of(hold, 1, outcome), quota_lines(hold, 40), prepaid=True
    )
    assert shard_now < outcome.instant_ms
    await one.look_once()
    assert [(percent, used) for _, percent, used in await reached(record)] == [(50, 85), (80, 85)]
    assert await one.look_once() == 0


async def test_users_have_thresholds_of_their_own(parts):
    store, policies, record, looker = parts
    per_user = quota(level=Level.USER)
    policies.set(per_user)
    await use(store, per_user, 1, 55)
    await looker().look_once()
    assert await reached(record) == [("user=ada", 50, 55)]


async def test_where_the_set_was_full_everybody_is_looked_at(parts):
    store, _, record, looker = parts
    one = looker()
    await one.look_once()
    await use(store, quota(), 1, 60)
    shard = store.keyspace.shard_of(ID)
    key = store.keyspace.touched(shard)
    await store.connection.command("DEL", key)
    await store.connection.command("SADD", key, "*")
    await one.look_once()
    assert await reached(record) == [("", 50, 60)]
    assert CUSTOMER.customer_id != ID
