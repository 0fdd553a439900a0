import asyncio
from pathlib import Path

import asyncpg
import pytest

from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.postgres.migrating import migrate, schema_status
from sidecar.outbound.postgres.migrations import versions
from sidecar.outbound.postgres.pool import open_pool, ping, translate_errors
from sidecar.outbound.postgres.queries import named_queries

REVISIONS = sorted(path.name[1:5] for path in Path(versions.__file__).parent.glob("r*.sql"))


async def test_migrating_an_empty_database_applies_every_revision_in_order(empty_postgres_dsn):
    assert await schema_status(empty_postgres_dsn) == (None, REVISIONS[-1])
    assert await migrate(empty_postgres_dsn) == REVISIONS
    assert await schema_status(empty_postgres_dsn) == (REVISIONS[-1], REVISIONS[-1])


async def test_migrating_twice_does_nothing_the_second_time(postgres_dsn):
    assert await migrate(postgres_dsn) == []


async def test_processes_that_migrate_at_once_apply_each_revision_once(empty_postgres_dsn):
    results = await asyncio.gather(*(migrate(empty_postgres_dsn) for _ in range(3)))
    assert sorted(results) == [[], [], REVISIONS]


async def test_a_migration_that_fails_leaves_nothing_behind(empty_postgres_dsn):
    connection = await asyncpg.connect(empty_postgres_dsn)
    await connection.execute("CREATE TABLE report_lanes (in_the_way integer)")
    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(empty_postgres_dsn)
    tables = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    await connection.close()
    assert [row["relname"] for row in tables] == ["report_lanes"]


async def test_every_statement_in_the_file_is_accepted_by_the_schema(postgres_pool):
    async with postgres_pool.acquire() as connection:
        for sql in named_queries().values():
            await connection.prepare(sql)


async def test_a_schema_that_is_not_migrated_is_said_to_be_so(empty_postgres_dsn):
    pool = await open_pool(empty_postgres_dsn)
    with pytest.raises(ConfigError, match="sidecar migrate"), translate_errors():
        await pool.execute("SELECT shard FROM shards")
    await pool.close()


async def test_an_unreachable_server_is_unavailable_to_the_pool_and_to_migrations(tmp_path):
    dsn = f"postgresql://sidecar@/sidecar?host={tmp_path}&port=5432"
    async with await open_pool(dsn) as pool:
        with pytest.raises(StoreUnavailable):
            await ping(pool)
    with pytest.raises(StoreUnavailable):
        await migrate(dsn)


async def test_a_database_that_does_not_exist_is_a_configuration_error(postgres_server):
    async with await open_pool(postgres_server.dsn("no_such_database")) as pool:
        with pytest.raises(ConfigError):
            await ping(pool)


async def test_a_lost_connection_is_unavailable(postgres_pool):
    async with postgres_pool.acquire() as connection:
        other = await postgres_pool.acquire()
        await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        await postgres_pool.release(other)
        with pytest.raises(StoreUnavailable), translate_errors():
            await connection.execute("SELECT 1")


async def test_a_statement_that_takes_too_long_is_unavailable(postgres_dsn):
    pool = await open_pool(postgres_dsn, command_timeout_seconds=0.05)
    with pytest.raises(StoreUnavailable), translate_errors():
        await pool.execute("SELECT pg_sleep(30)")
    await pool.close()
