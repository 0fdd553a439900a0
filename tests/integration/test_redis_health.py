"""What doctor says of one server and of a cluster, and which of its nodes it names."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from fixtures.redis_cluster import ClusterNode, RedisCluster
from redis.crc import key_slot

from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.health import describe_server, server_version

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def connected(url: str, seconds: float = 20.0) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection.from_url(url, timeout_seconds=seconds)
    try:
        yield connection
    finally:
        await connection.aclose()


@contextmanager
def configured(node: ClusterNode, name: str, value: str) -> Iterator[None]:
    before = node.client.config_get(name)[name]
    node.ask("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        node.ask("CONFIG", "SET", name, before)


async def test_a_cluster_that_is_well_is_described(redis_cluster: RedisCluster):
    async with connected(redis_cluster.url) as connection:
        version = await server_version(connection)
        assert await describe_server(connection) == (
            f"cluster of 3 masters with 3 replicas, {version}, noeviction, append-only file on"
        )


@pytest.mark.parametrize(
    ("name", "value"), [("maxmemory-policy", "allkeys-lru"), ("appendonly", "no")]
)
async def test_a_master_that_may_lose_balances_is_named(
    redis_cluster: RedisCluster, name: str, value: str
):
    node = redis_cluster.nodes[1]
    async with connected(redis_cluster.url) as connection:
        with (
            configured(node, name, value),
            pytest.raises(ConfigError, match=f"127.0.0.1:{node.port}: {name}"),
        ):
            await describe_server(connection)


async def test_slots_that_nobody_serves_are_told(redis_cluster: RedisCluster):
    slot = key_slot(b"sc:meta")
    owner = redis_cluster.owner("sc:meta")
    owner.ask("CLUSTER", "DELSLOTS", slot)
    try:
        async with connected(redis_cluster.url) as connection:
            with pytest.raises(ConfigError, match="16383 of 16384 slots are served"):
                await describe_server(connection)
    finally:
        owner.ask("CLUSTER", "ADDSLOTS", slot)


async def test_a_user_that_may_not_ask_for_its_node_is_told(redis_cluster: RedisCluster):
    cluster = ("-cluster", "+cluster|slots", "+cluster|nodes", "+cluster|info")
    rights = ("on", ">word", "~sc:*", "+@all", *cluster)
    for node in redis_cluster.nodes:
        node.ask("ACL", "SETUSER", "narrow", *rights)
    try:
        url = redis_cluster.url.replace("://", "://narrow:word@")
        async with connected(url) as connection:
            with pytest.raises(ConfigError, match=r"grant it \+cluster\|myid"):
                await describe_server(connection)
    finally:
        for node in redis_cluster.nodes:
            node.ask("ACL", "DELUSER", "narrow")


async def test_a_master_that_does_not_answer_is_named(redis_cluster: RedisCluster):
    node = redis_cluster.nodes[1]
    async with connected(redis_cluster.url, seconds=0.5) as connection:
        await connection.command("PING")
        node.stop_answering()
        try:
            with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{node.port} does not answer"):
                await describe_server(connection)
        finally:
            node.answer_again()


async def test_a_node_that_is_named_as_a_server_is_told_apart(redis_cluster: RedisCluster):
    node = redis_cluster.nodes[0]
    async with connected(f"redis://127.0.0.1:{node.port}") as connection:
        with pytest.raises(ConfigError, match="node of a cluster"):
            await describe_server(connection)
        keys = (f"sc:cred:{number}" for number in range(100))
        elsewhere = next(key for key in keys if redis_cluster.owner(key) is not node)
        with pytest.raises(StoreUnavailable, match=r"redis\+cluster"):
            await connection.command("GET", elsewhere)


async def test_every_master_is_asked_and_no_replica(redis_cluster: RedisCluster):
    async with connected(redis_cluster.url) as connection:
        answers = await connection.each("PING")
        masters = {f"127.0.0.1:{node.port}" for node in redis_cluster.nodes[:3]}
        assert answers == dict.fromkeys(masters, b"PONG")


async def test_doctor_describes_a_cluster_and_never_shows_its_password(
    redis_cluster: RedisCluster, tmp_path: Path
):
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text("k1:a-secret-key-of-these-tests\n")
    plain = {name: text for name, text in os.environ.items() if not name.startswith("SIDECAR_")}
    for url, found in (
        (redis_cluster.url, b"ok   redis      cluster of 3 masters with 3 replicas, "),
        (redis_cluster.url.replace("://", "://nobody:hunter2@"), b"MISS redis"),
    ):
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidecar", "doctor"),
            cwd=ROOT,
            env=plain
            | {
                "SIDECAR_REDIS_URL": url,
                "SIDECAR_SECRET_KEYS_FILE": str(keys),
                "SIDECAR_ROLES": "gateway",
                "SIDECAR_DATA_DIR": str(tmp_path / "data"),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await done.communicate()
        assert found in out, out.decode()
        assert b"hunter2" not in out
