"""What kind of Redis answers, and whether it is set up to be trusted with balances."""

from sidecar.domain.errors import ConfigError
from sidecar.outbound.redis.connection import RedisConnection

VERSION_MIN = (6, 2)


async def server_version(connection: RedisConnection) -> str:
    """The server's version, as "6.2.14". Raises StoreUnavailable."""
    return (await _info(connection, "server")).get("redis_version", "unknown")


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
