"""Invoices of record as the admin role sees them: implements `InvoiceRecord`."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from sidecar.domain.errors import Conflict, NotFound
from sidecar.domain.holds import hold_day
from sidecar.domain.invoice_content import MonthTotal, TotalKey
from sidecar.domain.invoices import PRICE_MONTH, Invoice, InvoiceState, UsagePart
from sidecar.domain.minor_units import to_minor
from sidecar.domain.periods import EPOCH, Period
from sidecar.domain.plan_history import PlanStart
from sidecar.outbound.postgres.invoice_rows import (
    credit_note_of,
    cursor_of,
    invoice_of,
    part_of,
)
from sidecar.outbound.postgres.pool import (
    ACQUIRE_SECONDS_MAX,
    Connection,
    Pool,
    translate_errors,
)
from sidecar.outbound.postgres.queries import query
from sidecar.outbound.postgres.settlement_batch import columns
from sidecar.services.invoicing_ports import (
    CreditNote,
    Cursor,
    Draft,
    InvoiceFilter,
    LineEvent,
    TracedLine,
)

CREDIT_NOTES_MAX: Final = 100
"""Of one invoice."""
_TRACED_MAX: Final = 1_000
SUM_SECONDS_MAX: Final = 300.0
_SUMMED_AT_ONCE: Final = 25
"""Invoices whose usage one statement adds up."""
_NEAR: Final = timedelta(hours=1)
"""How far an event's time may be from the second in its hold's id."""


class PostgresInvoiceRecord:
    """Reads, and the intents that settlement carries out."""

    def __init__(self, pool: Pool, *, sum_seconds_max: float = SUM_SECONDS_MAX) -> None:
        """Wire it; `sum_seconds_max` is the longest statement that adds usage up."""
        self._pool = pool
        self._sum_seconds_max = sum_seconds_max

    async def read_cursor(self, customer_id: str) -> Cursor | None:
        """Where the customer stands; None before the first round of invoicing."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_cursor"), customer_id)
        return None if row is None else cursor_of(row)

    async def describe_customer(self, customer_id: str) -> Cursor | None:
        """A cursor as it would be made now; None for an unknown customer."""
        with translate_errors():
            row = await self._pool.fetchrow(query("describe_customer"), customer_id)
        if row is None:
            return None
        period = PRICE_MONTH.at(row["first_at"])
        described = dict(row) | {
            "anchor": None,
            "closed_until": period.start,
            "period_end": period.end,
        }
        return cursor_of(described)

    async def ask_close(self, customer_id: str, end: datetime) -> bool:
        """Have the period that ends then closed without grace; False if it does not run."""
        with translate_errors():
            return await self._pool.fetchval(query("ask_close"), customer_id, end) is not None

    async def set_anchor(self, customer_id: str, anchor: datetime | None, end: datetime) -> bool:
        """Where periods begin from now on; False if the period would end before it begins."""
        with translate_errors():
            found = await self._pool.fetchval(query("set_anchor"), customer_id, anchor, end)
        return found is not None

    async def sum_usage(self, drafts: Sequence[Draft]) -> list[list[UsagePart]]:
        """The usage of each draft, added up."""
        parts: list[list[UsagePart]] = [[] for _ in drafts]
        for first in range(0, len(drafts), _SUMMED_AT_ONCE):
            few = drafts[first : first + _SUMMED_AT_ONCE]
            for row in await self._sum("sum_usage", _wanted(few)):
                parts[first + row["place"]].append(part_of(row))
        return parts

    async def _sum(self, name: str, columns_wanted: Sequence[Any]) -> list[asyncpg.Record]:
        """A month of a large customer takes longer than other statements may."""
        seconds = self._sum_seconds_max
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(readonly=True),
            ):
                # One second more, as everywhere: the client's limit is the one that speaks. What
                # is compiled for each statement takes longer than what it makes faster.
                await connection.execute(
                    "SELECT set_config('statement_timeout', $1, true),"
                    " set_config('jit', 'off', true)",
                    str(int(seconds * 1_000) + 1_000),
                )
                rows: list[asyncpg.Record] = await connection.fetch(
                    query(name), *columns_wanted, timeout=seconds
                )
        return rows

    async def sum_months(
        self, wanted: Sequence[tuple[str, datetime]]
    ) -> dict[str, dict[TotalKey, MonthTotal]]:
        """By customer all usage of months (customer, month's start)."""
        if not wanted:
            return {}
        rows_wanted = [(one, month, PRICE_MONTH.at(month).end) for one, month in wanted]
        rows = await self._sum("sum_months", columns(rows_wanted))
        totals: dict[str, dict[TotalKey, MonthTotal]] = {}
        for row in rows:
            key = row["month"], row["price_version"], row["meter"], row["model"]
            totals.setdefault(row["customer_id"], {})[key] = MonthTotal(
                quantity=int(row["quantity"]),
                amount_nano=row["amount_nano"],
                corrections=row["corrections"],
            )
        return totals

    async def plans_within(self, wanted: Sequence[tuple[str, Period]]) -> list[list[PlanStart]]:
        """For each (customer, period) the plan at its start, and those that begin in it."""
        if not wanted:
            return []
        asked = [
            (place, customer_id, period.start, period.end)
            for place, (customer_id, period) in enumerate(wanted)
        ]
        with translate_errors():
            rows = await self._pool.fetch(query("plans_within"), *columns(asked))
        found: list[list[PlanStart]] = [[] for _ in wanted]
        for row in rows:
            found[row["place"]].append(PlanStart(since=row["since"], plan=row["plan"]))
        return found

    async def late_periods(self, drafts: Sequence[Draft]) -> list[list[Period | None]]:
        """For each draft the periods that its late usage is of; None: one that was never cut."""
        if not drafts:
            return []
        asked = [(place, draft.customer_id, draft.invoice_id) for place, draft in enumerate(drafts)]
        with translate_errors():
            rows = await self._pool.fetch(query("late_periods"), *columns(asked))
        found: list[list[Period | None]] = [[] for _ in drafts]
        for row in rows:
            start, end = row["period_start"], row["period_end"]
            found[row["place"]].append(None if start is None else Period(start=start, end=end))
        return found

    async def sum_periods(self, wanted: Sequence[tuple[Draft, Period]]) -> list[list[UsagePart]]:
        """For each (draft, period that was cut) its usage on invoices; see the port."""
        if not wanted:
            return []
        asked = [
            (place, draft.customer_id, draft.invoice_id, period.start, period.end)
            for place, (draft, period) in enumerate(wanted)
        ]
        rows = await self._sum("sum_periods", columns(asked))
        parts: list[list[UsagePart]] = [[] for _ in wanted]
        for row in rows:
            parts[row["place"]].append(part_of(row))
        return parts

    async def overage(self, drafts: Sequence[Draft]) -> list[int]:
        """What no credit was there for, of the prepaid usage of each draft."""
        if not drafts:
            return []
        rows = await self._sum("sum_overage", _wanted(drafts))
        found = {row["place"]: int(row["overage_nano"]) for row in rows}
        return [found[place] for place in range(len(drafts))]

    async def read_card(self, version: str) -> str | None:
        """The content of a price version, if it was noted."""
        with translate_errors():
            content: str | None = await self._pool.fetchval(query("read_price_version"), version)
        return content

    async def note_cards(self, cards: Mapping[str, str]) -> None:
        """Keep the content of price versions for as long as there are invoices."""
        if cards:
            with translate_errors():
                await self._pool.execute(
                    query("note_price_versions"), *columns(sorted(cards.items()))
                )

    async def list(
        self, which: InvoiceFilter, *, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Invoice]:
        """A page without lines, that which ended last first."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("page_invoices"),
                which.customer_id,
                None if which.state is None else which.state.value,
                which.ends_from,
                which.ends_before,
                *(before or (None, None)),
                limit,
            )
        return [invoice_of(row) for row in rows]

    async def read(self, invoice_id: str) -> Invoice | None:
        """One invoice with its lines."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_invoice"), invoice_id)
            if row is None:
                return None
            lines = await self._pool.fetch(
                query("read_invoice_lines"), row["customer_id"], invoice_id
            )
        return invoice_of(row, lines)

    async def create_credit_note(self, note: CreditNote) -> CreditNote:
        """
        Write an intent down, within what the invoice has left; a repeat finds it again.

        Raises:
            NotFound: Unknown invoice or line.
            Conflict: The invoice is no closed one, has not so much left, or the id differs.
        """
        with translate_errors():
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS_MAX) as connection,
                connection.transaction(),
            ):
                return await _create_credit_note(connection, note)

    async def list_credit_notes(self, invoice_id: str, limit: int) -> Sequence[CreditNote]:
        """Of one invoice, the oldest first."""
        with translate_errors():
            row = await self._pool.fetchrow(query("read_invoice"), invoice_id)
            if row is None:
                raise NotFound(f"there is no invoice {invoice_id!r}")
            rows = await self._pool.fetch(
                query("credit_notes_of_invoice"), row["customer_id"], invoice_id, limit
            )
        return [credit_note_of(one) for one in rows]

    async def list_line_events(
        self, invoice: Invoice, line_number: int, *, after: tuple[str, str], limit: int
    ) -> Sequence[LineEvent]:
        """What a line was added up from, by (hold id, kind)."""
        with translate_errors():
            rows = await self._pool.fetch(
                query("line_events"),
                invoice.customer_id,
                invoice.invoice_id,
                line_number,
                *after,
                limit,
            )
        return [LineEvent(**dict(row)) for row in rows]

    async def trace_hold(self, hold_id: str, customer_id: str | None) -> Sequence[TracedLine]:
        """Every meter of every event of a hold, and where it went."""
        at = EPOCH + timedelta(seconds=int(hold_id[:8], 16))
        with translate_errors():
            rows = await self._pool.fetch(
                query("trace_hold"),
                hold_id,
                customer_id,
                at - _NEAR,
                at + _NEAR,
                hold_day(hold_id),
                _TRACED_MAX,
            )
        return [
            TracedLine(
                **dict(row)
                | {"invoice_state": row["invoice_state"] and InvoiceState(row["invoice_state"])}
            )
            for row in rows
        ]


