"""The connection pool, and the one border where Postgres' errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import asyncpg

from sidecar.domain.errors import (
    ConfigError,
    Conflict,
    InvalidInput,
    NotFound,
    StoreUnavailable,
)

# Quoted: only the stubs know that these are generic.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

ACQUIRE_SECONDS_MAX: Final = 5.0
"""Longest wait for a free connection."""
_IDLE_IN_TRANSACTION: Final = "60s"

# The server went away, is starting or stopping, is full, or gave up on the statement: the call
# may or may not have happened, and repeating it is safe.
_UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    # A database that is closed to connections while it is moved or upgraded.
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.PostgresSystemError,
    # Also what asyncpg says when the server's farewell arrives while a statement is being sent.
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
    OSError,
)
_MISCONFIGURED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)
_UNMIGRATED: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)
BAD_DATA: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""What the rows themselves are refused for; repeating cannot help."""


class _PooledConnection(asyncpg.Connection):
    """
    One that asks nothing when it goes back to its pool; an open transaction still ends.

    Nothing here outlives its transaction: no advisory lock, no LISTEN, no cursor, no setting.
    """

    def get_reset_query(self) -> str:
        """No statement; asyncpg's own costs a round trip for each use of a connection."""
        return ""


async def open_pool(
    dsn: str,
    *,
    size_max: int = 10,
    command_timeout_seconds: float = 10.0,
    application_name: str = "sidecar",
) -> Pool:
    """
    Open a bounded pool; the caller closes it.

    Args:
        dsn: As asyncpg reads it, `postgresql://user@/database?host=/socket/folder` included.
        size_max: Most connections.
        command_timeout_seconds: Longest statement, here and (a little longer) in the server.
        application_name: What Postgres' own views call us.

    Whether Postgres answers shows at the first use; `ping` asks.

    Raises:
        ConfigError: The DSN cannot be used.
    """
    with translate_errors():
        return await asyncpg.create_pool(
            dsn,
            # None at first: a Postgres that is away must not keep the process from starting.
            min_size=0,
            max_size=size_max,
            connection_class=_PooledConnection,
            timeout=ACQUIRE_SECONDS_MAX,
            command_timeout=command_timeout_seconds,
            server_settings={
                "application_name": application_name,
                "timezone": "UTC",
                # The client's cancel may be lost with its connection; then the server gives up.
                "statement_timeout": str(int(command_timeout_seconds * 1_000) + 1_000),
                "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION,
            },
        )


async def ping(pool: Pool) -> None:
    """Whether Postgres answers. Raises StoreUnavailable, or ConfigError if it refuses us."""
    with translate_errors():
        await pool.fetchval("SELECT 1", timeout=ACQUIRE_SECONDS_MAX)


@contextmanager
def translate_errors() -> Iterator[None]:
    """
    Raise the driver's errors as ours.

    Messages name the error's kind and the constraint, never the row: rows may hold anything.

    Raises:
        StoreUnavailable: No answer, or none in time.
        Conflict, NotFound, InvalidInput: A unique key, a foreign key, any other constraint.
        ConfigError: Wrong credentials, missing rights, or a schema that is not migrated.
    """
    try:
        yield
    except _UNMIGRATED as error:
        raise ConfigError(
            f"Postgres lacks a table or column that this version needs ({_kind(error)}); "
            "run `sidecar migrate`"
        ) from error
    except (asyncpg.InsufficientPrivilegeError, *_MISCONFIGURED) as error:
        raise ConfigError(f"Postgres refuses this role or DSN: {_kind(error)}") from error
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"it exists already: {_kind(error)}") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound(f"what it refers to does not exist: {_kind(error)}") from error
    except BAD_DATA as error:
        raise InvalidInput(f"the database refuses the values: {_kind(error)}") from error
    except _UNAVAILABLE as error:
        raise StoreUnavailable(f"Postgres is unavailable: {_kind(error)}") from error
    except asyncpg.InterfaceError as error:
        # Also raised for misuse, which must stay a bug; a lost connection says so.
        if "clos" in str(error) or "released back" in str(error):
            raise StoreUnavailable("Postgres is unavailable: connection closed") from error
        raise


@contextmanager
def refuse_bad_data() -> Iterator[None]:
    """Raise whatever the rows themselves are refused for as InvalidInput, duplicates included."""
    try:
        yield
    except BAD_DATA as error:
        raise InvalidInput(f"the database refuses the values: {_kind(error)}") from error


def _kind(error: BaseException) -> str:
    constraint = getattr(error, "constraint_name", None)
    return f"{type(error).__name__} {constraint}" if constraint else type(error).__name__
