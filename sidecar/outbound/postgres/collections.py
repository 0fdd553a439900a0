"""Collections of record: implements `CollectionRecord`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from asyncpg import Record

from sidecar.domain.billing_notices import payment_failed
from sidecar.domain.collecting import (
    ATTEMPTS_MAX,
    CollectOutcome,
    CollectState,
    CollectStep,
    CollectWay,
    collect_reference,
)
from sidecar.domain.errors import Conflict, InvalidInput, InvariantViolated
from sidecar.domain.minor_units import STRIPE, from_minor
from sidecar.domain.notices import NoticeKind
from sidecar.domain.payment_postings import PaymentPosting, payment_posting
from sidecar.outbound.postgres.notices import count_notices, insert_notices
from sidecar.outbound.postgres.payment_posting import ShardOf, post_payments
from sidecar.outbound.postgres.pool import ACQUIRE_SECONDS_MAX, Connection, Pool, translate_errors
from sidecar.outbound.postgres.queries import query
from sidecar.services.collecting_ports import (
    Collection,
    CollectionAttempt,
    NewCollection,
    Try,
)
from sidecar.services.provider_ports import CollectAnswer

_DETAIL_CHARS_MAX: Final = 500
_NAME_BYTES_MAX: Final = 255
DUE_AFTER: Final = timedelta(days=14)


class PostgresCollections:
    """Implements CollectionRecord; leases and waits are counted by Postgres' own clock."""

    def __init__(
        self, pool: Pool, *, due_after: timedelta = DUE_AFTER, shard_of: ShardOf | None = None
    ) -> None:
        """
        Wire it.

        Args:
            pool: The database.
            shard_of: Of customers; whoever finishes what was paid needs it.
            due_after: From when a customer was first asked for money until it is overdue.
        """
        self._pool = pool
        self._due_after = due_after
        self._shard_of = shard_of
        self._ledger_id = ""

    async def ledger_id(self) -> str:
        """Of the ledger whose invoices these are; it never changes."""
        if not self._ledger_id:
            with translate_errors():
                found = await self._pool.fetchval(query("read_ledger_id"))
            if not isinstance(found, str):
                raise InvariantViolated("the ledger has no id")
            self._ledger_id = found
        return self._ledger_id

    async def adopt(self, new: Sequence[NewCollection]) -> int:
        """Begin to collect; those that exist stay as they are."""
        ledger_id = await self.ledger_id()
        with translate_errors():
            tag = await self._pool.execute(
                query("adopt_collections"),
                [one.customer_id for one in new],
                [one.invoice_id for one in new],
                [one.provider for one in new],
                [one.currency for one in new],
                [one.attempts_max for one in new],
                [collect_reference(ledger_id, one.invoice_id, 1) for one in new],
            )
        return int(tag.rpartition(" ")[2])

    async def claim(
        self, providers: Sequence[str], *, limit: int, lease: timedelta
    ) -> Sequence[Collection]:
        """Lease those that are due, the longest due first."""
        with translate_errors():
            rows = await self._pool.fetch(query("claim_collections"), list(providers), limit, lease)
        return [_collection(row) for row in rows]

    async def note_try(self, collection: Collection, trying: Try) -> Collection:
        """Say that the reference is about to be sent. Raises Conflict if the lease was lost."""
        return await self._change(
            collection,
            "note_collection_try",
            trying.amount_minor,
            trying.way.value,
            answered=False,
        )

    async def note_provider_reference(self, collection: Collection, name: str) -> None:
        """Keep the provider's own name. Raises Conflict if the lease was lost or has another."""
        with translate_errors():
            attempt = await self._pool.fetchval(
                query("note_collection_name"),
                collection.customer_id,
                collection.invoice_id,
                collection.claim,
                name,
            )
        if attempt is None:
            raise Conflict(
                f"invoice {collection.invoice_id} is collected by another worker by now, or has "
                "another name at the provider"
            )

    async def finish(
        self,
        collection: Collection,
        answer: CollectAnswer,
        step: CollectStep,
        *,
        next_reference: str,
    ) -> Collection:
        """
        Keep an answer and end the lease; with it post what was paid, or tell what failed.

        Raises:
            Conflict: The lease was lost.
        """
        return await self._change(
            collection,
            "finish_collection",
            step.state.value,
            step.attempt,
            next_reference,
            step.wait,
            answer.outcome.value,
            _bounded_name(answer.provider_reference),
            # Postgres refuses NUL in text, and a provider's words may hold anything.
            answer.detail.replace("\0", "")[:_DETAIL_CHARS_MAX],
            collection.attempt,
            answered=answer.outcome not in (CollectOutcome.UNKNOWN, CollectOutcome.ABSENT),
            # Stripe's own word on its invoices comes by the inbox.
            failed=answer.outcome is CollectOutcome.FAILED and collection.provider != STRIPE,
            paid=answer.outcome is CollectOutcome.PAID,
        )

    async def _change(
        self,
        collection: Collection,
        name: str,
        *values: object,
        answered: bool,
        failed: bool = False,
        paid: bool = False,
    ) -> Collection:
        """Change a claimed row, and with it what standing sees. Raises Conflict if it was lost."""
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                if paid:  # First: it locks the shard, which comes before rows of customers.
                    await post_payments(connection, self._shard_of, _postings(collection))
                row = await connection.fetchrow(
                    query(name),
                    collection.customer_id,
                    collection.invoice_id,
                    collection.claim,
                    *values,
                )
                changed = _held(row, collection)
                await self._show_debt(connection, changed, answered=answered)
                told = await _tell_failure(connection, collection) if failed else ()
        count_notices(told)
        return changed

    async def _show_debt(
        self, connection: Connection, changed: Collection, *, answered: bool
    ) -> None:
        marked = await connection.fetchrow(
            query("put_collected_invoice"),
            changed.customer_id,
            changed.invoice_id,
            changed.amount_minor,
            _asked_nano(changed),
            self._due_after,
            answered,
        )
        if marked is not None:
            await connection.execute(query("mark_standing"), changed.customer_id)

    async def list(
        self, *, customer_id: str | None, state: CollectState | None, after: str, limit: int
    ) -> Sequence[Collection]:
        """By invoice id."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("list_collections"),
                after,
                customer_id,
                None if state is None else state.value,
                limit,
            )
        return [_collection(row) for row in rows]

    async def read(self, invoice_id: str) -> Collection | None:
        """One invoice's."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_collection"), invoice_id)
        return None if row is None else _collection(row)

    async def attempts(self, collection: Collection) -> Sequence[CollectionAttempt]:
        """Every reference that was sent for an invoice, in order."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("list_collection_attempts"), collection.customer_id, collection.invoice_id
            )
        return [CollectionAttempt(**dict(row)) for row in rows]

    async def retry(self, invoice_id: str) -> Collection | None:
        """Look at a failed one again at once, with one more attempt allowed."""
        with translate_errors():
            row = await self._pool.fetchrow(query("retry_collection"), invoice_id, ATTEMPTS_MAX)
        return None if row is None else _collection(row)

    async def wake(self, provider: str, name: str) -> str | None:
        """Look at once at the collection with this reference, ours or the provider's."""
        with translate_errors():
            state = await self._pool.fetchval(query("wake_collection"), provider, name)
        return None if state is None else str(state)