def _wanted(drafts: Sequence[Draft]) -> list[Sequence[Any]]:
    """Which usage: of a period for its own invoice, else only what came late."""
    return columns(
        [
            (
                place,
                draft.customer_id,
                draft.invoice_id,
                draft.period.start,
                draft.period.end if draft.sequence == 0 else draft.period.start,
            )
            for place, draft in enumerate(drafts)
        ],
        5,
    )


async def _create_credit_note(connection: Connection, note: CreditNote) -> CreditNote:
    # The invoice's row is locked first, so that two notes cannot both take what is left.
    invoice = await connection.fetchrow(query("lock_invoice"), note.invoice_id)
    if invoice is None or (note.customer_id and invoice["customer_id"] != note.customer_id):
        raise NotFound(f"there is no invoice {note.invoice_id!r}")
    customer_id = invoice["customer_id"]
    stored = await connection.fetchrow(query("read_credit_note"), customer_id, note.credit_note_id)
    if stored is not None:
        return _repeated(credit_note_of(stored), note)
    if invoice["state"] != InvoiceState.CLOSED:
        raise Conflict(f"invoice {note.invoice_id} is {invoice['state']}, not closed")
    earlier = [
        credit_note_of(row)
        for row in await connection.fetch(
            query("credit_notes_of_invoice"), customer_id, note.invoice_id, CREDIT_NOTES_MAX + 1
        )
    ]
    if len(earlier) >= CREDIT_NOTES_MAX and not note.void:
        raise Conflict(f"an invoice has at most {CREDIT_NOTES_MAX} credit notes; void it")
    left = invoice["total_nano"] - invoice["credit_nano"] - sum(n.amount_nano for n in earlier)
    amount = left if note.void else note.amount_nano
    if any(one.void for one in earlier):
        raise Conflict(f"invoice {note.invoice_id} is being made void")
    if left < 0 or amount > left:
        raise Conflict(f"invoice {note.invoice_id} has {left} nano left to credit")
    await _check_lines(connection, customer_id, note, earlier)
    lines = [{"line_number": one.line_number, "amount_nano": one.amount_nano} for one in note.lines]
    await connection.execute(
        query("insert_credit_note"),
        customer_id,
        note.credit_note_id,
        note.invoice_id,
        note.void,
        invoice["currency"],
        amount,
        to_minor(amount, invoice["currency"], invoice["provider"]),
        json.dumps(lines),
        note.reason,
    )
    # Less is owed, or nothing: whoever is past due may not be any more.
    await connection.execute(query("mark_standing"), customer_id)
    made = await connection.fetchrow(query("read_credit_note"), customer_id, note.credit_note_id)
    assert made is not None
    return credit_note_of(made)


