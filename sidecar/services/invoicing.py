"""
Invoices, as people ask for them: preview, list, credit, void, close, trace.

What is asked for is written down as an intent; the settlement role carries it out, since it alone
posts to the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sidecar.domain.errors import Conflict, InvalidInput, NotFound
from sidecar.domain.holds import check_hold_id
from sidecar.domain.invoices import (
    Invoice,
    InvoiceState,
    amounts_due,
    period_from,
    provider_of,
)
from sidecar.domain.periods import Period
from sidecar.services.invoice_making import InvoiceMaker
from sidecar.services.invoicing_ports import (
    Closing,
    CreditNote,
    CreditNoteLine,
    Cursor,
    Draft,
    InvoiceFilter,
    InvoiceRecord,
    LineEvent,
    TracedLine,
)
from sidecar.services.ports import Clock

CREDIT_NOTE_LINES_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an invoice of now would say; what is unknown keeps it from being worked out."""

    invoice: Invoice
    unknown_versions: tuple[str, ...] = ()
    unknown_plans: tuple[str, ...] = ()


class InvoiceService:
    """The use cases of the admin role about invoices."""

    def __init__(self, *, record: InvoiceRecord, maker: InvoiceMaker, clock: Clock) -> None:
        """Wire the ports."""
        self._record = record
        self._maker = maker
        self._clock = clock

    async def preview(self, customer_id: str) -> Preview:
        """
        The running period's invoice as far as usage is settled; nothing is written.

        Raises:
            NotFound: Unknown customer.
            StoreUnavailable: Ask again.
        """
        cursor = await self._cursor(customer_id)
        provider = provider_of(cursor.currency, cursor.provider)
        draft = Draft(
            invoice_id=None,
            customer_id=customer_id,
            currency=cursor.currency,
            plan=cursor.plan,
            provider=provider,
            sequence=0,
            period=cursor.period,
        )
        (made,) = await self._maker.make([draft])
        if isinstance(made, Closing):
            return Preview(invoice=_previewed(made))
        empty = Invoice(
            invoice_id="",
            customer_id=customer_id,
            currency=cursor.currency,
            sequence=0,
            period=cursor.period,
            state=InvoiceState.PREVIEW,
            provider=provider,
        )
        return Preview(
            invoice=empty,
            unknown_versions=tuple(sorted(made.versions)),
            unknown_plans=tuple(sorted(made.plans)),
        )

    async def list(
        self, which: InvoiceFilter, *, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Invoice]:
        """A page of invoices without lines, that which ended last first."""
        return await self._record.list(which, before=before, limit=limit)

    async def read(self, invoice_id: str) -> Invoice:
        """One invoice with its lines. Raises NotFound."""
        found = await self._record.read(invoice_id)
        if found is None:
            raise NotFound(f"there is no invoice {invoice_id!r}")
        return found

    async def close(self, customer_id: str) -> Period:
        """
        Ask for the running period to be closed without grace, once it is over.

        Returns:
            The period; its invoice is closed by the settlement role.

        Raises:
            NotFound: Unknown customer, or one that invoicing has not met yet.
            Conflict: The period is not over.
        """
        cursor = await self._record.read_cursor(customer_id)
        if cursor is None:
            raise NotFound(f"customer {customer_id!r} has no invoices yet")
        if cursor.period_end > self._clock.now():
            raise Conflict(f"the period runs until {cursor.period_end.isoformat()}")
        if not await self._record.ask_close(customer_id, cursor.period_end):
            raise Conflict("the period was closed meanwhile")
        return cursor.period

    async def set_anchor(self, customer_id: str, anchor: datetime | None) -> Cursor:
        """
        Have periods begin at an anchor's day and time (None: with the calendar month).

        The running period is the one that changes length: it ends at the first edge to come.

        Raises:
            NotFound: As `close`.
            InvalidInput: See `AnchoredWindow`.
        """
        cursor = await self._record.read_cursor(customer_id)
        if cursor is None:
            raise NotFound(f"customer {customer_id!r} has no invoices yet")
        period = period_from(cursor.closed_until, anchor)
        if not await self._record.set_anchor(customer_id, anchor, period.end):
            raise Conflict("the period was closed meanwhile; ask again")
        return replace(cursor, anchor=anchor, period_end=period.end)

    async def credit(self, note: CreditNote) -> CreditNote:
        """
        Credit an amount of an invoice, or parts of its lines; the same id is the same note.

        Raises:
            InvalidInput: Nothing or something else than the lines' sum is credited.
            NotFound, Conflict: See `InvoiceRecord.create_credit_note`.
        """
        if note.void:
            return await self._record.create_credit_note(note)
        _check_lines(note.lines)
        amount = note.amount_nano
        if note.lines:
            amount = sum(line.amount_nano for line in note.lines)
            if note.amount_nano not in (0, amount):
                raise InvalidInput("amount is not the sum of the lines", field="amount")
        if amount <= 0:
            raise InvalidInput("a credit note needs an amount above 0", field="amount")
        return await self._record.create_credit_note(replace(note, amount_nano=amount))

    async def void(self, invoice_id: str, *, credit_note_id: str, reason: str) -> CreditNote:
        """Credit all that is left of an invoice; its number stays. As `credit` raises."""
        invoice = await self.read(invoice_id)
        return await self._record.create_credit_note(
            CreditNote(
                credit_note_id=credit_note_id,
                customer_id=invoice.customer_id,
                invoice_id=invoice_id,
                amount_nano=0,
                reason=reason,
                void=True,
            )
        )

    async def list_credit_notes(self, invoice_id: str, *, limit: int) -> Sequence[CreditNote]:
        """Of one invoice, the oldest first. Raises NotFound."""
        return await self._record.list_credit_notes(invoice_id, limit)

    async def list_line_events(
        self, invoice_id: str, line_number: int, *, after: tuple[str, str], limit: int
    ) -> Sequence[LineEvent]:
        """Which events a line was added up from, by (hold id, kind). Raises NotFound."""
        invoice = await self.read(invoice_id)
        if all(line.number != line_number for line in invoice.lines):
            raise NotFound(f"invoice {invoice_id} has no line {line_number}")
        return await self._record.list_line_events(invoice, line_number, after=after, limit=limit)

    async def trace(self, hold_id: str, *, customer_id: str | None) -> Sequence[TracedLine]:
        """
        From a request's hold to ledger, report and invoice line.

        Raises:
            InvalidInput: It is no hold id.
            NotFound: Nothing of it is settled.
        """
        found = await self._record.trace_hold(check_hold_id(hold_id), customer_id)
        if not found:
            raise NotFound(f"nothing of hold {hold_id} is settled")
        return found

    async def _cursor(self, customer_id: str) -> Cursor:
        cursor = await self._record.read_cursor(customer_id)
        cursor = cursor or await self._record.describe_customer(customer_id)
        if cursor is None:
            raise NotFound(f"there is no customer {customer_id!r}")
        return cursor


def _previewed(made: Closing) -> Invoice:
    draft, content = made.draft, made.content
    due_nano, _ = amounts_due(content.total_nano - content.credit_nano, 0)
    due_minor, _ = amounts_due(content.lines_due_minor, 0)
    return Invoice(
        invoice_id="",
        customer_id=draft.customer_id,
        currency=draft.currency,
        sequence=0,
        period=draft.period,
        state=InvoiceState.PREVIEW,
        provider=draft.provider,
        total_nano=content.total_nano,
        credit_nano=content.credit_nano,
        overage_nano=made.overage_nano,
        due_nano=due_nano,
        due_minor=due_minor,
        charged_nano=content.charged_nano,
        findings=content.findings,
        lines=content.lines,
    )


def _check_lines(lines: Sequence[CreditNoteLine]) -> None:
    if len(lines) > CREDIT_NOTE_LINES_MAX:
        raise InvalidInput(f"at most {CREDIT_NOTE_LINES_MAX} lines", field="lines")
    if any(line.amount_nano <= 0 for line in lines):
        raise InvalidInput("a line is credited with an amount above 0", field="lines")
    if len({line.line_number for line in lines}) != len(lines):
        raise InvalidInput("a line is named twice", field="lines")
