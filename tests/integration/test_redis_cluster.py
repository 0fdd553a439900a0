"""A real cluster: who is asked, what happens while slots move or nodes are away, and push."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fixtures.live_store import CUSTOMER, LiveStore, SystemClock, event_of, hold_id_of, hold_of
from fixtures.redis_cluster import RedisCluster
from redis.crc import key_slot

from sidecar.domain.errors import StoreUnavailable
from sidecar.outbound.embedded.redis_server import GATEWAY_ACL_RULES
from sidecar.outbound.redis.balances import RedisBalances
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import PUSH_CHANNEL, Keyspace
from sidecar.outbound.redis.push import PushListener
from sidecar.outbound.redis.stream import RedisUsageStream
from sidecar.services.control_ports import Credential
from sidecar.services.ports import CaptureStatus, PlaceStatus

pytestmark = pytest.mark.timeout(180)
SHARD_KEY = Keyspace(4).shard(Keyspace(4).shard_of(CUSTOMER))
SLOT = key_slot(SHARD_KEY.encode())


@pytest.fixture
async def store(redis_cluster: RedisCluster) -> AsyncIterator[LiveStore]:
    store = await LiveStore.open(redis_cluster.url)
    await store.connection.load_scripts()
    yield store
    await store.connection.aclose()


@pytest.fixture
def moving(redis_cluster: RedisCluster):
    """The customer's slot, its owner and another master; brought home at the end."""
    source = redis_cluster.owner(SHARD_KEY)
    target = redis_cluster.other_master(source)
    yield source, target
    if redis_cluster.owner(SHARD_KEY) is target:
        redis_cluster.move_slot(SLOT, target, source)
    for node in (source, target):
        node.ask("CLUSTER", "SETSLOT", SLOT, "STABLE")


async def test_replies_of_a_batch_over_all_nodes_come_in_its_order(store, redis_cluster):
    keys = [f"sc:cred:{number}" for number in range(100)]
    assert len({redis_cluster.owner(key).port for key in keys}) == 3
    assert await store.connection.commands([("SET", key, key) for key in keys]) == [b"OK"] * 100
    batch = [command for key in keys for command in (("GET", key), ("ECHO", key))]
    calls = store.connection.calls
    answers = await store.connection.commands(batch)
    assert answers == [key.encode() for key in keys for _ in range(2)]
    assert store.connection.calls - calls == 3


async def test_streams_on_all_nodes_are_asked_about_in_one_round_trip_to_each(store, redis_cluster):
    shards = range(64)
    usage = [Keyspace(64).usage(shard) for shard in shards]
    assert len({redis_cluster.owner(key).port for key in usage}) == 3
    stream = RedisUsageStream(store.connection, Keyspace(64))
    await store.connection.commands([("XADD", key, "*", "f", "v") for key in usage[::3]])
    calls = store.connection.calls
    assert await stream.waiting(shards) == list(shards)[::3]
    assert store.connection.calls - calls == 3


async def test_an_error_in_one_part_of_a_batch_leaves_no_reply_for_the_next(store):
    keys = [f"sc:cred:{number}" for number in range(10)]
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="refused"):
            await store.connection.commands([*(("GET", key) for key in keys), ("HGET", "sc:x")])
    await store.connection.commands([("SET", key, key) for key in keys])
    answers = await store.connection.commands([("GET", key) for key in keys])
    assert answers == [key.encode() for key in keys]


async def test_a_slot_that_has_moved_is_followed_once_and_then_known(store, redis_cluster, moving):
    facts = await store.add_customer(granted=100)
    await store.place(facts, 1, 10)
    calls = store.connection.calls
    await store.place(facts, 2, 10)
    assert store.connection.calls - calls == 1
    other = await LiveStore.open(redis_cluster.url)
    await other.numbers()
    redis_cluster.move_slot(SLOT, *moving)
    # The first of all callers also looks where the shard is (at it, and at the map and each of
    # three masters), notes it, and calls again.
    calls = store.connection.calls
    assert (await store.place(facts, 3, 10)).status is PlaceStatus.PLACED
    assert store.connection.calls - calls == 2 + 1 + 4 + 1 + 1
    assert (await store.place(facts, 4, 10)).status is PlaceStatus.PLACED
    assert store.connection.calls - calls == 2 + 1 + 4 + 1 + 1 + 1
    # Others are only redirected.
    calls = other.connection.calls
    assert (await other.place(facts, 5, 10)).status is PlaceStatus.PLACED
    assert other.connection.calls - calls == 2
    assert await store.numbers() == (100, 0, 50, 50)
    await other.connection.aclose()