def _postings(paid: Collection) -> tuple[PaymentPosting, ...]:
    """
    What was paid under a reference, with its tax, of which a collected invoice has none.

    Stripe's come from the inbox, which sees refunds and disputes, too.
    """
    if paid.provider == STRIPE:
        return ()
    return (
        payment_posting(
            customer_id=paid.customer_id,
            provider=paid.provider,
            invoice_id=paid.invoice_id,
            payment_id=paid.reference,
            currency=paid.currency,
            gross_minor=paid.amount_minor,
            net_minor=paid.amount_minor,
        ),
    )


async def _tell_failure(connection: Connection, failed: Collection) -> Sequence[NoticeKind]:
    """An attempt is over for good, whether another one follows or not."""
    notice = payment_failed(
        customer_id=failed.customer_id,
        provider=failed.provider,
        invoice_id=failed.invoice_id,
        attempt=failed.attempt,
        currency=failed.currency,
        due_nano=_asked_nano(failed),
        at=await connection.fetchval(query("transaction_time")),
    )
    return await insert_notices(connection, [notice])


def _asked_nano(collection: Collection) -> int | None:
    """What was asked for, in nano; None if it is beyond any balance."""
    try:
        return from_minor(collection.amount_minor, collection.currency, collection.provider)
    except InvalidInput:
        return None


def _bounded_name(name: str) -> str:
    return name if len(name.encode()) <= _NAME_BYTES_MAX and name.isprintable() else ""


def _held(row: Record | None, collection: Collection) -> Collection:
    if row is None:
        raise Conflict(f"invoice {collection.invoice_id} is collected by another worker by now")
    return _collection(row)


def _collection(row: Record) -> Collection:
    return Collection(
        customer_id=row["customer_id"],
        invoice_id=row["invoice_id"],
        provider=row["provider"],
        currency=row["currency"],
        amount_minor=row["amount_minor"],
        way=CollectWay(row["way"]),
        attempt=row["attempt"],
        attempts_max=row["attempts_max"],
        reference=row["reference"],
        state=CollectState(row["state"]),
        tries=row["tries"],
        unclear=row["unclear"],
        provider_reference=row["provider_reference"],
        detail=row["detail"],
        claim=row["claim"],
        next_look_at=row["next_look_at"],
        sent_at=row["sent_at"],
        ended_at=row["ended_at"],
        created_at=row["created_at"],
    )
