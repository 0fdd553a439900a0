"""Bodies and answers about invoices."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from sidecar.domain.invoices import Finding, FindingKind, Invoice, InvoiceLine, InvoiceState
from sidecar.domain.minor_units import Rounding
from sidecar.domain.money import format_amount
from sidecar.inbound.http.field_types import (
    AmountText,
    CustomerId,
    Instant,
    NanoInt,
    PageLimit,
    QueryModel,
    RequestModel,
    ResponseModel,
    Text500,
)
from sidecar.services.invoicing import CREDIT_NOTE_LINES_MAX
from sidecar.services.invoicing_ports import CreditNote, LineEvent, TracedLine

_PAGE_DEFAULT = 50
# Sums over a period may have more digits than one amount.
SumText = Annotated[str, Field(pattern=r"^-?\d{1,20}(\.\d{2,9})$")]
MinorInt = Annotated[int, Field(description="In the provider's minor units.")]
LineNumber = Annotated[int, Field(ge=1, le=1_000_000)]
InvoiceCursor = Annotated[
    str,
    Field(pattern=r"^[0-9]{1,14}\.inv_[0-9a-f]{1,32}$", description="`next` of the page before."),
]
EventCursor = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{40}\.(capture|orphan|correction:[1-9][0-9]{0,5})$",
        description="`next` of the page before.",
    ),
]


class InvoicesQuery(QueryModel):
    """Which page of which invoices; `ends_from` and `ends_before` bound their period's end."""

    limit: PageLimit = _PAGE_DEFAULT
    after: InvoiceCursor | None = None
    customer_id: CustomerId | None = None
    state: InvoiceState | None = None
    ends_from: Instant | None = None
    ends_before: Instant | None = None


class EventsQuery(QueryModel):
    """Which page of a line's events."""

    limit: PageLimit = _PAGE_DEFAULT
    after: EventCursor | None = None


class TraceQuery(QueryModel):
    """Whose hold it is; looked for by its time if it is not said."""

    customer_id: CustomerId | None = None


class CreditNoteLineBody(RequestModel):
    """What of a line is credited."""

    line_number: LineNumber
    amount: AmountText


class CreditNoteBody(RequestModel):
    """What is credited: an amount, or parts of lines, whose sum the amount is if it is given."""

    amount: AmountText | None = None
    lines: Annotated[
        list[CreditNoteLineBody], Field(default_factory=list, max_length=CREDIT_NOTE_LINES_MAX)
    ]
    reason: Text500 = ""


class VoidBody(RequestModel):
    """Why nothing of an invoice is owed any more."""

    reason: Text500 = ""


class AnchorBody(RequestModel):
    """When periods begin: at this day and time of each month; null: with the calendar month."""

    anchor: Instant | None


class FindingAnswer(ResponseModel):
    """What people should look at: what was captured is not what the price makes of the total."""

    kind: FindingKind
    line_number: int
    captured_nano: NanoInt
    expected_nano: NanoInt

    @classmethod
    def of(cls, finding: Finding) -> "FindingAnswer":
        """From the record."""
        return cls(
            kind=finding.kind,
            line_number=finding.line_number,
            captured_nano=finding.captured_nano,
            expected_nano=finding.expected_nano,
        )


class InvoiceLineAnswer(ResponseModel):
    """
    A line. `credit` of the amount was paid from credit, the rest is due.

    `price` is the content of the price line at `price_version`, {} of usage without a price.
    `charge` marks what the period's end decided, `late` usage of a period that was closed.
    """

    number: int
    meter: str
    models: list[str]
    plan: str
    price_version: str
    price: dict[str, Any]
    rounding: Rounding
    period_start: Instant
    period_end: Instant
    charge: bool
    late: bool
    events: int
    quantity: int
    amount: SumText
    amount_nano: NanoInt
    credit: SumText
    credit_nano: NanoInt
    amount_minor: MinorInt
    due_minor: MinorInt

    @classmethod
    def of(cls, line: InvoiceLine) -> "InvoiceLineAnswer":
        """From the record."""
        return cls(
            number=line.number,
            meter=line.meter,
            models=list(line.models),
            plan=line.plan,
            price_version=line.price_version,
            price=dict(line.price),
            rounding=line.rounding,
            period_start=line.period.start,
            period_end=line.period.end,
            charge=line.charge,
            late=line.late,
            events=line.events,
            quantity=line.quantity,
            amount=format_amount(line.amount_nano),
            amount_nano=line.amount_nano,
            credit=format_amount(line.credit_nano),
            credit_nano=line.credit_nano,
            amount_minor=line.amount_minor,
            due_minor=line.due_minor,
        )


