"""A master of a cluster dies, and its replica had not heard everything: nothing is missing."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import aiohttp
import pytest
import structlog
from fixtures.redis_cluster import ClusterNode, RedisCluster
from fixtures.traffic import Traffic, traffic_settings

from sidecar import telemetry
from sidecar.app import Application
from sidecar.app.reconciling import make_reconciler
from sidecar.outbound.redis.keys import META, Keyspace
from sidecar.services.reconciling import Reconciler

pytestmark = pytest.mark.timeout(300)
CUSTOMERS = 12
WAIT_SECONDS = 90.0
KEYS = Keyspace(64)
JOURNAL = "on"


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    telemetry.setup_logging("critical")
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sidecar-cluster-") as name:
        yield Path(name)


@asynccontextmanager
async def gateways(folder: Path, cluster: RedisCluster) -> AsyncIterator[Traffic]:
    """Two gateways with a journal each; nobody settles."""
    async with AsyncExitStack() as stack:
        apps = [
            await stack.enter_async_context(
                Application(
                    traffic_settings(
                        folder,
                        cluster.url,
                        "",
                        roles="gateway",
                        journal=JOURNAL,
                        data_dir=folder / f"gateway-{number}",
                    )
                )
            )
            for number in range(2)
        ]
        timeout = aiohttp.ClientTimeout(total=WAIT_SECONDS)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        yield Traffic(apps, session, Random(7))


@asynccontextmanager
async def control(
    folder: Path, cluster: RedisCluster, dsn: str, traffic: Traffic
) -> AsyncIterator[Application]:
    """A process that settles and administers, for a while."""
    settings = traffic_settings(folder, cluster.url, dsn, roles="settlement,admin")
    async with Application(settings) as application:
        traffic.control = application
        await until(lambda: not application.problems())
        yield application
        traffic.control = None


async def until(condition) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.02)


async def more(traffic: Traffic, customers: list[str], count: int) -> None:
    """Wait until so many more requests of these have been acknowledged."""

    def acknowledged() -> int:
        return sum(one.customer_id in customers for one in traffic.acknowledged)

    wanted = acknowledged() + count
    await until(lambda: acknowledged() >= wanted)


def cut_off(master: ClusterNode, replica: ClusterNode) -> None:
    """The replica hears nothing more of its master, while each believes in the other."""
    replica.ask("CONFIG", "SET", "masteruser", "nobody")
    replica.ask("CONFIG", "SET", "masterauth", "wrong")
    master.ask("CLIENT", "KILL", "TYPE", "replica")


def writes(node: ClusterNode, customer_id: str) -> int:
    """How far the customer's shard is on a node."""
    with node.client.client() as one:
        one.execute_command("READONLY")
        return int(one.hget(KEYS.shard(KEYS.shard_of(customer_id)), "seq") or 0)


async def test_what_a_replica_had_not_heard_comes_from_the_journals(
    own_redis_cluster: RedisCluster, postgres_dsn: str, folder: Path
):
    cluster = own_redis_cluster
    async with gateways(folder, cluster) as traffic:
        async with control(folder, cluster, postgres_dsn, traffic):
            await traffic.set_up(CUSTOMERS)
            await until(lambda: not [p for app in traffic.apps for p in app.problems()])
            victim = cluster.owner(META)
            heir = cluster.replica_of(victim)
            struck = [one for one in traffic.keys if cluster.owner(KEYS.customer(one)) is victim]
            stop = asyncio.Event()
            running = asyncio.create_task(traffic.run(stop))
            await more(traffic, struck, 10)
        try:
            # Nobody settles from here on: what the replica does not hear is in no ledger.
            cut_off(victim, heir)
            await more(traffic, struck, 30)
            lost = sum(writes(victim, one) - writes(heir, one) for one in struck)
            assert lost >= 30
            victim.kill()
            await until(lambda: role(heir) == "master")
            # Gateways ask the heir again, while nobody has looked at what it has.
            refused = traffic.refusals["store_unavailable"]
            await until(lambda: traffic.refusals["store_unavailable"] > refused + 20)
            async with control(folder, cluster, postgres_dsn, traffic) as settling:
                await more(traffic, struck, 30)
                stop.set()
                await running
                await until(lambda: not any(unsettled(app) for app in traffic.apps))
                assert set(traffic.refusals) <= {"store_unavailable", "usage"}
                await traffic.assert_exact()
                report = await reconciler_of(settling).run_once()
                assert (report.wrong, report.unread) == (0, [])
                assert report.customers == CUSTOMERS
        finally:
            stop.set()
            await asyncio.gather(running, return_exceptions=True)


def reconciler_of(app: Application) -> Reconciler:
    return make_reconciler(app.stores.redis, app.keyspace, app.pool, app.clock)


def unsettled(app: Application) -> bool:
    """Whether a gateway still waits for the ledger."""
    return app.journaling.journal is not None and bool(app.journaling.journal.newest())


def role(node: ClusterNode) -> str:
    found = node.client.role()[0]
    return found.decode() if isinstance(found, bytes) else str(found)
