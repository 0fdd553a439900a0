"""
Reads of Stripe's objects: the port `ProviderObjects`.

Objects become plain dictionaries at once, and of those only what `object_reading` has checked goes
on.
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sidecar.domain.errors import ProviderRefused, StoreUnavailable
from sidecar.domain.minor_units import STRIPE
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.standing import InvoiceState
from sidecar.outbound.stripe.client import StripeConnection, translate_stripe
from sidecar.outbound.stripe.object_reading import (
    Thing,
    id_of,
    intent_of,
    number_of,
    payment_of,
    read_invoice,
    read_meter_errors,
    read_payment,
    read_subscription,
    text_of,
    unreadable,
)
from sidecar.services.inbox_ports import ObjectKind
from sidecar.services.provider_objects import (
    FetchedInvoice,
    FetchedPayment,
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
_MS_PER_SECOND: Final = 1_000
_NOT_FOUND: Final = 404


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
        invoice = read_invoice(found)
        if invoice.state is not InvoiceState.PAID:
            return invoice
        params: Any = {"invoice": invoice_id, "status": "paid", "limit": PAGE_MAX}
        links = await _page(self._client.v1.invoice_payments.list_async(params))
        items = _items(links)
        inside = sum(number_of(one, "amount_paid") for one in items if intent_of(one))
        return replace(
            invoice,
            payment_id=payment_of(items),
            outside_minor=max(0, invoice.amount_paid_minor - inside),
        )

    async def fetch_subscription(self, subscription_id: str) -> FetchedSubscription | None:
        """One subscription."""
        found = await _one(self._client.v1.subscriptions.retrieve_async(subscription_id))
        return None if found is None else read_subscription(found)

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
        invoice_id = id_of(_first(links).get("invoice"))
        invoice = await _one(v1.invoices.retrieve_async(invoice_id)) if invoice_id else None
        refunds: list[Thing] = []
        disputes: list[Thing] = []
        if intent.get("latest_charge"):
            refunds = await self._all(v1.refunds.list_async, payment_id)
            disputes = await self._all(v1.disputes.list_async, payment_id)
        invoice = invoice or {"id": invoice_id}
        return read_payment(intent, _first(sessions), invoice, refunds, disputes)

    async def fetch_meter_errors(self, event_id: str) -> Sequence[MeterError] | None:
        """What a report of errors names: samples, of each kind a few."""
        found = await _one(self._client.v2.core.events.retrieve_async(event_id))
        return None if found is None else read_meter_errors(found)

    async def list_open_invoices(self, cursor: str | None) -> ObjectPage:
        """A page of the invoices that are open now."""
        # Any, because the SDK's own types of parameters know no key that is set later.
        params: Any = {"status": "open", "limit": PAGE_MAX}
        if cursor is not None:
            params["starting_after"] = cursor
        found = await _page(self._client.v1.invoices.list_async(params))
        return ObjectPage(
            invoices=tuple(read_invoice(item) for item in _items(found)), next_cursor=_cursor(found)
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
        raise unreadable("data")
    return items


def _first(page: Thing) -> Thing:
    return next(iter(_items(page)), {})


def _cursor(page: Thing) -> str | None:
    items = _items(page)
    return text_of(items[-1], "id") if page.get("has_more") and items else None
