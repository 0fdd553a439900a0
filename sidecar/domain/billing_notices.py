"""Notices about bills and payments: one for each invoice, failed attempt and dispute."""

import json
from datetime import datetime

from sidecar.domain.invoices import Invoice
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.notices import Notice, NoticeKind


def invoice_closed(invoice: Invoice) -> Notice:
    """An invoice of ours got its number; amounts are what it says, before any credit note."""
    assert invoice.closed_at is not None
    assert invoice.number_text is not None
    return Notice(
        kind=NoticeKind.INVOICE_CLOSED,
        customer_id=invoice.customer_id,
        fact_key=_key(invoice.invoice_id),
        occurred_at=invoice.closed_at,
        facts={
            "invoice": invoice.invoice_id,
            "number": invoice.number_text,
            "currency": invoice.currency,
            "period_start": invoice.period.start.isoformat(),
            "period_end": invoice.period.end.isoformat(),
        },
        amounts={"total": _bounded(invoice.total_nano), "due": _bounded(invoice.due_nano)},
    )


def payment_failed(
    *,
    customer_id: str,
    provider: str,
    invoice_id: str,
    attempt: int,
    currency: str,
    due_nano: int | None,
    at: datetime,
) -> Notice:
    """
    An attempt at an invoice failed; each attempt that a provider counts is one notice.

    Args:
        customer_id, provider, invoice_id: Whose invoice, as its provider names it.
        attempt: Counts from 1.
        currency, due_nano: What is left to pay; None where it is not known in this currency.
        at: When it was seen.
    """
    return Notice(
        kind=NoticeKind.PAYMENT_FAILED,
        customer_id=customer_id,
        fact_key=_key(provider, invoice_id, attempt),
        occurred_at=at,
        facts={
            "provider": provider,
            "invoice": invoice_id,
            "currency": currency,
            "attempt": str(attempt),
        },
        amounts={} if due_nano is None else {"due": _bounded(due_nano)},
    )


def dispute_opened(
    *,
    customer_id: str,
    provider: str,
    dispute_id: str,
    payment_id: str,
    invoice_id: str,
    currency: str,
    at: datetime,
) -> Notice:
    """A bank took a payment's money back; `invoice_id` is empty where it paid none."""
    facts = {
        "provider": provider,
        "dispute": dispute_id,
        "payment": payment_id,
        "currency": currency,
    }
    if invoice_id:
        facts["invoice"] = invoice_id
    return Notice(
        kind=NoticeKind.DISPUTE_OPENED,
        customer_id=customer_id,
        fact_key=_key(provider, dispute_id),
        occurred_at=at,
        facts=facts,
    )


def _key(*parts: str | int) -> str:
    """Parts as one text that says where each ends."""
    return json.dumps(parts, separators=(",", ":"))


def _bounded(nano: int) -> int:
    return max(-AMOUNT_NANO_MAX, min(AMOUNT_NANO_MAX, nano))
