"""Closed invoices of the ledger that are to be collected: implements `InvoicesDue`."""

from collections.abc import Sequence
from typing import Final

from asyncpg import Record

from sidecar.outbound.postgres.pool import Pool, translate_errors
from sidecar.services.collecting_ports import DueInvoice, InvoiceLine

# These stand here, not among the named statements, because each of those must be accepted by
# every schema, and the invoices' tables need not be there.
_ALL_EVERY: Final = 500
_HERE: Final = (
    "SELECT to_regclass('invoices') IS NOT NULL AND to_regclass('credit_notes') IS NOT NULL"
)
_FIELDS: Final = """
SELECT i.customer_id, i.invoice_id, i.number, i.currency, p.provider,
    i.due_nano - n.amount_nano AS due_nano,
    CASE WHEN i.provider = p.provider THEN i.due_minor - n.amount_minor END AS due_minor,
    n.amount_nano = 0 AS whole,
    CASE WHEN c.stripe_customer_id IS NOT NULL THEN 'stripe' ELSE '' END AS metered_by
FROM invoices i
JOIN customers c ON c.customer_id = i.customer_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(o.amount_nano), 0)::bigint AS amount_nano,
        coalesce(sum(o.amount_minor), 0)::bigint AS amount_minor,
        coalesce(bool_or(o.void), false) AS void
    FROM credit_notes o
    WHERE o.customer_id = i.customer_id AND o.invoice_id = i.invoice_id) n
"""
_OWED: Final = "WHERE i.state = 'closed' AND NOT n.void AND i.due_nano > n.amount_nano"
# Most rounds look at what ended lately, by an index; all is looked at now and then.
_DUE: Final = f"""{_FIELDS}
JOIN payers p ON p.customer_id = i.customer_id AND p.collect
{_OWED} AND i.closed_at >= p.collect_since
    AND ($2 OR i.period_end > now() - interval '45 days')
    AND NOT EXISTS (
        SELECT FROM collections k
        WHERE k.customer_id = i.customer_id AND k.invoice_id = i.invoice_id)
ORDER BY i.closed_at LIMIT $1
"""
_ONE: Final = f"""{_FIELDS}
JOIN collections p ON p.customer_id = i.customer_id AND p.invoice_id = i.invoice_id
{_OWED} AND i.customer_id = $1 AND i.invoice_id = $2
"""
_LINES: Final = """
SELECT l.meter, l.amount_nano - l.credit_nano AS due_nano, l.due_minor
FROM invoice_lines l
WHERE l.customer_id = $1 AND l.invoice_id = $2 AND (l.amount_nano <> l.credit_nano)
ORDER BY l.line_number LIMIT $3
"""


class PostgresInvoicesDue:
    """
    Implements InvoicesDue over the ledger's invoices, less what credit notes took.

    Invoices that were closed before a provider collected for the customer are left alone: they may
    have been paid otherwise. Where the invoices' tables are missing, nothing is due.
    """

    def __init__(self, pool: Pool) -> None:
        """Wire it."""
        self._pool = pool
        self._here = False
        self._rounds = 0

    async def due(self, *, limit: int) -> Sequence[DueInvoice]:
        """Invoices with a collecting provider that no collection exists for yet."""
        if not await self._is_here():
            return []
        everything = self._rounds % _ALL_EVERY == 0
        self._rounds += 1
        with translate_errors():
            rows = await self._pool.fetch(_DUE, limit, everything)
        if len(rows) >= limit:
            self._rounds = 0  # There may be more of them.
        return [_invoice(row, ()) for row in rows]

    async def read(self, customer_id: str, invoice_id: str, *, lines_max: int) -> DueInvoice | None:
        """One invoice as it is now; None if nothing is due on it any more."""
        if not await self._is_here():
            return None
        with translate_errors():
            row = await self._pool.fetchrow(_ONE, customer_id, invoice_id)
            if row is None:
                return None
            lines = await self._pool.fetch(_LINES, customer_id, invoice_id, lines_max + 1)
        # After a credit note the lines no longer say what is due.
        fits = row["whole"] and len(lines) <= lines_max
        return _invoice(row, lines if fits else ())

    async def _is_here(self) -> bool:
        if not self._here:
            with translate_errors():
                self._here = bool(await self._pool.fetchval(_HERE))
        return self._here


def _invoice(row: Record, lines: Sequence[Record]) -> DueInvoice:
    rounded = row["due_minor"] is not None
    return DueInvoice(
        customer_id=row["customer_id"],
        invoice_id=row["invoice_id"],
        number=str(row["number"]),
        provider=row["provider"],
        currency=row["currency"],
        due_nano=row["due_nano"],
        due_minor=row["due_minor"],
        lines=tuple(
            InvoiceLine(
                text=line["meter"],
                amount_nano=line["due_nano"],
                amount_minor=line["due_minor"] if rounded else None,
            )
            for line in lines
        ),
        metered_by=row["metered_by"],
    )
