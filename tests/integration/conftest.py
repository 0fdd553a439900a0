from fixtures.postgres_fixture import (
    empty_postgres_dsn,
    postgres_admin_dsn,
    postgres_dsn,
    postgres_pool,
    postgres_server,
)

__all__ = [
    "empty_postgres_dsn",
    "postgres_admin_dsn",
    "postgres_dsn",
    "postgres_pool",
    "postgres_server",
]
