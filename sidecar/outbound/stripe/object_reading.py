"""
Stripe's objects, as plain dictionaries, in our words: pure functions.

Only what is checked here goes on: an answer without the fields that it must have counts as no
answer.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from sidecar.domain.catalog import PLAN_KEY
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.payment_postings import part_of
from sidecar.domain.periods import Period, from_epoch_ms
from sidecar.domain.standing import InvoiceState
from sidecar.outbound.stripe.collector import COLLECTED_KEY
from sidecar.services.provider_objects import (
    FetchedDispute,
    FetchedInvoice,
    FetchedPayment,
    FetchedRefund,
    FetchedSubscription,
    MeterError,
)

METER_ERRORS_MAX: Final = 1_000
_MS_PER_SECOND: Final = 1_000
_DETAIL_CHARS_MAX: Final = 300
_WON: Final = "won"
_CYCLE: Final = "subscription_cycle"
_NOT_TAKEN: Final = frozenset(
    {_WON, "prevented", "warning_closed", "warning_needs_response", "warning_under_review"}
)
"""Disputes of which no money is held; whatever Stripe may call one tomorrow counts as taken."""

Thing = Mapping[str, Any]


def read_invoice(found: Thing) -> FetchedInvoice:
    """An invoice; what paid it is told apart. Raises StoreUnavailable."""
    try:
        state = InvoiceState(found.get("status") or "draft")
    except ValueError:
        raise unreadable("status") from None
    attempts = number_of(found, "attempt_count")
    return FetchedInvoice(
        invoice_id=text_of(found, "id"),
        provider_customer_id=id_of(found.get("customer")),
        state=state,
        currency=_currency(found),
        amount_due_minor=number_of(found, "amount_remaining"),
        amount_paid_minor=number_of(found, "amount_paid"),
        due_at=_due_at(found, attempts),
        attempts=attempts,
        livemode=_flag(found, "livemode"),
        metadata=_metadata(found),
        cycle=_cycle(found),
        subscribed=_subscribed(found),
        collected=COLLECTED_KEY in _metadata(found),
        total_minor=_or_zero(found.get("total")),
        net_minor=_or_zero(found.get("total_excluding_tax", found.get("total"))),
    )


def _due_at(found: Thing, attempts: int) -> datetime | None:
    """
    Since when the money is missing.

    An invoice that is charged by itself has no due date: it is due from its finalization on, once
    a charge has failed. Before the first attempt nobody owes anything.
    """
    due = found.get("due_date")
    if isinstance(due, int):
        return from_epoch_ms(due * _MS_PER_SECOND)
    transitions = found.get("status_transitions") or {}
    finalized = transitions.get("finalized_at") or found.get("effective_at")
    if attempts > 0 and isinstance(finalized, int):
        return from_epoch_ms(finalized * _MS_PER_SECOND)
    return None


def _subscribed(invoice: Thing) -> bool:
    return str(invoice.get("billing_reason") or "").startswith("subscription")


def _cycle(found: Thing) -> Period | None:
    """The usage period of a subscription's regular invoice."""
    start, end = found.get("period_start"), found.get("period_end")
    if found.get("billing_reason") != _CYCLE:
        return None
    if not (isinstance(start, int) and isinstance(end, int) and start < end):
        return None
    return Period(
        start=from_epoch_ms(start * _MS_PER_SECOND), end=from_epoch_ms(end * _MS_PER_SECOND)
    )


def payment_of(links: list[Thing]) -> str:
    """The payment intent that paid an invoice, the default one first; "" for none."""
    for item in sorted(links, key=lambda one: not one.get("is_default")):
        if name := intent_of(item):
            return name
    return ""


def intent_of(link: Thing) -> str:
    """The payment intent of what links it to an invoice; "" for another way to pay."""
    return id_of((link.get("payment") or {}).get("payment_intent"))


def read_subscription(found: Thing) -> FetchedSubscription:
    """A subscription. Raises StoreUnavailable."""
    items = (found.get("items") or {}).get("data") or []
    return FetchedSubscription(
        subscription_id=text_of(found, "id"),
        provider_customer_id=id_of(found.get("customer")),
        status=text_of(found, "status"),
        prices=tuple(dict.fromkeys(_price_names(items))),
        plans=tuple(dict.fromkeys(_price_plans(items))),
        currency=str(found.get("currency") or "").upper(),
        livemode=_flag(found, "livemode"),
    )


