"""Rows into a table by COPY in the binary format: the least work for both sides."""

from collections.abc import Sequence
from typing import Any

from sidecar.domain.errors import InvalidInput
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
        asyncpg.PostgresError: The database refuses a row.
    """
    try:
        await connection.copy_records_to_table(table, records=rows, columns=columns)
    except (OverflowError, TypeError, ValueError) as error:
        # From the encoding, before the row was sent. Its message may quote the value.
        raise InvalidInput(f"a value does not fit into {table}: {type(error).__name__}") from error
