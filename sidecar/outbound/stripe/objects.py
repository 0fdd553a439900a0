"""
Reads of Stripe's objects: the port `ProviderObjects`.

Objects become plain dictionaries at once, and of those only what is checked here goes on: an answer
without the fields that it must have counts as no answer.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sidecar.domain.catalog import PLAN_KEY
from sidecar.domain.errors import ProviderRefused, StoreUnavailable
from sidecar.domain.minor_units import STRIPE
from sidecar.domain.payment_postings import part_of
from sidecar.domain.periods import Period, from_epoch_ms, to_epoch_ms
from sidecar.domain.standing import InvoiceState
from sidecar.outbound.stripe.client import StripeConnection, translate_stripe
from sidecar.services.inbox_ports import ObjectKind
from sidecar.services.provider_objects import (
    FetchedDispute,
    FetchedInvoice,
    FetchedPayment,
    FetchedRefund,
    FetchedSubscription,
    MeterError,
    ObjectPage,
)
from sidecar.services.stripe_events import NEEDED_EVENTS, read_event

PAGE_MAX: Final = 100
LIST_PAGES_MAX: Final = 2
"""Pages of refunds or disputes of one payment; more are no answer, and people are asked."""
_INVOICE_READS: Final = 2
_PAYMENT_READS: Final = 4 + 2 * LIST_PAGES_MAX
METER_ERRORS_MAX: Final = 1_000
_MS_PER_SECOND: Final = 1_000
_NOT_FOUND: Final = 404
_DETAIL_CHARS_MAX: Final = 300
_WON: Final = "won"
_CYCLE: Final = "subscription_cycle"
_NOT_TAKEN: Final = frozenset(
    {_WON, "prevented", "warning_closed", "warning_needs_response", "warning_under_review"}
)
"""Disputes of which no money is held; whatever Stripe may call one tomorrow counts as taken."""

Thing = Mapping[str, Any]


class StripeObjects:
    """Implements ProviderObjects; a few reads an object, none repeated here."""

    provider = STRIPE
    # A payment asks for its invoice, and a paid invoice for credit asks for its payment.
    costs: Mapping[ObjectKind, int] = {
        ObjectKind.INVOICE: _INVOICE_READS + _PAYMENT_READS,
        ObjectKind.PAYMENT: _PAYMENT_READS + _INVOICE_READS,
    }

    def __init__(self, connection: StripeConnection) -> None:
        """Wire it; the connection is closed by whoever made it."""
        self._client = connection.client
        self.livemode = connection.livemode

    async def fetch_invoice(self, invoice_id: str) -> FetchedInvoice | None:
        """One invoice; of a paid one also what paid it."""
        found = await _one(self._client.v1.invoices.retrieve_async(invoice_id))
        if found is None:
            return None
        invoice = _invoice(found)
        if invoice.state is not InvoiceState.PAID:
            return invoice
        params: Any = {"invoice": invoice_id, "status": "paid", "limit": PAGE_MAX}
        links = await _page(self._client.v1.invoice_payments.list_async(params))
        items = _items(links)
        inside = sum(_number(one, "amount_paid") for one in items if _intent_of(one))
        return replace(
            invoice,
            payment_id=_payment_of(items),
            outside_minor=max(0, invoice.amount_paid_minor - inside),
        )

    async def fetch_subscription(self, subscription_id: str) -> FetchedSubscription | None:
        """One subscription."""
        found = await _one(self._client.v1.subscriptions.retrieve_async(subscription_id))
        return None if found is None else _subscription(found)

    async def fetch_payment(self, payment_id: str) -> FetchedPayment | None:
        """One payment intent, with its session, its invoice, its refunds and its disputes."""
        v1 = self._client.v1
        intent = await _one(v1.payment_intents.retrieve_async(payment_id))
        if intent is None:
            return None
        sessions = await _page(
            v1.checkout.sessions.list_async({"payment_intent": payment_id, "limit": 1})
        )
        links = await _page(
            v1.invoice_payments.list_async(
                {
                    "payment": {"type": "payment_intent", "payment_intent": payment_id},
                    "limit": 1,
                }
            )
        )
        invoice_id = _id_of(_first(links).get("invoice"))
        invoice = await _one(v1.invoices.retrieve_async(invoice_id)) if invoice_id else None
        refunds: list[Thing] = []
        disputes: list[Thing] = []
        if intent.get("latest_charge"):
            refunds = await self._all(v1.refunds.list_async, payment_id)
            disputes = await self._all(v1.disputes.list_async, payment_id)
        invoice = invoice or {"id": invoice_id}
        return _payment(intent, _first(sessions), invoice, refunds, disputes)

    async def fetch_meter_errors(self, event_id: str) -> Sequence[MeterError] | None:
        """What a report of errors names: samples, of each kind a few."""
        found = await _one(self._client.v2.core.events.retrieve_async(event_id))
        return None if found is None else _meter_errors(found)

    async def list_open_invoices(self, cursor: str | None) -> ObjectPage:
        """A page of the invoices that are open now."""
        # Any, because the SDK's own types of parameters know no key that is set later.
        params: Any = {"status": "open", "limit": PAGE_MAX}
        if cursor is not None:
            params["starting_after"] = cursor
        found = await _page(self._client.v1.invoices.list_async(params))
        return ObjectPage(
            invoices=tuple(_invoice(item) for item in _items(found)), next_cursor=_cursor(found)
        )

    async def list_events(self, cursor: str | None, *, since: datetime) -> ObjectPage:
        """A page of the events since an instant, the newest first."""
        params: Any = {
            "created": {"gte": to_epoch_ms(since) // _MS_PER_SECOND},
            "types": list(NEEDED_EVENTS),
            "limit": PAGE_MAX,
        }
        if cursor is not None:
            params["starting_after"] = cursor
        found = await _page(self._client.v1.events.list_async(params))
        events = (read_event(item) for item in _items(found))
        return ObjectPage(
            events=tuple(event for event in events if event is not None),
            next_cursor=_cursor(found),
        )

    async def _all(self, listing: Any, payment_id: str) -> list[Thing]:
        """All of a payment's refunds or disputes."""
        items: list[Thing] = []
        cursor: str | None = None
        for _ in range(LIST_PAGES_MAX):
            params: dict[str, Any] = {"payment_intent": payment_id, "limit": PAGE_MAX}
            if cursor is not None:
                params["starting_after"] = cursor
            found = await _page(listing(params))
            items += _items(found)
            cursor = _cursor(found)
            if cursor is None:
                return items
        raise StoreUnavailable("Stripe: a payment has more refunds or disputes than are read")


