"""The whole flow on a real cluster: in peace, while a slot moves, and when a master dies."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import aiohttp
import pytest
import structlog
from fixtures.redis_cluster import ClusterNode, RedisCluster
from fixtures.traffic import Traffic, traffic_settings
from redis.crc import key_slot

from sidecar import telemetry
from sidecar.app import Application
from sidecar.outbound.redis.keys import META, Keyspace

pytestmark = pytest.mark.timeout(300)
CUSTOMERS = 12
MOVES = 4
WAIT_SECONDS = 60.0
KEYS = Keyspace(64)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    telemetry.setup_logging("error")
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sidecar-cluster-") as name:
        yield Path(name)


@asynccontextmanager
async def serving(folder: Path, redis_url: str, postgres_dsn: str) -> AsyncIterator[Traffic]:
    """Two processes' worth of gateways; one of them settles and administers as well."""
    everything = traffic_settings(folder, redis_url, postgres_dsn)
    gateway = traffic_settings(folder, redis_url, postgres_dsn, roles="gateway")
    async with (
        Application(everything) as first,
        Application(gateway) as second,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS)) as session,
    ):
        await until(lambda: not first.problems() and not second.problems())
        traffic = Traffic((first, second), session, Random(7))
        await traffic.set_up(CUSTOMERS)
        yield traffic


@pytest.fixture
async def traffic(
    redis_cluster: RedisCluster, postgres_dsn: str, folder: Path
) -> AsyncIterator[Traffic]:
    async with serving(folder, redis_cluster.url, postgres_dsn) as traffic:
        yield traffic


async def until(condition) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.02)


async def test_from_customer_to_ledger_on_every_master(traffic, redis_cluster):
    for customer_id in [*traffic.keys] * 3:
        await traffic.one(customer_id)
    assert traffic.refusals == {}
    await traffic.assert_exact()
    owners = {redis_cluster.owner(KEYS.customer(one)).port for one in traffic.keys}
    assert len(owners) == 3


async def test_a_slot_that_moves_under_traffic_costs_refusals_and_no_amount(traffic, redis_cluster):
    shard_key = KEYS.customer("cus_0")
    slot = key_slot(shard_key.encode())
    home = redis_cluster.owner(shard_key)
    there = redis_cluster.other_master(home)
    stop = asyncio.Event()
    running = asyncio.create_task(traffic.run(stop))
    try:
        for number in range(MOVES):
            ends = (home, there) if number % 2 == 0 else (there, home)
            await more(traffic, 20)
            await move_slowly(redis_cluster, traffic, slot, *ends)
            moved = sum(one.customer_id == "cus_0" for one in traffic.acknowledged)
            await until(
                lambda moved=moved: (
                    sum(one.customer_id == "cus_0" for one in traffic.acknowledged) > moved
                )
            )
    finally:
        stop.set()
        await running
    # Its customers were refused while their keys were on both sides, and for no other reason.
    assert set(traffic.refusals) <= {"store_unavailable", "usage"}
    assert traffic.refusals["store_unavailable"] >= MOVES
    assert redis_cluster.owner(shard_key) is home
    await traffic.assert_exact()


