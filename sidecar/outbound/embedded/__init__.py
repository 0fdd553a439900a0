"""
Redis and Postgres of our own, for a Sidecar that was given none.

`postgres_server` is asked for by its own name: Postgres' driver comes with it.
"""

from sidecar.outbound.embedded.directories import default_data_dir
from sidecar.outbound.embedded.postgres_binaries import PostgresBinaries, find_postgres_binaries
from sidecar.outbound.embedded.redis_binary import RedisServer, find_redis_server
from sidecar.outbound.embedded.redis_server import GATEWAY_ACL_RULES, EmbeddedRedis
from sidecar.outbound.embedded.secret_files import (
    create_key_file,
    read_key_file,
    read_or_create_key_file,
    read_or_create_secret,
)

__all__ = [
    "GATEWAY_ACL_RULES",
    "EmbeddedRedis",
    "PostgresBinaries",
    "RedisServer",
    "create_key_file",
    "default_data_dir",
    "find_postgres_binaries",
    "find_redis_server",
    "read_key_file",
    "read_or_create_key_file",
    "read_or_create_secret",
]
