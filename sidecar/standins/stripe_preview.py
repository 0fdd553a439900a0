"""Invoice previews: a period's events, priced. Nothing is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, not_modelled, refuse_unmodelled
from sidecar.standins.stripe_events import MeterEvents
from sidecar.standins.stripe_meters import Meters
from sidecar.standins.stripe_periods import add_interval
from sidecar.standins.stripe_prices import cost_of, rounded
from sidecar.standins.stripe_settings import epoch_seconds

_TOP = frozenset({"customer", "currency", "subscription_details"})
_DETAILS = frozenset({"items", "start_date"})
_ITEM = frozenset({"price"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """
    One metered price of a preview.

    Attributes:
        price_id: The price.
        event_name: Of the price's meter.
        quantity: What the meter says for the period.
        exact: Cost in minor units before rounding.
        amount: Cost in minor units.
    """

    price_id: str
    event_name: str
    quantity: Decimal
    exact: Decimal
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePreview:
    """What an invoice over [start, end) would say now; amounts in minor units."""

    customer: str
    currency: str
    start: datetime
    end: datetime
    lines: tuple[InvoiceLine, ...]

    @property
    def total(self) -> int:
        """Sum of the rounded lines."""
        return sum(line.amount for line in self.lines)


class Previews:
    """Prices a customer's events."""

    def __init__(
        self, customers: Customers, catalog: Catalog, meters: Meters, events: MeterEvents
    ) -> None:
        self._customers = customers
        self._catalog = catalog
        self._meters = meters
        self._events = events

    def preview(
        self, customer: str, price_ids: list[str], *, start: datetime, end: datetime
    ) -> InvoicePreview:
        """
        Price the events of [start, end) that count by now; summaries lag, this does not.

        Raises:
            ApiError: For an unknown customer or price, none, mixed currencies, or a price
                without a meter.
        """
        self._customers.get(customer, param="customer")
        lines = []
        currencies = set()
        for price_id in price_ids:
            price = self._catalog.find_price(price_id, param="price")
            meter_id = (price["recurring"] or {}).get("meter")
            if meter_id is None:
                raise not_modelled("an invoice preview of a price without a meter")
            meter = self._meters.get(meter_id)
            first, last = epoch_seconds(start), epoch_seconds(end)
            quantity = self._events.aggregate(meter, customer, first, last, received_by=None)
            exact = cost_of(price, quantity)
            currencies.add(price["currency"])
            lines.append(
                InvoiceLine(
                    price_id=price_id,
                    event_name=meter.event_name,
                    quantity=quantity,
                    exact=exact,
                    amount=rounded(exact),
                )
            )
        if len(currencies) != 1:
            raise ApiError(400, "A preview needs prices of one currency.", param="currency")
        return InvoicePreview(
            customer=customer, currency=currencies.pop(), start=start, end=end, lines=tuple(lines)
        )

    def create(self, params: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        """
        POST /v1/invoices/create_preview for a customer and subscription_details[items].

        The period is one interval of the first price from start_date on; without start_date the
        calendar month of the clock, UTC.
        """
        refuse_unmodelled(params, _TOP)
        details = params.get("subscription_details", {})
        refuse_unmodelled(details, _DETAILS)
        items = details.get("items", [])
        for item in items:
            refuse_unmodelled(item, _ITEM)
        price_ids = [item["price"] for item in items if "price" in item]
        if "customer" not in params or not price_ids:
            raise ApiError(
                400,
                "A preview needs a customer and subscription_details[items][0][price].",
                code="parameter_missing",
                param="subscription_details",
            )
        start = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if "start_date" in details:
            start = _instant(details["start_date"])
        first = self._catalog.find_price(
            price_ids[0], param="subscription_details[items][0][price]"
        )
        end = _period_end(start, first["recurring"] or {"interval": "month", "interval_count": 1})
        return _to_json(self.preview(params["customer"], price_ids, start=start, end=end), now)


def _instant(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError) as error:
        param = "subscription_details[start_date]"
        raise ApiError(400, "Invalid timestamp", param=param) from error


def _period_end(start: datetime, recurring: Mapping[str, Any]) -> datetime:
    try:
        return add_interval(start, recurring)
    except (OverflowError, ValueError) as error:  # Past the year 9999.
        param = "subscription_details[start_date]"
        raise ApiError(400, "Invalid timestamp", param=param) from error


def _to_json(preview: InvoicePreview, now: datetime) -> dict[str, Any]:
    invoice_id = "upcoming_in_standin"
    period = {"start": epoch_seconds(preview.start), "end": epoch_seconds(preview.end)}
    lines = [
        {
            "id": f"il_standin{number:08d}",
            "object": "line_item",
            "amount": line.amount,
            "currency": preview.currency,
            "description": None,
            "invoice": invoice_id,
            "livemode": False,
            "metadata": {},
            "period": period,
            "pricing": {
                "price_details": {"price": line.price_id},
                "type": "price_details",
                "unit_amount_decimal": None,
            },
            "quantity": int(line.quantity) if line.quantity == int(line.quantity) else None,
            "quantity_decimal": format(line.quantity, "f"),
            "subtotal": line.amount,
        }
        for number, line in enumerate(preview.lines, start=1)
    ]
    return {
        "id": invoice_id,
        "object": "invoice",
        "amount_due": preview.total,
        "amount_paid": 0,
        "amount_remaining": preview.total,
        "billing_reason": "upcoming",
        "created": epoch_seconds(now),
        "currency": preview.currency,
        "customer": preview.customer,
        "lines": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/invoices/{invoice_id}/lines",
        },
        "livemode": False,
        "period_end": period["end"],
        "period_start": period["start"],
        "status": "draft",
        "subtotal": preview.total,
        "total": preview.total,
    }