async def _check_lines(
    connection: Connection, customer_id: str, note: CreditNote, earlier: Sequence[CreditNote]
) -> None:
    """No line is credited with more than it has left."""
    if not note.lines:
        return
    numbers = [line.line_number for line in note.lines]
    rows = await connection.fetch(query("lines_left"), customer_id, note.invoice_id, numbers)
    left = {row["line_number"]: row["due_nano"] for row in rows}
    for one in (line for before in earlier for line in before.lines):
        if one.line_number in left:
            left[one.line_number] -= one.amount_nano
    for line in note.lines:
        if line.line_number not in left:
            raise NotFound(f"invoice {note.invoice_id} has no line {line.line_number}")
        left[line.line_number] -= line.amount_nano
        if left[line.line_number] < 0:
            raise Conflict(f"line {line.line_number} has not so much left to credit")


def _repeated(stored: CreditNote, note: CreditNote) -> CreditNote:
    same = (
        stored.invoice_id == note.invoice_id
        and stored.void == note.void
        and (note.void or stored.amount_nano == note.amount_nano)
        and stored.lines == note.lines
        # Erasing the customer has cleared it.
        and stored.reason in ("", note.reason)
    )
    if not same:
        raise Conflict(f"credit note {note.credit_note_id!r} has other content")
    return stored