async def _one(call: Awaitable[Any]) -> Thing | None:
    """An object as a dictionary; None for one that is not there, or is deleted."""
    try:
        async with translate_stripe():
            found: Thing = (await call).to_dict()
    except ProviderRefused as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    return None if found.get("deleted") else found


async def _page(call: Awaitable[Any]) -> Thing:
    async with translate_stripe():
        found: Thing = (await call).to_dict()
    return found


def _items(page: Thing) -> list[Thing]:
    items = page.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _unreadable("data")
    return items


def _first(page: Thing) -> Thing:
    return next(iter(_items(page)), {})


def _cursor(page: Thing) -> str | None:
    items = _items(page)
    return _text(items[-1], "id") if page.get("has_more") and items else None


def _invoice(found: Thing) -> FetchedInvoice:
    try:
        state = InvoiceState(found.get("status") or "draft")
    except ValueError:
        raise _unreadable("status") from None
    attempts = _number(found, "attempt_count")
    return FetchedInvoice(
        invoice_id=_text(found, "id"),
        provider_customer_id=_id_of(found.get("customer")),
        state=state,
        currency=_currency(found),
        amount_due_minor=_number(found, "amount_remaining"),
        amount_paid_minor=_number(found, "amount_paid"),
        due_at=_due_at(found, attempts),
        attempts=attempts,
        livemode=_flag(found, "livemode"),
        metadata=_metadata(found),
        cycle=_cycle(found),
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


def _payment_of(links: list[Thing]) -> str:
    """The payment intent that paid an invoice, the default one first; "" for none."""
    for item in sorted(links, key=lambda one: not one.get("is_default")):
        if name := _intent_of(item):
            return name
    return ""


def _intent_of(link: Thing) -> str:
    """The payment intent of what links it to an invoice; "" for another way to pay."""
    return _id_of((link.get("payment") or {}).get("payment_intent"))


def _subscription(found: Thing) -> FetchedSubscription:
    items = (found.get("items") or {}).get("data") or []
    return FetchedSubscription(
        subscription_id=_text(found, "id"),
        provider_customer_id=_id_of(found.get("customer")),
        status=_text(found, "status"),
        prices=tuple(dict.fromkeys(_price_names(items))),
        plans=tuple(dict.fromkeys(_price_plans(items))),
        livemode=_flag(found, "livemode"),
    )


def _price_names(items: Iterable[Any]) -> Iterable[str]:
    for item in items:
        price = (item.get("price") or {}) if isinstance(item, dict) else {}
        for name in (price.get("id"), price.get("lookup_key"), _id_of(price.get("product"))):
            if isinstance(name, str) and name:
                yield name


def _price_plans(items: Iterable[Any]) -> Iterable[str]:
    for item in items:
        price = (item.get("price") or {}) if isinstance(item, dict) else {}
        plan = (price.get("metadata") or {}).get(PLAN_KEY)
        if isinstance(plan, str) and plan:
            yield plan


def _payment(
    intent: Thing, session: Thing, invoice: Thing, refunds: list[Thing], disputes: list[Thing]
) -> FetchedPayment:
    received = _number(intent, "amount_received")
    customer = intent.get("customer") or session.get("customer") or invoice.get("customer")
    return FetchedPayment(
        payment_id=_text(intent, "id"),
        provider_customer_id=_id_of(customer),
        invoice_id=_id_of(invoice) or _id_of(session.get("invoice")),
        currency=_currency(intent),
        paid=intent.get("status") == "succeeded",
        amount_minor=received,
        credit_minor=_without_tax(received, session, invoice),
        livemode=_flag(intent, "livemode"),
        metadata=_metadata(invoice) | _metadata(intent) | _metadata(session),
        refunds=tuple(
            FetchedRefund(
                refund_id=_text(one, "id"),
                amount_minor=_number(one, "amount"),
                status=str(one.get("status") or "pending"),
            )
            for one in refunds
        ),
        disputes=tuple(
            FetchedDispute(
                dispute_id=_text(one, "id"),
                amount_minor=_number(one, "amount"),
                status=_text(one, "status"),
                taken=_text(one, "status") not in _NOT_TAKEN,
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


def _meter_errors(found: Thing) -> list[MeterError]:
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


def _text(found: Thing, field: str) -> str:
    value = found.get(field)
    if not isinstance(value, str) or not value:
        raise _unreadable(field)
    return value


def _number(found: Thing, field: str) -> int:
    value = found.get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unreadable(field)
    return value


def _or_zero(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _flag(found: Thing, field: str) -> bool:
    value = found.get(field)
    if not isinstance(value, bool):
        raise _unreadable(field)
    return value


def _currency(found: Thing) -> str:
    return _text(found, "currency").upper()


def _id_of(value: Any) -> str:
    """The id of an object that may be expanded; "" for none."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) else ""


def _metadata(found: Thing) -> dict[str, str]:
    metadata = found.get("metadata") or {}
    return {str(name): str(value) for name, value in metadata.items()}


def _unreadable(field: str) -> StoreUnavailable:
    """As a body that is not JSON: asked again, and after some tries shown to people."""
    return StoreUnavailable(f"Stripe: an answer has no usable {field}")