async def test_a_new_owner_without_the_scripts_learns_them(store, redis_cluster, moving):
    facts = await store.add_customer(granted=100)
    moving[1].ask("SCRIPT", "FLUSH")
    redis_cluster.move_slot(SLOT, *moving)
    assert (await store.place(facts, 1, 10)).status is PlaceStatus.PLACED
    assert (await store.place(facts, 2, 10)).status is PlaceStatus.PLACED
    assert await store.numbers() == (100, 0, 20, 80)


async def test_a_single_key_is_found_on_either_side_of_a_move(store, redis_cluster, moving):
    await store.add_customer(granted=100)
    redis_cluster.begin_move(SLOT, *moving)
    for _ in range(10):
        assert await store.numbers() == (100, 0, 0, 100)
        assert len(await store.records()) == 1
        if not redis_cluster.move_keys(SLOT, *moving, at_most=1):
            break
    # Not told of the end yet: the source sends every call on, for that once.
    assert await store.numbers() == (100, 0, 0, 100)
    assert moving[0].ask("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 0


async def test_a_script_waits_for_its_divided_slot(store, redis_cluster, moving):
    facts = await store.add_customer(granted=100)
    await store.place(facts, 1, 10)
    redis_cluster.begin_move(SLOT, *moving)
    redis_cluster.move_keys(SLOT, *moving, at_most=1)
    placing = asyncio.create_task(store.place(facts, 2, 10))
    calls = store.connection.calls
    await _until(lambda: store.connection.calls > calls + 3)
    assert not placing.done()
    redis_cluster.move_keys(SLOT, *moving, at_most=100)
    redis_cluster.end_move(SLOT, *moving)
    assert (await placing).status is PlaceStatus.PLACED
    assert await store.numbers() == (100, 0, 20, 80)


async def test_a_script_whose_slot_stays_divided_fails_in_its_time_and_writes_nothing(
    store, redis_cluster, moving
):
    facts = await store.add_customer(granted=100)
    await store.place(facts, 1, 10)
    redis_cluster.begin_move(SLOT, *moving)
    redis_cluster.move_keys(SLOT, *moving, at_most=1)
    hasty = RedisBalances(
        store.connection, store.keyspace, SystemClock(), store_timeout_seconds=0.05
    )
    with pytest.raises(StoreUnavailable, match="in time"):
        await hasty.place_hold(hold_of(facts, 2, 10))
    redis_cluster.move_keys(SLOT, *moving, at_most=100)
    redis_cluster.end_move(SLOT, *moving)
    assert await store.numbers() == (100, 0, 10, 90)
    assert await store.balances.read_hold(CUSTOMER, hold_id_of(2)) is None


async def test_a_slot_that_nobody_serves_is_waited_for_and_then_given_up_on(store, redis_cluster):
    await store.add_customer(granted=100)
    owner = redis_cluster.owner(SHARD_KEY)
    owner.ask("CLUSTER", "DELSLOTS", SLOT)
    try:
        key = store.keyspace.customer(CUSTOMER)
        with pytest.raises(StoreUnavailable):
            await store.connection.command("HGET", key, "avail", timeout_seconds=0.05)
        reading = asyncio.create_task(store.numbers())
        calls = store.connection.calls
        await _until(lambda: store.connection.calls > calls + 2)
        assert not reading.done()
    finally:
        owner.ask("CLUSTER", "ADDSLOTS", SLOT)
    assert await reading == (100, 0, 0, 100)


async def test_a_node_that_hangs_costs_its_own_shards_their_deadline_and_no_other(
    store, redis_cluster
):
    await store.add_customer(granted=100)
    owner = redis_cluster.owner(SHARD_KEY)
    elsewhere = next(
        key
        for key in (f"sc:cred:{number}" for number in range(100))
        if redis_cluster.owner(key) is not owner
    )
    key = store.keyspace.customer(CUSTOMER)
    owner.stop_answering()
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="in time"):
                await store.connection.command("HGET", key, "avail", timeout_seconds=0.02)
            assert await store.connection.command("SET", elsewhere, "x") == b"OK"
    finally:
        owner.answer_again()
    assert await store.numbers() == (100, 0, 0, 100)


