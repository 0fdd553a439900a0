"""Ledger transactions as the chain covers them, read back from the tables in bounded pieces."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

import asyncpg

from sidecar.domain.ledger_chain import (
    ChainedTransaction,
    PostedEntry,
    PostedEvent,
    PostedMovement,
)
from sidecar.outbound.postgres.pool import Connection
from sidecar.outbound.postgres.queries import query

TransactionKey = tuple[str, str]
"""customer_id, transaction_id."""

EVENTS_AT_A_TIME: Final = 20_000


async def read_contents(
    connection: Connection, shard: int, keys: Sequence[TransactionKey]
) -> AsyncGenerator[tuple[TransactionKey, ChainedTransaction | None], None]:
    """
    The transactions of the keys in their order; None for one that is not there.

    Events are read for some transactions at a time, by what those say they count, so that a page
    of large ones is never in memory whole.
    """
    rows = await _by_key(connection, "read_transactions", keys)
    entries = await _by_key(connection, "read_entries", keys)
    movements = await _by_key(connection, "read_movements", keys)
    piece: list[TransactionKey] = []
    waiting = 0
    for key in keys:
        piece.append(key)
        waiting += sum(row["event_count"] for row in rows.get(key, ()))
        if waiting < EVENTS_AT_A_TIME and key != keys[-1]:
            continue
        events = await _events(
            connection, shard, [row for one in piece for row in rows.get(one, ())]
        )
        for one in piece:
            yield (
                one,
                _transaction(
                    rows[one][0],
                    entries.get(one, ()),
                    events.get(one, ()),
                    movements.get(one, ()),
                )
                if one in rows
                else None,
            )
        piece, waiting = [], 0


async def _by_key(
    connection: Connection, name: str, keys: Sequence[TransactionKey]
) -> dict[TransactionKey, list[asyncpg.Record]]:
    found: dict[TransactionKey, list[asyncpg.Record]] = {}
    for row in await connection.fetch(
        query(name), [key[0] for key in keys], [key[1] for key in keys]
    ):
        found.setdefault((row["customer_id"], row["transaction_id"]), []).append(row)
    return found


async def _events(
    connection: Connection, shard: int, rows: Sequence[asyncpg.Record]
) -> Mapping[TransactionKey, Sequence[PostedEvent]]:
    """Events of usage transactions: posted by the same database transaction, so at its instant."""
    usage = [row for row in rows if row["kind"] == "usage"]
    if not usage:
        return {}
    found: dict[TransactionKey, list[PostedEvent]] = {}
    for row in await connection.fetch(
        query("read_posted_events"),
        shard,
        min(row["posted_at"] for row in usage),
        max(row["posted_at"] for row in usage),
        [row["transaction_id"] for row in usage],
    ):
        customer_id, transaction_id, *event = row
        found.setdefault((customer_id, transaction_id), []).append(PostedEvent(*event))
    return found


def _transaction(
    row: asyncpg.Record,
    entries: Sequence[asyncpg.Record],
    events: Sequence[PostedEvent],
    movements: Sequence[asyncpg.Record],
) -> ChainedTransaction:
    return ChainedTransaction(
        **dict(row),
        entries=tuple(PostedEntry(entry["account"], entry["amount_nano"]) for entry in entries),
        events=tuple(events),
        movements=tuple(PostedMovement(row["grant_id"], row["amount_nano"]) for row in movements),
    )