async def test_a_master_that_dies_costs_refusals_and_nothing_that_its_replica_had(
    own_redis_cluster: RedisCluster, postgres_dsn: str, folder: Path
):
    cluster = own_redis_cluster
    async with serving(folder, cluster.url, postgres_dsn) as traffic:
        # Its node also has what says how many shards there are.
        victim = cluster.owner(META)
        heir = cluster.replica_of(victim)
        owners = {one: cluster.owner(KEYS.customer(one)) for one in traffic.keys}
        struck = next(one for one, owner in owners.items() if owner is victim)
        spared = [one for one, owner in owners.items() if owner is not victim]
        stop = asyncio.Event()
        running = asyncio.create_task(traffic.run(stop))
        try:
            await more(traffic, 40)
            confirmed = await confirm(cluster, traffic)
            await more(traffic, 5)
            victim.kill()
            before = len(traffic.acknowledged)
            assert await refusals_until_promoted(traffic, heir, struck) > 0
            # The other masters' customers were served meanwhile.
            assert any(one.customer_id in spared for one in traffic.acknowledged[before:])
            await answered_again(traffic, struck)
            await more(traffic, 40)
        finally:
            stop.set()
            await running
        assert set(traffic.refusals) <= {"store_unavailable", "usage"}
        # Nothing is missing of what Redis had said that a replica has.
        for one in traffic.acknowledged[:confirmed]:
            assert await traffic.send(one.event) == "duplicate"
        await replay_what_was_acknowledged(traffic)
        await traffic.assert_exact()


async def replay_what_was_acknowledged(traffic: Traffic) -> None:
    """
    What a gateway's journal does after a failover: send again what it had acknowledged.

    A replica is told after the caller is, so the last captures of a master that dies may be
    lost. This part of the store does not bring them back by itself.
    """
    for one in traffic.acknowledged:
        await traffic.send(one.event)


async def more(traffic: Traffic, count: int) -> None:
    """Wait until so many more requests have been acknowledged."""
    wanted = len(traffic.acknowledged) + count
    await until(lambda: len(traffic.acknowledged) >= wanted)


async def move_slowly(
    cluster: RedisCluster, traffic: Traffic, slot: int, source: ClusterNode, target: ClusterNode
) -> None:
    """Key by key; not before a check has found the slot divided."""
    await asyncio.to_thread(cluster.begin_move, slot, source, target)
    await asyncio.to_thread(cluster.move_keys, slot, source, target, 1)
    refusals = traffic.refusals["store_unavailable"]
    await until(lambda: traffic.refusals["store_unavailable"] > refusals)
    # New keys may be made while it goes on: the end is when none is left at one look.
    while await asyncio.to_thread(cluster.move_keys, slot, source, target, 1):  # noqa: ASYNC110  Sets no event.
        await asyncio.sleep(0.01)
    await asyncio.to_thread(cluster.end_move, slot, source, target)


async def confirm(cluster: RedisCluster, traffic: Traffic) -> int:
    """Have every master say that its replica has everything so far: of how many captures."""
    count = len(traffic.acknowledged)
    for number, node in enumerate(cluster.nodes[:3]):
        key = next(f"confirm:{number}:{n}" for n in range(10_000) if owns(cluster, node, number, n))
        await asyncio.to_thread(write_and_wait, node, key)
    return count


def owns(cluster: RedisCluster, node: ClusterNode, number: int, n: int) -> bool:
    return cluster.owner(f"confirm:{number}:{n}") is node


def write_and_wait(node: ClusterNode, key: str) -> None:
    """WAIT counts from the last write of its own connection, which comes behind all others."""
    with node.client.client() as one:
        one.set(key, 1)
        assert one.wait(1, 20_000) == 1


async def refusals_until_promoted(traffic: Traffic, heir: ClusterNode, struck: str) -> int:
    """Ask for a customer of the dead master until its replica has taken over: how often refused."""
    refused = 0
    async with asyncio.timeout(WAIT_SECONDS):
        while role(heir) != "master":
            decision = await traffic.check(struck)
            assert not [problem for app in traffic.apps for problem in app.problems()]
            if not decision["allow"]:
                assert decision["code"] == "store_unavailable"
                refused += 1
            elif role(heir) != "master":
                raise AssertionError("allowed without a store")
            await asyncio.sleep(0.01)
    return refused


def role(node: ClusterNode) -> str:
    found = node.client.role()[0]
    return found.decode() if isinstance(found, bytes) else found


async def answered_again(traffic: Traffic, struck: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not (await traffic.check(struck))["allow"]:  # noqa: ASYNC110  Sets no event.
            await asyncio.sleep(0.02)
