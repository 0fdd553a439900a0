"""One deployment per test session; a test that breaks things takes one of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import asyncpg
import pytest
import pytest_asyncio
from fixtures.stack import Stack

from sidecar.outbound.embedded import EmbeddedRedis
from sidecar.outbound.embedded.postgres_server import EmbeddedPostgres

MakeStack = Callable[..., Awaitable[Stack]]
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with EmbeddedPostgres(tmp_path_factory.mktemp("stores")) as dsn:
        yield dsn


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def make_stack(
    tmp_path_factory: pytest.TempPathFactory, postgres: str
) -> AsyncIterator[MakeStack]:
    """
    Start a deployment with a Redis and a database of its own; it ends with the module.

    A deployment at rest still costs a fifteenth of a core: a dozen of them slow what comes after.
    """
    async with _making(tmp_path_factory, postgres) as make:
        yield make


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> AsyncIterator[Stack]:
    """The deployment that tests share; each uses customers of its own."""
    async with _making(tmp_path_factory, postgres) as make:
        yield await make()


@asynccontextmanager
async def _making(
    tmp_path_factory: pytest.TempPathFactory, postgres: str
) -> AsyncIterator[MakeStack]:
    async with AsyncExitStack() as stack:

        async def make(**options: object) -> Stack:
            name = f"e2e_{next(_NUMBERS)}"
            connection = await asyncpg.connect(postgres)
            try:
                await connection.execute(f"CREATE DATABASE {name}")
            finally:
                await connection.close()
            redis = EmbeddedRedis(tmp_path_factory.mktemp("stores"), None)
            url = await stack.enter_async_context(redis)
            made = Stack(
                tmp_path_factory.mktemp(name),
                redis_url=url,
                postgres_dsn=_database(postgres, name),
                **options,  # type: ignore[arg-type]
            )
            stack.push_async_callback(made.close)
            await made.start()
            return made

        yield make


def _database(dsn: str, name: str) -> str:
    head, separator, query = dsn.partition("?")
    return head.rpartition("/")[0] + "/" + name + separator + query
