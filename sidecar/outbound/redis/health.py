"""What kind of Redis answers, and whether it is set up to be trusted with balances."""

from collections.abc import Mapping
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.exceptions import NoPermissionError

from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import META

VERSION_MIN = (6, 2)


async def server_version(connection: RedisConnection) -> str:
    """The server's version, as "6.2.14". Raises StoreUnavailable."""
    return _version(_read_info("the server", await connection.command("INFO", "server")))


async def check_shards(connection: RedisConnection, shards: int) -> None:
    """
    Compare the number of shards with the store's; changes nothing, unlike the first start.

    Raises:
        ConfigError: The store was set up with another number.
        StoreUnavailable: No answer.
    """
    stored = await connection.command("HGET", META, "shards")
    if stored is not None and stored != str(shards).encode():
        raise ConfigError(
            f"shards is {shards}, but this Redis was set up with "
            f"{stored.decode(errors='replace')[:20]}; the number is fixed at the first start"
        )


async def describe_server(connection: RedisConnection) -> str:
    """
    Version and set-up in words; of a cluster, every master is looked at.

    Raises:
        ConfigError: If one is too old, may evict keys, or keeps no append-only file; or if not
            every slot of a cluster is served.
        StoreUnavailable: No answer.
    """
    answers = await connection.each("INFO")
    infos = {name: _read_info(name, answer) for name, answer in answers.items()}
    for name, info in infos.items():
        _check_server(f"{name}: " if name else "", info)
    versions = "/".join(sorted({_version(info) for info in infos.values()}))
    found = f"{versions}, noeviction, append-only file on"
    if connection.is_cluster:
        return f"{await _describe_cluster(connection, infos)}, {found}"
    if any(info.get("cluster_enabled") == "1" for info in infos.values()):
        raise ConfigError(
            "this Redis is a node of a cluster: write redis+cluster://HOST:PORT,HOST:PORT"
        )
    return found


def _check_server(where: str, info: Mapping[str, str]) -> None:
    version = _version(info)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < VERSION_MIN:
        raise ConfigError(f"{where}Redis {version} is too old; 6.2 or newer is needed")
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        raise ConfigError(
            f"{where}maxmemory-policy is {policy}: Redis may drop balances; set it to noeviction"
        )
    if info.get("aof_enabled") != "1":
        raise ConfigError(
            f"{where}appendonly is off: a restart loses balances; set `appendonly yes`"
        )


async def _describe_cluster(
    connection: RedisConnection, infos: Mapping[str, Mapping[str, str]]
) -> str:
    """
    The masters and their replicas in words.

    Raises:
        ConfigError: Slots are not served, a master says that it is not well, or this user may not
            ask which node it is on, as each script does.
    """
    for name, answer in (await connection.each("CLUSTER", "MYID")).items():
        if isinstance(answer, NoPermissionError):
            raise ConfigError(
                f"{name}: this Redis user may not run CLUSTER MYID, so every script would be "
                "refused; grant it +cluster|myid"
            )
    for name, answer in (await connection.each("CLUSTER", "INFO")).items():
        state = _read_info(name, answer)
        served = int(state.get("cluster_slots_ok", "0"))
        if state.get("cluster_state") != "ok" or served != SLOTS:
            raise ConfigError(
                f"{name}: the cluster is {state.get('cluster_state')}, {served} of {SLOTS} slots "
                "are served; the shards of the others are refused"
            )
    replicas = [int(info.get("connected_slaves", "0")) for info in infos.values()]
    bare = sum(count == 0 for count in replicas)
    words = f"cluster of {len(replicas)} masters with {sum(replicas)} replicas"
    return f"{words} ({bare} masters without one)" if bare else words


def _version(info: Mapping[str, str]) -> str:
    return info.get("redis_version", "unknown")


def _read_info(name: str, answer: Any) -> dict[str, str]:
    if not isinstance(answer, bytes):
        reason = str(answer)[:200] or type(answer).__name__
        raise StoreUnavailable(f"redis: {name} does not answer: {reason}")
    pairs = (line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}
