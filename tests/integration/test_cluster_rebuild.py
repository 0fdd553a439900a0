"""`sidecar rebuild` on a cluster of which a node lost everything, killed again and again."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import aiohttp
import asyncpg
import pytest
import structlog
from fixtures.redis_cluster import RedisCluster
from fixtures.traffic import ROOT, Traffic, traffic_settings

from sidecar import telemetry
from sidecar.app import Application
from sidecar.app.reconciling import make_reconciler
from sidecar.outbound.redis.keys import META, Keyspace

pytestmark = pytest.mark.timeout(300)
CUSTOMERS = 12
WAIT_SECONDS = 60.0
KEYS = Keyspace(64)


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
async def serving(folder: Path, cluster: RedisCluster, dsn: str) -> AsyncIterator[Traffic]:
    settings = traffic_settings(folder, cluster.url, dsn, rebuild="manual")
    timeout = aiohttp.ClientTimeout(total=WAIT_SECONDS)
    async with Application(settings) as app, aiohttp.ClientSession(timeout=timeout) as session:
        traffic = Traffic((app,), session, Random(7))
        await until(lambda: not app.problems())
        yield traffic


async def until(condition) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  What is watched sets no event.
            await asyncio.sleep(0.01)


async def rebuild(
    folder: Path, redis_url: str, dsn: str, *options: str
) -> asyncio.subprocess.Process:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "SIDECAR_REDIS_URL": redis_url,
        "SIDECAR_POSTGRES_DSN": dsn,
        "SIDECAR_SECRET_KEYS_FILE": str(folder / "keys"),
        "SIDECAR_ADMIN_TOKEN_FILE": str(folder / "admin"),
        "SIDECAR_POLICY_DIR": str(ROOT / "config" / "policy"),
        "SIDECAR_DATA_DIR": str(folder / "command"),
        "SIDECAR_LEASE_SECONDS": "5",
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "rebuild", *options),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    out, err = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out.decode().strip()


async def test_a_node_that_lost_everything_is_made_anew_however_often_that_dies(
    redis_cluster: RedisCluster, postgres_dsn: str, folder: Path
):
    cluster, url = redis_cluster, redis_cluster.url
    async with serving(folder, cluster, postgres_dsn) as traffic:
        await traffic.set_up(CUSTOMERS)
        for customer_id in [*traffic.keys] * 3:
            await traffic.one(customer_id)
        await traffic.assert_exact()
        keys, acknowledged = traffic.keys, traffic.acknowledged
    # With the node that says how many shards there are; keys of others' customers are on it, too.
    node = cluster.owner(META)
    shards = [n for n in range(64) if cluster.owner(KEYS.shard(n)) is node]
    spared = next(n for n in range(64) if n not in shards)
    node.ask("FLUSHALL")

    def having(field: str) -> int:
        return sum(bool(node.client.hexists(KEYS.shard(n), field)) for n in shards)

    # Each table is waited for at another step: before anything is filled, and behind it.
    for table in ("grants", "usage_events"):
        await killed_waiting_for(table, folder, url, postgres_dsn, lambda: having("building"))
        assert having("epoch") == 0
    # While shards are opened, if it is not quicker.
    process = await rebuild(folder, url, postgres_dsn)
    await until(lambda: having("epoch") or process.returncode is not None)
    if process.returncode is None:
        process.kill()
    await process.wait()
    left = len(shards) - having("epoch")
    code, said = await ended(await rebuild(folder, url, postgres_dsn))
    assert (code, having("epoch"), having("building")) == (0, len(shards), 0)
    assert said == f"rebuilt {left} shards"
    for options, wanted in (
        ((), (0, "rebuilt 0 shards")),
        (("--shard", str(spared)), (0, "rebuilt 0 shards")),
        (("--shard", str(spared), "--shard", str(shards[0]), "--force"), (0, "rebuilt 2 shards")),
        (("--shard", "64"), (2, "")),
    ):
        assert await ended(await rebuild(folder, url, postgres_dsn, *options)) == wanted, options
    away = "redis+cluster://127.0.0.1:1"
    assert await ended(await rebuild(folder, away, postgres_dsn)) == (3, "")
    async with serving(folder, cluster, postgres_dsn) as traffic:
        traffic.keys, traffic.acknowledged = keys, acknowledged
        for one in [*acknowledged]:
            assert await traffic.send(one.event) == "duplicate"
        for customer_id in [*keys] * 2:
            await traffic.one(customer_id)
        assert traffic.refusals == {}
        await traffic.assert_exact()
        app = traffic.apps[0]
        reconciler = make_reconciler(app.stores.redis, app.keyspace, app.pool, app.clock)
        report = await reconciler.run_once()
        assert (report.wrong, report.unread, report.customers) == (0, [], CUSTOMERS)


async def killed_waiting_for(table: str, folder: Path, url: str, dsn: str, begun) -> None:
    """Kill a rebuild that has begun to fill, and that waits for a table."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            process = await rebuild(folder, url, dsn)
            await until(lambda: begun() or process.returncode is not None)
            waiting = (
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            async with asyncio.timeout(WAIT_SECONDS):
                while not await connection.fetchval(waiting, table):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert process.returncode is None
            process.kill()
            await process.wait()
    finally:
        await connection.close()
