"""What invoicing writes, in the settlement role: implements `InvoiceBook`."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from sidecar.domain.billing_notices import invoice_closed
from sidecar.domain.invoices import Invoice, InvoiceState, amounts_due, invoice_id_of
from sidecar.domain.ledger import charge_entries
from sidecar.domain.notices import Notice, NoticeKind
from sidecar.domain.periods import Period
from sidecar.outbound.postgres.invoice_reading import PostgresInvoiceRecord
from sidecar.outbound.postgres.invoice_rows import (
    cursor_of,
    draft_of,
    findings_text,
    line_rows,
    part_rows,
)
from sidecar.outbound.postgres.notices import count_notices, insert_notices
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    translate_errors,
)
from sidecar.outbound.postgres.posting import lock_shard, post_aside
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import columns
from sidecar.outbound.postgres.settlement_transactions import BalanceSums, LedgerTransaction
from sidecar.services.invoicing_ports import Closing, Cursor, Cut, Draft, PeriodOf, WriteOff

_START: Final = "0-0"


class PostgresInvoiceBook(PostgresInvoiceRecord):
    """
    Each step is one transaction; whoever dies within it has done nothing.

    What moves a cursor or posts locks the shard's row first, as settlement does.
    """

    async def enroll(
        self,
        shard_of: Callable[[str], int],
        period_of: PeriodOf,
        *,
        now: datetime,
        since: datetime | None,
        limit: int,
    ) -> int:
        """Give customers without one a cursor, from their first usage on (or from `since`)."""
        with translate_errors():
            rows = await self._pool.fetch(query("unenrolled_customers"), limit)
        shards: dict[int, list[str]] = {}
        for row in rows:
            shards.setdefault(shard_of(row["customer_id"]), []).append(row["customer_id"])
        enrolled = 0
        for shard, ids in sorted(shards.items()):
            with translate_errors():
                async with self._transaction() as connection:
                    # First usage cannot be posted between the look and the insert.
                    await lock_shard(connection, shard)
                    made = []
                    for one in await connection.fetch(query("first_usage"), ids):
                        first = one["first_at"] or now
                        period = period_of(first if since is None else max(first, since))
                        start = period.start if since is None else max(period.start, since)
                        made.append((one["customer_id"], one["currency"], start, period.end))
                    enrolled += len(
                        await connection.fetch(query("insert_cursors"), *columns(made, 4))
                    )
        return enrolled

    async def due(
        self, *, ended_before: datetime, asked_before: datetime, limit: int, lease: timedelta
    ) -> Sequence[Cursor]:
        """Cursors whose period is over and not being cut, leased."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("due_cursors"), ended_before, asked_before, limit, lease
            )
        return [cursor_of(row) for row in rows]

    async def offset_of(self, shard: int) -> str:
        """Up to where a shard's stream is settled."""
        with translate_errors():
            offset: str | None = await self._pool.fetchval(query("offset_of_shard"), shard)
        return offset or _START

    async def cut(self, shard: int, cuts: Sequence[Cut]) -> int:
        """Settle for good which usage is on the invoices; see the port."""
        rows = [
            (
                cut.cursor.customer_id,
                cut.invoice_id,
                cut.cursor.currency,
                cut.provider,
                cut.cursor.closed_until,
                cut.cursor.period_end,
                cut.next_end,
                cut.late.value,
            )
            for cut in cuts
        ]
        with translate_errors():
            async with self._transaction() as connection:
                await lock_shard(connection, shard)
                made = await connection.fetchval(query("cut_periods"), *columns(rows, 8))
        return int(made)

    async def drafts(self, *, limit: int, lease: timedelta) -> Sequence[Draft]:
        """Drafts that nobody is closing, leased."""
        with translate_errors():
            rows = await self._pool.fetch(query("lease_drafts"), limit, lease)
        return [draft_of(row) for row in rows]

    async def close(self, shard: int, closings: Sequence[Closing]) -> int:
        """Number and freeze drafts, and post what they charge; those that are closed are left."""
        with translate_errors():
            async with self._transaction() as connection:
                closed, told = await _close(connection, shard, closings)
        count_notices(told)
        return closed

    async def late_customers(
        self, *, noted_before: datetime, plans: Sequence[str], all_but: bool, limit: int
    ) -> Sequence[Cursor]:
        """Customers on these plans, or on any other, with postpaid late usage that waits."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("late_customers"), noted_before, limit, list(plans), all_but
            )
        return [cursor_of(row) for row in rows]

    async def cut_late(self, shard: int, cursor: Cursor, period: Period, provider: str) -> bool:
        """Put late usage that waits on an invoice of its own."""
        customer_id, currency = cursor.customer_id, cursor.currency
        with translate_errors():
            async with self._transaction() as connection:
                await lock_shard(connection, shard)
                sequence = await connection.fetchval(
                    query("next_sequence"), customer_id, currency, period.start
                )
                late = await connection.fetch(
                    query("insert_late_invoice"),
                    customer_id,
                    invoice_id_of(customer_id, currency, period.start, sequence),
                    currency,
                    sequence,
                    provider,
                    period.start,
                    period.end,
                )
        return bool(late)

    async def write_off(self, shard: int, customer_id: str, *, limit: int) -> WriteOff | None:
        """Post that late usage that waits is not asked for, at most so many events."""
        with translate_errors():
            async with self._transaction() as connection:
                return await _write_off(connection, shard, customer_id, limit)

    async def unposted_credit_notes(self, limit: int) -> Sequence[tuple[str, str]]:
        """(customer, credit note), the oldest first."""
        with translate_errors():
            rows = await self._pool.fetch(query("unposted_credit_notes"), limit)
        return [(row["customer_id"], row["credit_note_id"]) for row in rows]

    async def post_credit_note(self, shard: int, customer_id: str, credit_note_id: str) -> bool:
        """Post one; False if it is posted."""
        with translate_errors():
            async with self._transaction() as connection:
                return await _post_credit_note(connection, shard, customer_id, credit_note_id)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with (
            self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
            connection.transaction(),
        ):
            yield connection


async def _close(
    connection: Connection, shard: int, closings: Sequence[Closing]
) -> tuple[int, Sequence[NoticeKind]]:
    """How many were drafts until now, and the kinds of notices that are new."""
    if any(one.content.charged_nano for one in closings):
        await lock_shard(connection, shard)
    keys = [(one.draft.customer_id, one.draft.invoice_id) for one in closings]
    drafts = {
        row["invoice_id"]: row
        for row in await connection.fetch(query("lock_drafts"), *columns(keys, 2))
    }
    # Somebody else may have closed some: then the lock has shown it.
    ours = [one for one in closings if one.draft.invoice_id in drafts]
    empty = [
        one
        for one in ours
        if not one.content.lines and not drafts[one.draft.invoice_id]["has_late"]
    ]
    if empty:
        dropped = [(one.draft.customer_id, one.draft.invoice_id) for one in empty]
        await connection.execute(query("drop_drafts"), *columns(dropped))
    full = [one for one in ours if one not in empty]
    if not full:
        return len(ours), ()
    rows = [_closed_row(one, drafts[one.draft.invoice_id]) for one in full]
    closed = {
        row["invoice_id"]: row
        for row in await connection.fetch(query("close_drafts"), *columns(rows))
    }
    lines = [row for one in full for row in line_rows(one)]
    if lines:
        await connection.execute(query("insert_invoice_lines"), *columns(lines))
    parts = [row for one in full for row in part_rows(one)]
    if parts:
        await connection.execute(query("insert_invoice_parts"), *columns(parts))
    charged = [one for one in full if one.content.charged_nano]
    if charged:
        await post_aside(connection, shard, [_charge_transaction(one) for one in charged])
    notices = [_notice(one, closed[one.draft.invoice_id]) for one in full]
    return len(ours), await insert_notices(connection, notices)


def _notice(closing: Closing, closed: asyncpg.Record) -> Notice:
    draft = closing.draft
    return invoice_closed(
        Invoice(
            invoice_id=closed["invoice_id"],
            customer_id=draft.customer_id,
            currency=draft.currency,
            sequence=draft.sequence,
            period=draft.period,
            state=InvoiceState.CLOSED,
            provider=draft.provider,
            number=closed["number"],
            total_nano=closing.content.total_nano,
            due_nano=closed["due_nano"],
            closed_at=closed["closed_at"],
        )
    )


def _closed_row(closing: Closing, locked: asyncpg.Record) -> tuple[Any, ...]:
    """In the order of `close_drafts`."""
    content, draft = closing.content, closing.draft
    carried_nano, carried_minor = locked["carried_nano"], locked["carried_minor"]
    due_nano, left_nano = amounts_due(content.total_nano - content.credit_nano, carried_nano)
    due_minor, left_minor = amounts_due(content.lines_due_minor, carried_minor)
    return (
        draft.customer_id,
        draft.invoice_id,
        locked["invoices_made"] + 1,
        content.total_nano,
        content.credit_nano,
        closing.overage_nano,
        carried_nano,
        carried_minor,
        due_nano,
        due_minor,
        content.charged_nano,
        f"invoice:{draft.invoice_id}" if content.charged_nano else None,
        findings_text(content.findings),
        left_nano,
        left_minor,
    )


def _charge_transaction(closing: Closing) -> LedgerTransaction:
    """What the period's end decided; captured usage is in the ledger already."""
    draft = closing.draft
    assert draft.invoice_id is not None
    return _aside(
        draft.customer_id,
        kind="invoice",
        name=draft.invoice_id,
        currency=draft.currency,
        amount_nano=closing.content.charged_nano,
    )


