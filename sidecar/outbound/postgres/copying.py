"""Rows into a table by COPY in the binary format: the least work for both sides."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.outbound.postgres.pool import Connection


async def copy_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """
    Insert rows, in their order; keys, checks and triggers apply as for INSERT.

    Args:
        connection: Inside a transaction, which a failure leaves of no further use.
        table: Its name.
        columns: Those of the rows' values; the role may read them.
        rows: All of them, whole.

    Raises:
        InvalidInput: A value is none of its column's type, such as a number beyond 64 bits.
        StoreUnavailable: The connection was lost.
        asyncpg.PostgresError: The database refuses a row.
    """
    try:
        await connection.copy_records_to_table(table, records=rows, columns=columns)
    except (OverflowError, TypeError, ValueError) as error:
        # From the encoding, before the row was sent. Its message may quote the value.
        raise InvalidInput(f"a value does not fit into {table}: {type(error).__name__}") from error
    except asyncpg.InternalClientError as error:
        # What asyncpg 0.32 says where the server hung up just before a COPY. The connection stays
        # in between for good, so it is ended here: nothing can be rolled back on it.
        connection.terminate()
        raise StoreUnavailable("Postgres is unavailable: the connection was lost") from error