def _price_names(items: Iterable[Any]) -> Iterable[str]:
    for item in items:
        price = (item.get("price") or {}) if isinstance(item, dict) else {}
        for name in (price.get("id"), price.get("lookup_key"), id_of(price.get("product"))):
            if isinstance(name, str) and name:
                yield name


def _price_plans(items: Iterable[Any]) -> Iterable[str]:
    for item in items:
        price = (item.get("price") or {}) if isinstance(item, dict) else {}
        plan = (price.get("metadata") or {}).get(PLAN_KEY)
        if isinstance(plan, str) and plan:
            yield plan


def read_payment(
    intent: Thing, session: Thing, invoice: Thing, refunds: list[Thing], disputes: list[Thing]
) -> FetchedPayment:
    """A payment intent with what hangs on it. Raises StoreUnavailable."""
    received = number_of(intent, "amount_received")
    customer = intent.get("customer") or session.get("customer") or invoice.get("customer")
    return FetchedPayment(
        payment_id=text_of(intent, "id"),
        provider_customer_id=id_of(customer),
        invoice_id=id_of(invoice) or id_of(session.get("invoice")),
        currency=_currency(intent),
        paid=intent.get("status") == "succeeded",
        amount_minor=received,
        credit_minor=_without_tax(received, session, invoice),
        livemode=_flag(intent, "livemode"),
        metadata=_metadata(invoice) | _metadata(intent) | _metadata(session),
        for_usage=_subscribed(invoice) or COLLECTED_KEY in _metadata(invoice),
        refunds=tuple(
            FetchedRefund(
                refund_id=text_of(one, "id"),
                amount_minor=number_of(one, "amount"),
                status=str(one.get("status") or "pending"),
            )
            for one in refunds
        ),
        disputes=tuple(
            FetchedDispute(
                dispute_id=text_of(one, "id"),
                amount_minor=number_of(one, "amount"),
                status=text_of(one, "status"),
                taken=text_of(one, "status") not in _NOT_TAKEN,
                won=one.get("status") == _WON,
            )
            for one in disputes
        ),
    )


def _without_tax(received: int, session: Thing, invoice: Thing) -> int:
    """What a payment bought: tax goes to the state."""
    tax = (session.get("total_details") or {}).get("amount_tax")
    if isinstance(tax, int):
        return received - tax
    total, net = invoice.get("total"), invoice.get("total_excluding_tax")
    if isinstance(total, int) and isinstance(net, int):
        return part_of(received, net, total)  # A payment may be for a part of an invoice.
    return received


def read_meter_errors(found: Thing) -> list[MeterError]:
    """What a report of rejected meter events names."""
    reason = (found.get("data") or {}).get("reason") or {}
    errors = []
    for kind in reason.get("error_types") or []:
        for sample in kind.get("sample_errors") or []:
            identifier = (sample.get("request") or {}).get("identifier")
            if isinstance(identifier, str) and identifier:
                errors.append(
                    MeterError(
                        identifier=identifier,
                        code=str(kind.get("code") or "")[:_DETAIL_CHARS_MAX],
                        detail=str(sample.get("error_message") or "")[:_DETAIL_CHARS_MAX],
                    )
                )
    return errors[:METER_ERRORS_MAX]


def text_of(found: Thing, field: str) -> str:
    """A text that must be there. Raises StoreUnavailable."""
    value = found.get(field)
    if not isinstance(value, str) or not value:
        raise unreadable(field)
    return value


def number_of(found: Thing, field: str) -> int:
    """A whole number that must be there. Raises StoreUnavailable."""
    value = found.get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise unreadable(field)
    return value


def _or_zero(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _flag(found: Thing, field: str) -> bool:
    value = found.get(field)
    if not isinstance(value, bool):
        raise unreadable(field)
    return value


def _currency(found: Thing) -> str:
    return text_of(found, "currency").upper()


def id_of(value: Any) -> str:
    """The id of an object that may be expanded; "" for none."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) else ""


def _metadata(found: Thing) -> dict[str, str]:
    metadata = found.get("metadata") or {}
    return {str(name): str(value) for name, value in metadata.items()}


def unreadable(field: str) -> StoreUnavailable:
    """As a body that is not JSON: asked again, and after some tries shown to people."""
    return StoreUnavailable(f"Stripe: an answer has no usable {field}")
