"""Ends of credentials, and changes that reach other gateways, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fixtures.live_store import CUSTOMER, LiveStore

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.redis.directory import RedisDirectory
from sidecar.services.control_ports import Credential, Customer
from sidecar.services.ports import PlaceStatus

KEY = Credential(
    credential_id="crd_1", customer_id=CUSTOMER, secret_hash="ab12", team_id="t1", user_id="u1"
)
HOUR = timedelta(hours=1)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    await store.add_customer(granted=100)
    yield store
    await store.connection.aclose()


def another_gateway(store: LiveStore) -> RedisDirectory:
    return RedisDirectory(store.connection, store.keyspace)


async def found(directory: RedisDirectory) -> CustomerFacts:
    facts = await directory.find_credential(["ab12"])
    assert facts is not None
    return facts


async def entry(store: LiveStore) -> bytes:
    return (await store.fields())[b"k:crd_1"]


async def store_time(store: LiveStore) -> datetime:
    seconds, micros = await store.connection.command("TIME")
    return datetime.fromtimestamp(int(seconds) + int(micros) / 1e6, UTC)


async def test_a_credential_names_its_team_and_user(store):
    await store.accounts.put_credential(KEY)
    facts = await found(store.directory)
    assert (facts.team_id, facts.user_id, facts.credential_id) == ("t1", "u1", "crd_1")


async def test_a_key_ends_by_the_stores_clock_in_a_gateway_that_remembers_it(store):
    await store.accounts.put_credential(KEY)
    gateway = another_gateway(store)
    facts = await found(gateway)
    ends = await store_time(store) + timedelta(seconds=1)
    await store.accounts.put_credential(replace(KEY, expires_at=ends))
    assert (await store.place(facts, 1, 1)).status is PlaceStatus.PLACED
    while await store_time(store) < ends:  # noqa: ASYNC110  A clock sets no event.
        await asyncio.sleep(0.01)
    # It still remembers the key, without its end; the script does not.
    assert await found(gateway) == facts
    assert (await store.place(facts, 2, 1)).status is PlaceStatus.UNKNOWN_CREDENTIAL
    assert await another_gateway(store).find_credential(["ab12"]) is None


async def test_what_is_remembered_of_a_key_ends_with_it(store):
    ends = await store_time(store) + timedelta(seconds=1)
    await store.accounts.put_credential(replace(KEY, expires_at=ends))
    gateway = another_gateway(store)
    assert (await found(gateway)).generation == 1
    async with asyncio.timeout(20):  # Without its end it would be remembered for 30 s.
        while await gateway.find_credential(["ab12"]) is not None:  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.05)


async def test_an_end_only_comes_nearer_and_a_revocation_is_final(store):
    now = datetime.now(UTC).replace(microsecond=0)
    await store.accounts.put_credential(KEY)
    await store.accounts.put_credential(replace(KEY, expires_at=now + 2 * HOUR))
    await store.accounts.put_credential(replace(KEY, expires_at=now + HOUR))
    nearest = await entry(store)
    assert nearest == b"1@%d" % ((now + HOUR).timestamp() * 1_000)
    for overtaken in (KEY, replace(KEY, expires_at=now + 2 * HOUR)):
        await store.accounts.put_credential(overtaken)
        assert await entry(store) == nearest
    left = await store.connection.command("PTTL", "sc:cred:ab12")
    assert 0 < left <= HOUR.total_seconds() * 1_000
    await store.accounts.put_credential(replace(KEY, revoked_at=now, expires_at=now + HOUR))
    await store.accounts.put_credential(replace(KEY, expires_at=now + HOUR))
    assert await entry(store) == b"-1"
    # A renewed secret is another generation, and may have an end of its own.
    await store.accounts.put_credential(
        replace(KEY, generation=2, secret_hash="cd", expires_at=now + 2 * HOUR)
    )
    assert (await entry(store)).startswith(b"2@")


@pytest.mark.parametrize("damaged", ["", "1@", "@5", "1@5x", "x", "1@-5"])
async def test_an_entry_that_cannot_be_read_admits_nobody(store, damaged: str):
    await store.accounts.put_credential(KEY)
    facts = await found(store.directory)
    await store.set_field("k:crd_1", damaged)
    assert (await store.place(facts, 1, 1)).status is PlaceStatus.UNKNOWN_CREDENTIAL


async def test_a_revoked_key_is_refused_at_the_very_next_check_of_a_gateway_that_remembers_it(
    store,
):
    await store.accounts.put_credential(KEY)
    gateway = another_gateway(store)
    facts = await found(gateway)
    assert (await store.place(facts, 1, 1)).status is PlaceStatus.PLACED
    await store.accounts.put_credential(replace(KEY, revoked_at=datetime.now(UTC)))
    assert await found(gateway) == facts
    assert (await store.place(facts, 2, 1)).status is PlaceStatus.UNKNOWN_CREDENTIAL
    gateway.forget(facts)
    assert await gateway.find_credential(["ab12"]) is None


async def test_a_change_of_plan_is_seen_by_the_next_check_of_a_gateway_that_remembers_the_old(
    store,
):
    await store.accounts.put_credential(KEY)
    gateway = another_gateway(store)
    facts = await found(gateway)
    changed = Customer(customer_id=CUSTOMER, plan="free", currency="USD", labels={"region": "eu"})
    await store.accounts.put_customer(changed)
    assert (await store.place(facts, 1, 1)).status is PlaceStatus.STALE_FACTS
    gateway.forget(facts)
    fresh = await found(gateway)
    assert (fresh.plan, fresh.labels) == ("free", {"region": "eu"})
    assert (await store.place(fresh, 2, 1)).status is PlaceStatus.PLACED


async def test_a_standing_carries_its_invoices_into_the_customers_hash(store):
    since = datetime(2026, 1, 1, tzinfo=UTC)
    fact = StandingFact(
        standing=Standing.GRACE, overdue_since=since, overdue_nano=12_500_000_000, disputed=True
    )
    await store.accounts.put_standing(CUSTOMER, fact)
    fields = await store.fields()
    assert fields[b"due_since"] == b"%d" % (since.timestamp() * 1_000)
    assert (fields[b"due_nano"], fields[b"due_disputed"]) == (b"12500000000", b"1")
    await store.accounts.put_standing(CUSTOMER, StandingFact(standing=Standing.GOOD))
    fields = await store.fields()
    assert (fields[b"due_since"], fields[b"due_nano"]) == (b"", b"")
    assert fields[b"due_disputed"] == b"0"
