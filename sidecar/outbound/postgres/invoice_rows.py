"""Rows of invoices as what they are about, and back: pure functions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from sidecar.domain.invoices import (
    Finding,
    FindingKind,
    Invoice,
    InvoiceLine,
    InvoiceState,
    UsagePart,
    provider_of,
)
from sidecar.domain.minor_units import STRIPE, WEBHOOK, Rounding
from sidecar.domain.periods import Period
from sidecar.services.invoicing_ports import (
    Closing,
    CreditNote,
    CreditNoteLine,
    Cursor,
    Draft,
)


def cursor_of(row: asyncpg.Record | Mapping[str, Any]) -> Cursor:
    """A customer's place; who is known to Stripe is invoiced in its minor units."""
    provider = STRIPE if row["at_stripe"] else WEBHOOK
    return Cursor(
        customer_id=row["customer_id"],
        currency=row["currency"],
        plan=row["plan"],
        provider=provider_of(row["currency"], provider),
        anchor=row["anchor"],
        closed_until=row["closed_until"],
        period_end=row["period_end"],
    )


def draft_of(row: asyncpg.Record) -> Draft:
    """A draft to be closed."""
    return Draft(
        invoice_id=row["invoice_id"],
        customer_id=row["customer_id"],
        currency=row["currency"],
        plan=row["plan"],
        provider=row["provider"],
        sequence=row["sequence"],
        period=Period(start=row["period_start"], end=row["period_end"]),
    )


def part_of(row: asyncpg.Record) -> UsagePart:
    """Usage that was added up."""
    return UsagePart(
        late=row["late"],
        month=row["month"],
        price_version=row["price_version"],
        meter=row["meter"],
        model=row["model"],
        prepaid=row["prepaid"],
        events=row["events"],
        corrections=row["corrections"],
        quantity=int(row["quantity"]),
        amount_nano=row["amount_nano"],
        owed_nano=row["owed_nano"] if row["prepaid"] else 0,
    )


def invoice_of(row: asyncpg.Record, lines: Sequence[asyncpg.Record] = ()) -> Invoice:
    """An invoice, with its lines if they were read."""
    return Invoice(
        invoice_id=row["invoice_id"],
        customer_id=row["customer_id"],
        currency=row["currency"],
        sequence=row["sequence"],
        period=Period(start=row["period_start"], end=row["period_end"]),
        state=InvoiceState(row["state"]),
        provider=row["provider"],
        number=row["number"],
        total_nano=row["total_nano"],
        credit_nano=row["credit_nano"],
        overage_nano=row["overage_nano"],
        carried_nano=row["carried_nano"],
        carried_minor=row["carried_minor"],
        due_nano=row["due_nano"],
        due_minor=row["due_minor"],
        charged_nano=row["charged_nano"],
        credited_nano=row["credited_nano"],
        findings=tuple(
            Finding(kind=FindingKind(one["kind"]), **{k: one[k] for k in one if k != "kind"})
            for one in json.loads(row["findings"])
        ),
        cut_at=row["cut_at"],
        closed_at=row["closed_at"],
        voided_at=row["voided_at"],
        lines=tuple(_line_of(line) for line in lines),
    )


def _line_of(row: asyncpg.Record) -> InvoiceLine:
    return InvoiceLine(
        number=row["line_number"],
        meter=row["meter"],
        models=tuple(row["models"]),
        plan=row["plan"],
        price_version=row["price_version"],
        price=json.loads(row["price"]),
        period=Period(start=row["period_start"], end=row["period_end"]),
        events=row["events"],
        quantity=int(row["quantity"]),
        amount_nano=row["amount_nano"],
        credit_nano=row["credit_nano"],
        amount_minor=row["amount_minor"],
        due_minor=row["due_minor"],
        rounding=Rounding(row["rounding"]),
        charge=row["charge"],
        late=row["late"],
    )


def findings_text(findings: Sequence[Finding]) -> str:
    """As the row keeps them."""
    return json.dumps(
        [
            {
                "kind": one.kind.value,
                "line_number": one.line_number,
                "captured_nano": one.captured_nano,
                "expected_nano": one.expected_nano,
            }
            for one in findings
        ]
    )


def line_rows(closing: Closing) -> list[tuple[Any, ...]]:
    """Rows of `invoice_lines`, in the order of `insert_invoice_lines`."""
    draft = closing.draft
    return [
        (
            draft.customer_id,
            draft.invoice_id,
            line.number,
            line.meter,
            json.dumps(list(line.models)),
            line.plan,
            line.price_version,
            json.dumps(dict(line.price)),
            line.rounding.value,
            line.charge,
            line.late,
            line.period.start,
            line.period.end,
            line.events,
            line.quantity,
            line.amount_nano,
            line.credit_nano,
            line.amount_minor,
            line.due_minor,
        )
        for line in closing.content.lines
    ]


def part_rows(closing: Closing) -> list[tuple[Any, ...]]:
    """Rows of `invoice_parts`, in the order of `insert_invoice_parts`."""
    draft = closing.draft
    return [
        (
            draft.customer_id,
            draft.invoice_id,
            number,
            part.late,
            part.month,
            part.price_version,
            part.meter,
            part.model,
            part.prepaid,
            part.events,
            part.quantity,
            part.amount_nano,
        )
        for number, part in closing.content.parts
    ]


def credit_note_of(row: asyncpg.Record) -> CreditNote:
    """A credit note."""
    lines: list[Mapping[str, int]] = json.loads(row["lines"])
    return CreditNote(
        credit_note_id=row["credit_note_id"],
        customer_id=row["customer_id"],
        invoice_id=row["invoice_id"],
        amount_nano=row["amount_nano"],
        amount_minor=row["amount_minor"],
        reason=row["reason"],
        void=row["void"],
        currency=row["currency"],
        lines=tuple(
            CreditNoteLine(line_number=one["line_number"], amount_nano=one["amount_nano"])
            for one in lines
        ),
        created_at=row["created_at"],
        posted_at=row["posted_at"],
    )