def _aside(
    customer_id: str, *, kind: str, name: str, currency: str, amount_nano: int
) -> LedgerTransaction:
    """A transaction of no stream entry: what names it stands where entries would."""
    return LedgerTransaction(
        customer_id=customer_id,
        transaction_id=f"{kind}:{name}",
        kind=kind,
        currency=currency,
        first_entry_id=name,
        last_entry_id=name,
        event_count=1,
        entries=charge_entries(amount_nano),
        sums=BalanceSums(),
    )


async def _write_off(
    connection: Connection, shard: int, customer_id: str, limit: int
) -> WriteOff | None:
    await lock_shard(connection, shard)
    rows = await connection.fetch(query("lock_late_to_write_off"), customer_id, limit)
    if not rows:
        return None
    keys = sorted((row["day"].isoformat(), row["hold_id"], row["kind"]) for row in rows)
    digest = hashlib.sha256(json.dumps([customer_id, keys]).encode()).hexdigest()
    made = WriteOff(
        write_off_id=f"wo_{digest[:24]}",
        customer_id=customer_id,
        currency=rows[0]["currency"],
        amount_nano=sum(row["amount_nano"] for row in rows),
        events=len(rows),
    )
    transaction = _aside(
        customer_id,
        kind="write_off",
        name=made.write_off_id,
        currency=made.currency,
        amount_nano=-made.amount_nano,
    )
    await post_aside(connection, shard, [transaction])
    await connection.execute(
        query("insert_write_off"),
        customer_id,
        made.write_off_id,
        made.currency,
        made.amount_nano,
        made.events,
        transaction.transaction_id,
    )
    await connection.execute(
        query("note_written_off"),
        customer_id,
        made.write_off_id,
        *columns([(row["day"], row["hold_id"], row["kind"]) for row in rows]),
    )
    return made


async def _post_credit_note(
    connection: Connection, shard: int, customer_id: str, credit_note_id: str
) -> bool:
    await lock_shard(connection, shard)
    row = await connection.fetchrow(query("lock_credit_note"), customer_id, credit_note_id)
    if row is None:
        return False
    transaction_id = None
    if row["amount_nano"]:
        transaction = _aside(
            customer_id,
            kind="credit_note",
            name=credit_note_id,
            currency=row["currency"],
            amount_nano=-row["amount_nano"],
        )
        transaction_id = transaction.transaction_id
        await post_aside(connection, shard, [transaction])
    if row["void"]:
        await connection.execute(query("void_invoice"), customer_id, row["invoice_id"])
        _, left_nano = amounts_due(row["due_nano"], row["carried_nano"])
        _, left_minor = amounts_due(row["lines_due_minor"], row["carried_minor"])
        await connection.execute(
            query("carry_back"),
            customer_id,
            row["carried_nano"] - left_nano,
            row["carried_minor"] - left_minor,
        )
    await connection.execute(
        query("finish_credit_note"), customer_id, credit_note_id, transaction_id
    )
    return True
