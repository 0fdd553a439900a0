"""Accounts, directory, rate cards, stream and shards on a real Redis."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fixtures.live_store import CUSTOMER, LiveStore, event_of, hold_of, open_shards

from sidecar.domain.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    NotFound,
    StoreUnavailable,
)
from sidecar.domain.pricing import Billing, Meter, Package, PerUnit, PriceLine, RateCard
from sidecar.domain.standing import Standing, StandingFact
from sidecar.outbound.redis.connection import fix_shards
from sidecar.outbound.redis.directory import RedisDirectory
from sidecar.outbound.redis.errors import StoreDamaged
from sidecar.outbound.redis.keys import Keyspace
from sidecar.services.control_ports import (
    Credential,
    Customer,
    Grant,
    StreamRecord,
    UnreadableRecord,
)
from sidecar.services.ports import PlaceStatus

ADA = Customer(customer_id=CUSTOMER, plan="prepaid", currency="USD", labels={"b": "2", "a": "1"})
KEY = Credential(
    credential_id="crd_1", customer_id=CUSTOMER, secret_hash="ab12", user_id="u1", generation=3
)
CARD = RateCard(
    plan="prepaid",
    billing=Billing.PREPAID,
    currency="USD",
    lines=(
        PriceLine(meter="output", price=PerUnit(amount_nano=1_500, per=1)),
        PriceLine(meter="input", price=Package(amount_nano=7, per=3), models=("m",)),
    ),
    meters={
        "output": Meter(name="output", value="usage.output"),
        "input": Meter(name="input", value="usage.input", statuses=frozenset({200})),
    },
)


class Seconds:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_url)
    yield store
    await store.connection.aclose()


async def test_the_number_of_shards_is_fixed_at_the_first_start(store):
    assert await fix_shards(store.connection, 4) == Keyspace(4)
    with pytest.raises(ConfigError, match="set up with 4"):
        await fix_shards(store.connection, 8)
    for shards in (0, 1_025):
        with pytest.raises(ConfigError, match="1 to 1024"):
            await fix_shards(store.connection, shards)


def test_shards_and_keys_are_those_of_redis_cluster():
    keyspace = Keyspace(64)
    # CRC16 of "123456789" is the check value of the XMODEM variant, which Redis Cluster uses.
    assert keyspace.shard_of("123456789") == 0x31C3 % 64
    assert keyspace.customer("123456789") == "sc:{s03}:c:123456789"
    keys = keyspace.hold_keys("123456789", "0000000a" + "0" * 32)
    assert keys == (
        "sc:{s03}:c:123456789",
        "sc:{s03}:shard",
        "sc:{s03}:done:0",
        "sc:{s03}:expiry",
        "sc:{s03}:open",
        "sc:{s03}:usage",
        "sc:{s03}:windows",
        "sc:{s03}:touched",
    )
    for bad in ("", "a\nb", "x" * 513):
        with pytest.raises(InvalidInput):
            keyspace.customer(bad)


async def test_a_customer_put_again_keeps_its_balance_and_its_revision(store):
    await store.accounts.put_customer(ADA)
    await store.grant(70)
    first = await store.facts()
    await store.accounts.put_customer(replace(ADA, labels={"a": "1", "b": "2"}))
    assert await store.facts() == first
    await store.accounts.put_customer(replace(ADA, plan="free"))
    second = await store.facts()
    assert second.revision > first.revision
    assert second.plan == "free"
    await store.accounts.put_customer(replace(ADA, plan="free", labels={}))
    assert (await store.facts()).revision > second.revision
    assert await store.numbers() == (70, 0, 0, 70)


async def test_a_revision_does_not_come_up_again_after_a_loss(store):
    await store.accounts.put_customer(ADA)
    before = (await store.facts()).revision
    await store.connection.command("FLUSHALL")
    with pytest.raises(StoreUnavailable):
        await store.accounts.put_customer(replace(ADA, plan="free"))
    await open_shards(store.connection, store.keyspace, epoch=2)
    await store.accounts.put_customer(replace(ADA, plan="free"))
    assert (await store.facts()).revision > before - 1
    assert before > 1_700_000_000_000


async def test_a_customers_currency_cannot_change(store):
    await store.accounts.put_customer(ADA)
    with pytest.raises(Conflict, match="another currency"):
        await store.accounts.put_customer(replace(ADA, currency="EUR"))
    assert (await store.facts()).currency == "USD"


async def test_a_grant_counts_once(store):
    await store.add_customer()
    for _ in range(3):
        await store.grant(70)
    assert await store.numbers() == (70, 0, 0, 70)
    (record,) = await store.records()
    assert (record.kind, record.grant_id, record.amount_nano) == ("grant", "grant-1", 70)
    assert (record.hold_id, record.event, record.prepaid) == ("", None, True)


async def test_a_grant_that_does_not_fit_is_refused(store):
    await store.add_customer()
    await store.grant(70)
    grant = Grant(grant_id="g", customer_id=CUSTOMER, amount_nano=5, currency="USD")
    with pytest.raises(Conflict, match="other content"):
        await store.grant(71)
    with pytest.raises(Conflict, match="EUR"):
        await store.accounts.apply_grant(replace(grant, currency="EUR"))
    with pytest.raises(NotFound):
        await store.accounts.apply_grant(replace(grant, customer_id="cus_nobody"))
    for amount in (0, -1, 4_000_000_000_000_000_001):
        with pytest.raises(InvalidInput):
            await store.accounts.apply_grant(replace(grant, amount_nano=amount))
    await store.set_field("granted", "plenty")
    with pytest.raises(StoreDamaged):
        await store.accounts.apply_grant(grant)
    with pytest.raises(StoreDamaged):
        await store.balance()


async def test_a_balance_says_when_it_was_read(store):
    await store.add_customer(granted=70)
    balance = await store.balance()
    assert balance.currency == "USD"
    assert abs((balance.as_of - datetime.now(UTC)).total_seconds()) < 3_600
    assert await store.accounts.read_balance("cus_nobody") is None


async def test_standing_and_credentials_need_a_customer(store):
    before = await store.dump()
    with pytest.raises(NotFound):
        await store.accounts.put_standing(CUSTOMER, StandingFact(standing=Standing.GRACE))
    with pytest.raises(NotFound):
        await store.accounts.put_credential(KEY)
    assert await store.dump() == before


async def test_a_credential_leads_to_its_customer(store):
    await store.accounts.put_customer(ADA)
    await store.accounts.put_credential(KEY)
    facts = await store.directory.find_credential(["unknown", "ab12"])
    assert facts is not None
    assert (facts.customer_id, facts.plan, facts.currency) == (CUSTOMER, "prepaid", "USD")
    assert (facts.user_id, facts.credential_id, facts.generation) == ("u1", "crd_1", 3)
    assert facts.labels == {"a": "1", "b": "2"}


async def test_a_put_that_was_overtaken_does_not_revive_a_credential(store):
    await store.accounts.put_customer(ADA)
    await store.accounts.put_credential(KEY)
    await store.accounts.put_credential(replace(KEY, revoked_at=datetime.now(UTC)))
    await store.accounts.put_credential(KEY)
    await store.accounts.put_credential(replace(KEY, generation=2))
    assert await store.directory.find_credential(["ab12"]) is None
    assert (await store.fields())[b"k:crd_1"] == b"-3"
    await store.accounts.put_credential(replace(KEY, generation=4))
    facts = await store.directory.find_credential(["ab12-other", "ab12"])
    # That nobody had it is remembered for a second; the next instance asks.
    assert facts is None
    fresh = RedisDirectory(store.connection, store.keyspace)
    assert (await fresh.find_credential(["ab12"])).generation == 4


async def test_a_check_with_a_warm_directory_makes_one_call(store):
    await store.add_customer(granted=100)
    await store.accounts.put_credential(KEY)
    await store.connection.load_scripts()
    cold = store.connection.calls
    directory = RedisDirectory(store.connection, store.keyspace)
    await directory.find_credential(["ab12"])
    assert store.connection.calls - cold == 2
    warm = store.connection.calls
    facts = await directory.find_credential(["ab12"])
    assert (await store.place(facts, 1, 10)).status is PlaceStatus.PLACED
    assert store.connection.calls - warm == 1


async def test_what_is_remembered_grows_old_and_can_be_forgotten(store):
    await store.accounts.put_customer(ADA)
    await store.accounts.put_credential(KEY)
    seconds = Seconds()
    directory = RedisDirectory(store.connection, store.keyspace, monotonic=seconds)

    async def calls_to_find(secret_hash: str) -> int:
        before = store.connection.calls
        await directory.find_credential([secret_hash])
        return store.connection.calls - before

    assert [await calls_to_find("ab12") for _ in range(2)] == [2, 0]
    seconds.now += 29.9
    assert await calls_to_find("ab12") == 0
    seconds.now += 0.2
    assert await calls_to_find("ab12") == 2
    directory.forget(await directory.find_credential(["ab12"]))
    assert await calls_to_find("ab12") == 2
    assert [await calls_to_find("nobody's") for _ in range(2)] == [1, 0]
    seconds.now += 1.1
    assert await calls_to_find("nobody's") == 1


async def test_what_is_remembered_is_bounded(store):
    directory = RedisDirectory(store.connection, store.keyspace, entries_max=3)
    for number in range(10):
        customer_id = f"cus_{number}"
        await store.accounts.put_customer(replace(ADA, customer_id=customer_id))
        await store.accounts.put_credential(
            replace(
                KEY, customer_id=customer_id, credential_id=f"c{number}", secret_hash=f"h{number}"
            )
        )
        assert await directory.find_credential([f"h{number}"]) is not None
        assert await directory.find_credential([f"guess{number}"]) is None
    caches = (directory._credentials, directory._customers, directory._unknown)
    assert [len(cache) for cache in caches] == [3, 3, 3]
    calls = store.connection.calls
    await directory.find_credential(["h9"])
    assert store.connection.calls == calls


async def test_a_damaged_entry_is_told_and_admits_nobody(store):
    await store.accounts.put_customer(ADA)
    await store.accounts.put_credential(KEY)
    await store.set_field("labels", "{")
    with pytest.raises(StoreDamaged):
        await store.directory.read_customer(CUSTOMER)
    await store.connection.command("HSET", "sc:cred:ab12", "generation", "third")
    with pytest.raises(StoreDamaged):
        await store.directory.find_credential(["ab12"])


async def test_an_index_without_its_customer_finds_nobody(store):
    await store.accounts.put_customer(ADA)
    await store.accounts.put_credential(KEY)
    await store.connection.command("DEL", store.keyspace.customer(CUSTOMER))
    assert await store.directory.find_credential(["ab12"]) is None
    assert await store.directory.read_customer(CUSTOMER) is None


async def test_a_rate_card_is_read_as_it_was_published(store, redis_url):
    assert await store.cards.read(CARD.version) is None
    await store.cards.publish(CARD)
    await store.cards.publish(CARD)
    other = await LiveStore.open(redis_url)
    try:
        assert await other.cards.read(CARD.version) == CARD
        calls = other.connection.calls
        await other.cards.read(CARD.version)
        assert other.connection.calls == calls
        assert await other.cards.read("") is None
    finally:
        await other.connection.aclose()


@pytest.mark.parametrize("content", ["{", "[]", "{}", CARD.content().replace("1500", "1501")])
async def test_a_rate_card_with_other_content_is_refused(store, content):
    await store.connection.command("SET", f"sc:card:{CARD.version}", content)
    with pytest.raises(StoreDamaged):
        await store.cards.read(CARD.version)


async def test_the_stream_is_read_in_pages_and_trimmed_to_an_offset(store):
    facts = await store.add_customer(granted=100)
    for number in range(9):
        await store.balances.capture_hold(
            event_of(hold_of(facts, number, 0), number), (), prepaid=True
        )
    shard = store.keyspace.shard_of(CUSTOMER)
    first = await store.stream.read(shard, "0-0", 4)
    second = await store.stream.read(shard, first[-1].entry_id, 100)
    assert [record.amount_nano for record in [*first, *second]] == [100, *range(9)]
    everywhere = range(store.keyspace.shards)
    assert await store.stream.waiting(everywhere) == [shard]
    assert await store.stream.waiting([n for n in everywhere if n != shard]) == []
    await store.stream.trim(shard, first[-1].entry_id)
    assert await store.stream.waiting([shard]) == [shard]
    assert await store.stream.read(shard, "0-0", 100) == second
    await store.stream.trim(shard, first[0].entry_id)
    assert await store.stream.read(shard, "0-0", 100) == second
    await store.stream.trim(shard, second[-1].entry_id)
    assert await store.stream.read(shard, "0-0", 100) == []
    assert await store.stream.waiting(everywhere) == await store.stream.waiting(()) == []
    await store.balances.capture_hold(event_of(hold_of(facts, 10, 0), 5), (), prepaid=True)
    assert len(await store.stream.read(shard, second[-1].entry_id, 100)) == 1
    for bad in ("", "-", "abc", "1"):
        with pytest.raises(InvalidInput):
            await store.stream.read(shard, bad, 1)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("v", "2", "version"),
        ("k", "chargeback", "chargeback"),
        ("k", "correction", "kind"),
        ("k", "capture:1", "kind"),
        ("amt", "1.5", "invalid literal"),
        ("ev", b"\xff\xff", "malformed"),
        ("ev", "", "version"),
        ("id", "0" * 40, "different holds"),
        ("c", "cus_bob", "different holds"),
        ("pre", "yes", "flag"),
        ("mv", "grant-1 much", "invalid literal"),
        ("mv", None, "no field"),
        ("at", None, "no field"),
    ],
)
async def test_an_entry_that_cannot_be_read_is_handed_on_with_its_fields(
    store, field, value, problem
):
    facts = await store.add_customer()
    await store.balances.capture_hold(event_of(hold_of(facts, 1, 0), 5), (), prepaid=True)
    usage = store.keyspace.usage(store.keyspace.shard_of(CUSTOMER))
    ((_, flat),) = await store.connection.command("XRANGE", usage, "-", "+")
    fields = dict(zip(flat[::2], flat[1::2], strict=True)) | {field.encode(): value}
    entry = [part for pair in fields.items() if pair[1] is not None for part in pair]
    await store.connection.command("XADD", usage, "*", *entry)
    good, bad = await store.stream.read(store.keyspace.shard_of(CUSTOMER), "0-0", 10)
    assert isinstance(good, StreamRecord)
    assert isinstance(bad, UnreadableRecord)
    assert problem in bad.problem
    assert bad.fields["cur"] == "USD"
