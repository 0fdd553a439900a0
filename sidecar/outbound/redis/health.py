"""What kind of Redis answers, and whether it is set up to be trusted with balances."""

from sidecar.domain.errors import ConfigError
from sidecar.outbound.redis.connection import RedisConnection
from sidecar.outbound.redis.keys import META

VERSION_MIN = (6, 2)


async def server_version(connection: RedisConnection) -> str:
    """The server's version, as "6.2.14". Raises StoreUnavailable."""
    return (await _info(connection, "server")).get("redis_version", "unknown")


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
    Version and set-up in words.

    Raises:
        ConfigError: If it is too old, may evict keys, or keeps no append-only file.
        StoreUnavailable: No answer.
    """
    version = await server_version(connection)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < VERSION_MIN:
        raise ConfigError(f"Redis {version} is too old; 6.2 or newer is needed")
    memory = await _info(connection, "memory")
    if memory.get("maxmemory_policy") != "noeviction":
        raise ConfigError(
            f"maxmemory-policy is {memory.get('maxmemory_policy')}: Redis may drop balances; "
            "set it to noeviction"
        )
    persistence = await _info(connection, "persistence")
    if persistence.get("aof_enabled") != "1":
        raise ConfigError("appendonly is off: a restart loses balances; set `appendonly yes`")
    return f"{version}, noeviction, append-only file on"


async def _info(connection: RedisConnection, section: str) -> dict[str, str]:
    raw = await connection.command("INFO", section)
    pairs = (line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}
