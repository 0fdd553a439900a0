"""
Posting to the ledger: transactions, entries and balances, with the shard's chain.

Whoever posts has the shard's row locked, which makes the chain serial: settlement, whose decisions
come from the stream, and invoicing, whose transactions move no live balance.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from sidecar.domain.errors import InvariantViolated, StoreUnavailable
from sidecar.domain.ledger_chain import ChainHead, ChainLink, extend
from sidecar.outbound.postgres.chain_contents import read_contents
from sidecar.outbound.postgres.copying import copy_rows
from sidecar.outbound.postgres.pool import Connection
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import columns
from sidecar.outbound.postgres.settlement_transactions import (
    LedgerTransaction,
    balance_rows,
    movement_rows,
)

_TRANSACTION_COLUMNS: Final = (
    *("customer_id", "transaction_id", "kind", "currency", "shard"),
    *("first_entry_id", "last_entry_id", "event_count"),
)
_LINK_COLUMNS: Final = ("chain", "seq", "customer_id", "transaction_id", "content_hash", "hash")
_LINKED_AT_A_TIME: Final = 500
"""Transactions of the time before chains that one database transaction links."""


async def post_transactions(
    connection: Connection,
    transactions: Sequence[LedgerTransaction],
    *,
    head: ChainHead,
    posted_at: datetime,
) -> ChainHead:
    """
    Write the ledger with its chain, and move the balances by the same entries.

    Args:
        connection: Inside a transaction that has locked the shard's row.
        transactions: All of customers of the chain's shard.
        head: Where the chain ends.
        posted_at: The transaction's own time.

    Returns:
        Where the chain ends now; the caller stores it with the shard.
    """
    if not transactions:
        return head
    shard = head.chain
    links, head = extend(head, (t.as_chained(shard, posted_at) for t in transactions))
    await copy_rows(
        connection,
        "ledger_transactions",
        _TRANSACTION_COLUMNS,
        [
            (
                t.customer_id,
                t.transaction_id,
                t.kind,
                t.currency,
                shard,
                t.first_entry_id,
                t.last_entry_id,
                t.event_count,
            )
            for t in transactions
        ],
    )
    await copy_rows(connection, "ledger_chain", _LINK_COLUMNS, [_link_row(link) for link in links])
    entries = [
        (t.customer_id, t.transaction_id, entry.account.value, entry.amount_nano)
        for t in transactions
        for entry in t.entries
    ]
    movements = movement_rows(transactions)
    if entries or movements:
        # One statement: the database checks that it is balanced, and what it moves.
        await connection.execute(
            query("insert_entries"), *columns(entries, 4), *columns(movements, 4)
        )
        await connection.execute(query("add_to_balances"), *columns(balance_rows(transactions)))
    return head


async def post_aside(
    connection: Connection, shard: int, transactions: Sequence[LedgerTransaction]
) -> None:
    """
    Post transactions that come from no stream, and move the shard's head.

    Args:
        connection: Inside a transaction, before it has locked rows of any customer: the shard's
            row is the first that everybody locks.
        shard: Of all these customers.
        transactions: They must move no live balance.

    Raises:
        StoreUnavailable: The shard has so much from before chains that settlement must link first.
    """
    row = await lock_shard(connection, shard)
    head = head_of(shard, row)
    if not row["chain_began"]:
        head, began = await begin_chain(connection, head)
        if not began:
            raise StoreUnavailable(f"settlement has not linked what shard {shard} posted before")
    head = await post_transactions(connection, transactions, head=head, posted_at=row["posted_at"])
    await connection.execute(
        query("begin_chain"), shard, head.seq, head.hash if head.seq else None, True
    )


async def lock_shard(connection: Connection, shard: int) -> asyncpg.Record:
    """Lock the shard's row, made if it is not there; nobody settles it until the commit."""
    await connection.execute(query("ensure_shard"), shard)
    row = await connection.fetchrow(query("lock_shard"), shard)
    if row is None:
        raise InvariantViolated(f"shard {shard} was just made sure of and is gone")
    return row


def head_of(shard: int, row: asyncpg.Record) -> ChainHead:
    """Where the chain ends, by the shard's locked row."""
    if row["chain_hash"] is None:
        return ChainHead.empty(shard)
    return ChainHead(chain=shard, seq=row["chain_seq"], hash=row["chain_hash"])


async def begin_chain(connection: Connection, head: ChainHead) -> tuple[ChainHead, bool]:
    """
    Link some of what the shard posted before its chain began, in the order of posting.

    Once nothing is left the chain has begun, for good: what appears unlinked later was not
    written by settlement, and must not be taken in as if it were.

    Returns:
        The new head, and whether the chain has begun.
    """
    keys = [
        (row["customer_id"], row["transaction_id"])
        for row in await connection.fetch(
            query("unchained_of_shard"), head.chain, head.seq, _LINKED_AT_A_TIME
        )
    ]
    links: list[ChainLink] = []
    async for key, transaction in read_contents(connection, head.chain, keys):
        if transaction is None:
            raise InvariantViolated(f"transaction {key[1]!r} was there and is gone")
        added, head = extend(head, [transaction])
        links += added
    if links:
        await copy_rows(
            connection, "ledger_chain", _LINK_COLUMNS, [_link_row(link) for link in links]
        )
    began = len(keys) < _LINKED_AT_A_TIME
    await connection.execute(
        query("begin_chain"), head.chain, head.seq, head.hash if head.seq else None, began
    )
    return head, began


def _link_row(link: ChainLink) -> tuple[int, int, str, str, bytes, bytes]:
    return (
        link.chain,
        link.seq,
        link.customer_id,
        link.transaction_id,
        link.content_hash,
        link.hash,
    )
