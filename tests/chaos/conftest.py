from fixtures.postgres_fixture import postgres_dsn, postgres_pool, postgres_server

__all__ = ["postgres_dsn", "postgres_pool", "postgres_server"]
