"""
Posting payments against what customers owe, within the transaction of the news about them.

Whoever calls holds a lease on the object, which its transaction checks: who has lost it posts
nothing.
"""

from collections.abc import Callable, Sequence

from asyncpg import Record

from sidecar.domain.errors import InvariantViolated, StoreUnavailable
from sidecar.domain.payment_postings import (
    PaymentPosting,
    PostingKind,
    ledger_kind,
    posting_entries,
)
from sidecar.outbound.postgres.pool import Connection
from sidecar.outbound.postgres.posting import lock_shard, post_aside
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_transactions import BalanceSums, LedgerTransaction

ShardOf = Callable[[str], int]


async def post_payments(
    connection: Connection, shard_of: ShardOf | None, postings: Sequence[PaymentPosting]
) -> None:
    """
    Bring the ledger to what is to stand there; what stands there already costs one look.

    A payment that stands there for another customer, because the provider's customer was theirs
    before, is taken back from them.

    Args:
        connection: Inside a transaction, before it has locked rows of any customer.
        shard_of: Of customers; None in a process that does not post.
        postings: Of different payments.

    Raises:
        InvariantViolated: There is something to post, and no shards are known.
        StoreUnavailable: See `post_aside`.
    """
    changes = await _changes(connection, postings)
    if not changes:
        return
    if shard_of is None:
        raise InvariantViolated("a payment is to be posted where no shards are known")
    shards = {wanted.customer_id: shard_of(wanted.customer_id) for wanted, _ in changes}
    for shard in sorted(set(shards.values())):  # In one order everywhere.
        await lock_shard(connection, shard)
    # Whoever has lost their lease meanwhile may have been waited for: what counts is what is now.
    for wanted, row in await _changes(connection, postings):
        if wanted.customer_id not in shards:
            raise StoreUnavailable("the payment's customer has changed meanwhile; do it again")
        await _post(connection, shards[wanted.customer_id], wanted, row)


async def _changes(
    connection: Connection, postings: Sequence[PaymentPosting]
) -> list[tuple[PaymentPosting, Record | None]]:
    """What differs from what stands in the ledger, each with what stands there."""
    found: list[tuple[PaymentPosting, Record | None]] = []
    for wanted in postings:
        rows = await connection.fetch(query("posted_payments"), *wanted.place)
        own = next((row for row in rows if row["customer_id"] == wanted.customer_id), None)
        found += [(_nothing(wanted, row), row) for row in rows if row is not own]
        found.append((wanted, own))
    return [(wanted, row) for wanted, row in found if _difference(wanted, row) != (0, 0)]


async def _post(
    connection: Connection, shard: int, wanted: PaymentPosting, row: Record | None
) -> None:
    seq = 1 if row is None else row["seq"] + 1
    gross, net = _difference(wanted, row)
    name = f"{wanted.provider}:{wanted.invoice_id}:{wanted.payment_id}:{seq}"
    transaction = LedgerTransaction(
        customer_id=wanted.customer_id,
        transaction_id=f"{wanted.kind.value}:{name}",
        kind=ledger_kind(wanted.kind, gross),
        currency=wanted.currency,
        first_entry_id=name,
        last_entry_id=name,
        event_count=1,
        entries=tuple(posting_entries(wanted.kind, gross, net)),
        sums=BalanceSums(),
    )
    await post_aside(connection, shard, [transaction])
    await connection.execute(
        query("put_posted_payment"),
        wanted.customer_id,
        *wanted.place,
        wanted.currency,
        wanted.gross_nano,
        wanted.net_nano,
        seq,
    )


def _difference(wanted: PaymentPosting, row: Record | None) -> tuple[int, int]:
    if row is None:
        return wanted.gross_nano, wanted.net_nano
    return wanted.gross_nano - row["gross_nano"], wanted.net_nano - row["net_nano"]


def _nothing(wanted: PaymentPosting, row: Record) -> PaymentPosting:
    return PaymentPosting(
        kind=PostingKind(wanted.kind),
        customer_id=row["customer_id"],
        provider=wanted.provider,
        invoice_id=wanted.invoice_id,
        payment_id=wanted.payment_id,
        currency=row["currency"],
        gross_nano=0,
        net_nano=0,
    )