class InvoiceAnswer(ResponseModel):
    """
    An invoice without its lines; `id` and `number` are null of a preview.

    `overage` of the credit was not there: later grants pay it. `carried` (0 or less) is what
    invoices before owed the customer. `credited` is by credit notes, those not yet posted too.
    `sequence` is 0 of a period's own invoice, 1 and on of those of what came late.
    """

    id: str | None
    number: str | None
    customer_id: str
    currency: str
    sequence: int
    period_start: Instant
    period_end: Instant
    state: InvoiceState
    provider: str
    total: SumText
    total_nano: NanoInt
    credit: SumText
    credit_nano: NanoInt
    overage_nano: NanoInt
    carried: SumText
    carried_nano: NanoInt
    due: SumText
    due_nano: NanoInt
    due_minor: MinorInt
    charged_nano: NanoInt
    credited_nano: NanoInt
    findings: list[FindingAnswer]
    closed_at: Instant | None
    voided_at: Instant | None

    @classmethod
    def fields_of(cls, invoice: Invoice) -> dict[str, Any]:
        """From the record."""
        return {
            "id": invoice.invoice_id or None,
            "number": invoice.number_text,
            "customer_id": invoice.customer_id,
            "currency": invoice.currency,
            "sequence": invoice.sequence,
            "period_start": invoice.period.start,
            "period_end": invoice.period.end,
            "state": invoice.state,
            "provider": invoice.provider,
            "total": format_amount(invoice.total_nano),
            "total_nano": invoice.total_nano,
            "credit": format_amount(invoice.credit_nano),
            "credit_nano": invoice.credit_nano,
            "overage_nano": invoice.overage_nano,
            "carried": format_amount(invoice.carried_nano),
            "carried_nano": invoice.carried_nano,
            "due": format_amount(invoice.due_nano),
            "due_nano": invoice.due_nano,
            "due_minor": invoice.due_minor,
            "charged_nano": invoice.charged_nano,
            "credited_nano": invoice.credited_nano,
            "findings": [FindingAnswer.of(one) for one in invoice.findings],
            "closed_at": invoice.closed_at,
            "voided_at": invoice.voided_at,
        }


class InvoicePage(ResponseModel):
    """A page of invoices, that which ended last first."""

    items: list[InvoiceAnswer]
    next: str | None


class WholeInvoiceAnswer(InvoiceAnswer):
    """
    An invoice with its lines.

    Of a preview `unknown_versions` are prices nobody knows, `unknown_plans` are in no policy.
    """

    lines: list[InvoiceLineAnswer]
    unknown_versions: list[str]
    unknown_plans: list[str]

    @classmethod
    def of(
        cls, invoice: Invoice, versions: Sequence[str] = (), plans: Sequence[str] = ()
    ) -> "WholeInvoiceAnswer":
        """From the record."""
        lines = [InvoiceLineAnswer.of(line) for line in invoice.lines]
        fields = cls.fields_of(invoice)
        return cls(
            **fields, lines=lines, unknown_versions=list(versions), unknown_plans=list(plans)
        )


class ClosingAnswer(ResponseModel):
    """The period that the settlement role closes next."""

    customer_id: str
    period_start: Instant
    period_end: Instant


class AnchorAnswer(ResponseModel):
    """When periods begin, and the one that runs."""

    customer_id: str
    anchor: Instant | None
    period_start: Instant
    period_end: Instant


class CreditNoteAnswer(ResponseModel):
    """A credit note; it is posted to the ledger by the settlement role."""

    id: str
    customer_id: str
    invoice_id: str
    void: bool
    currency: str
    amount: SumText
    amount_nano: NanoInt
    amount_minor: MinorInt
    reason: str
    created_at: Instant | None
    posted_at: Instant | None

    @classmethod
    def of(cls, note: CreditNote) -> "CreditNoteAnswer":
        """From the record."""
        return cls(
            id=note.credit_note_id,
            customer_id=note.customer_id,
            invoice_id=note.invoice_id,
            void=note.void,
            currency=note.currency,
            amount=format_amount(note.amount_nano),
            amount_nano=note.amount_nano,
            amount_minor=note.amount_minor,
            reason=note.reason,
            created_at=note.created_at,
            posted_at=note.posted_at,
        )


class CreditNoteList(ResponseModel):
    """The oldest first; `more` says that there are others."""

    items: list[CreditNoteAnswer]
    more: bool


class LineEventAnswer(ResponseModel):
    """
    A usage event's part of a line.

    `owed_nano` is what of it credit left to the invoice; null where the plan does not split.
    """

    hold_id: str
    kind: str
    meter: str
    model: str
    quantity: int
    amount_nano: NanoInt
    owed_nano: NanoInt | None
    occurred_at: Instant
    transaction_id: str

    @classmethod
    def of(cls, event: LineEvent) -> "LineEventAnswer":
        """From the record."""
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class LineEventPage(ResponseModel):
    """A page of a line's events, by hold."""

    items: list[LineEventAnswer]
    next: str | None


class TracedLineAnswer(ResponseModel):
    """
    One meter of one event: its ledger transaction and link, its report, its invoice line.

    `line_number` is null where it is on no line: not invoiced yet, written off, or without price.
    """

    customer_id: str
    hold_id: str
    kind: str
    meter: str
    model: str
    plan: str
    price_version: str
    quantity: int
    amount_nano: NanoInt
    owed_nano: NanoInt | None
    currency: str
    prepaid: bool
    late: bool
    occurred_at: Instant
    posted_at: Instant
    transaction_id: str
    chain: int | None
    chain_seq: int | None
    report_identifier: str | None
    report_state: str | None
    invoice_id: str | None
    invoice_state: InvoiceState | None
    number: int | None
    line_number: int | None
    write_off_id: str | None

    @classmethod
    def of(cls, line: TracedLine) -> "TracedLineAnswer":
        """From the record."""
        return cls(**{name: getattr(line, name) for name in cls.model_fields})


class TraceAnswer(ResponseModel):
    """All that is settled of a hold."""

    hold_id: str
    lines: list[TracedLineAnswer]