async def test_what_is_published_is_heard_also_after_the_channel_has_moved(store, redis_cluster):
    slot = key_slot(PUSH_CHANNEL.encode())
    source = redis_cluster.owner(PUSH_CHANNEL)
    target = redis_cluster.other_master(source)
    gateway = RedisConnection.from_url(redis_cluster.url, timeout_seconds=20.0)
    heard = Heard()
    stop = asyncio.Event()
    listener = PushListener(gateway, heard)
    listening = asyncio.create_task(listener.run(stop))
    try:
        await _until(lambda: listener.trusted)
        await store.add_customer()
        await _until(lambda: CUSTOMER in heard.customers)
        redis_cluster.move_slot(slot, source, target)
        heard.customers.clear()
        await store.add_customer()
        await _until(lambda: CUSTOMER in heard.customers)
        # Whoever knows of the move leaves a node that could leave the cluster.
        drops = heard.drops
        await _until_async(lambda: _refreshed(gateway, lambda: heard.drops > drops))
        await _until(lambda: listener.trusted)
        assert len(target.client.client_list(_type="pubsub")) == 1
    finally:
        redis_cluster.move_slot(slot, target, source)
        stop.set()
        await listening
        await gateway.aclose()


async def test_the_gateway_user_may_do_all_that_a_gateway_does(store, redis_cluster):
    facts = await store.add_customer(granted=100)
    rules = GATEWAY_ACL_RULES.split()
    for node in redis_cluster.nodes:
        node.ask("ACL", "SETUSER", "gateway", "reset", "on", ">p@ss", *rules)
    url = redis_cluster.url.replace("://", "://gateway:p%40ss@")
    gateway = await LiveStore.open(url)
    try:
        await gateway.connection.load_scripts()
        hold = hold_of(facts, 1, 10)
        assert (await gateway.balances.place_hold(hold)).status is PlaceStatus.PLACED
        outcome = await gateway.balances.capture_hold(event_of(hold, 7), (), prepaid=True)
        assert outcome.status is CaptureStatus.CAPTURED
        assert await gateway.balances.find_hold(hold_id_of(1)) == CUSTOMER
        await gateway.balances.ping()
        await _follow_an_ask(redis_cluster, gateway.connection)
        for command in (("FLUSHALL",), ("CLUSTER", "RESET"), ("GET", "other")):
            with pytest.raises(StoreUnavailable, match="permission"):
                await gateway.connection.command(*command)
    finally:
        await gateway.connection.aclose()
        for node in redis_cluster.nodes:
            node.ask("ACL", "DELUSER", "gateway")


async def test_a_credential_leads_to_its_customer_whatever_node_has_its_slot(store):
    await store.add_customer(granted=100)
    for number in range(20):
        credential = Credential(
            credential_id=f"crd_{number}",
            customer_id=CUSTOMER,
            secret_hash=f"{number:064x}",
            generation=1,
        )
        await store.accounts.put_credential(credential)
        found = await store.directory.find_credential((f"{number:064x}", f"{number + 50:064x}"))
        assert found is not None
        assert (found.customer_id, found.credential_id) == (CUSTOMER, f"crd_{number}")


async def _follow_an_ask(cluster: RedisCluster, connection: RedisConnection) -> None:
    """A key that is not there, in a slot that is being moved, is asked for on the other side."""
    slot, source = key_slot(b"sc:cred:none"), cluster.owner("sc:cred:none")
    target = cluster.other_master(source)
    cluster.begin_move(slot, source, target)
    calls = connection.calls
    assert await connection.command("HGET", "sc:cred:none", "customer_id") is None
    assert connection.calls - calls == 2
    for node in (source, target):
        node.ask("CLUSTER", "SETSLOT", slot, "STABLE")


class Heard:
    """A cache that remembers what it was told to forget."""

    def __init__(self) -> None:
        self.customers: set[str] = set()
        self.drops = 0

    def drop_customer(self, customer_id: str) -> None:
        self.customers.add(customer_id)

    def drop_credential(self, secret_hash: str) -> None:
        assert secret_hash

    def drop_all(self) -> None:
        self.drops += 1


async def _refreshed(connection: RedisConnection, condition) -> bool:
    await connection.refresh()
    return condition()


async def _until(condition) -> None:
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


async def _until_async(condition) -> None:
    for _ in range(1_000):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to that")
