"""What captures counted: a projection from which the live store's windows are put back."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from sidecar.outbound.postgres.pool import Connection, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import columns
from sidecar.services.control_ports import StreamRecord

KEPT: Final = timedelta(days=400)
"""Longer than the longest calendar window: what nothing has moved for so long counts no more."""
_FORGOTTEN_MAX: Final = 10_000


async def add_counted(connection: Connection, records: Iterable[StreamRecord]) -> None:
    """Add what new records moved; inside the transaction that inserts their events."""
    moved: dict[tuple[str, str], int] = {}
    for record in records:
        for field, quantity in record.counted:
            key = record.customer_id, field
            moved[key] = moved.get(key, 0) + quantity
    # In key order, so that no two transactions wait for each other.
    rows = [(*key, quantity) for key, quantity in sorted(moved.items()) if quantity]
    if rows:
        await connection.execute(query("add_to_counters"), *columns(rows))


async def forget_counted(pool: Pool) -> None:
    """Drop some of what is too old to count. Raises StoreUnavailable."""
    with translate_errors():
        await pool.execute(query("forget_counters"), KEPT, _FORGOTTEN_MAX)
