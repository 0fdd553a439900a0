"""Real stores for the whole run, and the table that every measurement adds to."""

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from bench.deployment import Redis
from bench.results import Results, describe_machine
from rich.console import Console

from sidecar.outbound.embedded import EmbeddedRedis
from sidecar.outbound.embedded.postgres_server import EmbeddedPostgres
from sidecar.outbound.postgres.migrating import migrate

_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "envoy: goes through a real Envoy; run by `make bench-envoy`"
    )


@pytest.fixture(scope="session")
def bench_folder() -> Iterator[Path]:
    # Not pytest's own folder, which is kept: millions of rows must not outlive the run.
    folder = Path(tempfile.mkdtemp(prefix="sidecar-bench-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bench_postgres(bench_folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(bench_folder / "stores")
    async with postgres:
        yield postgres


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bench_redis(bench_folder: Path) -> AsyncIterator[EmbeddedRedis]:
    redis = EmbeddedRedis(bench_folder / "stores", None)
    async with redis:
        yield redis


@pytest_asyncio.fixture(loop_scope="session")
async def redis_of_test(bench_redis: EmbeddedRedis) -> AsyncIterator[str]:
    """The run's Redis, emptied for this test."""
    redis = Redis(bench_redis.url)
    await redis.connection.command("FLUSHALL")
    await redis.connection.aclose()
    yield bench_redis.url


@pytest_asyncio.fixture(loop_scope="session")
async def make_database(bench_postgres: EmbeddedPostgres) -> AsyncIterator[Callable]:
    """Make a migrated database; all of them are dropped when the test ends."""
    made: list[str] = []

    async def make() -> str:
        name = f"bench_{next(_numbers)}"
        await _on_server(bench_postgres, f"CREATE DATABASE {name}")
        made.append(name)
        dsn = bench_postgres.dsn_for(user="sidecar", database=name)
        await migrate(dsn)
        return dsn

    yield make
    for name in made:
        await _on_server(bench_postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def results(
    bench_redis: EmbeddedRedis,
    bench_postgres: EmbeddedPostgres,
    pytestconfig: pytest.Config,
) -> AsyncIterator[Results]:
    redis = Redis(bench_redis.url)
    redis_version = (await redis.info("server"))["redis_version"]
    await redis.connection.aclose()
    connection = await asyncpg.connect(bench_postgres.dsn)
    postgres_version = await connection.fetchval("SHOW server_version")
    await connection.close()
    gathered = Results(
        machine=describe_machine(
            f"{redis_version}, append-only file, fsync every second",
            f"{postgres_version}, fsync on, shared_buffers 64 MB",
        )
    )
    yield gathered
    if gathered.rows:
        # A file has no width of its own; a table that is cut would hide numbers.
        console = Console()
        gathered.show(Console(width=max(console.width, 150)))
        console.print(f"\nwritten to {gathered.write()}", highlight=False, soft_wrap=True)


async def _on_server(postgres: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
