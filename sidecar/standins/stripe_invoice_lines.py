"""The lines of invoices: usage priced for a period, fixed prices in advance, single items."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_events import MeterEvents
from sidecar.standins.stripe_meters import Meters
from sidecar.standins.stripe_prices import cost_of, rounded
from sidecar.standins.stripe_rooms import Item
from sidecar.standins.stripe_subscriptions import is_metered


class InvoiceLines:
    """Prices what an invoice is for. One rounding a line, half up."""

    def __init__(self, catalog: Catalog, meters: Meters, events: MeterEvents) -> None:
        self._catalog = catalog
        self._meters = meters
        self._events = events

    def in_arrears(
        self, customer: str, items: Sequence[Item], period: tuple[int, int]
    ) -> list[Item]:
        """A line for each metered item: the events of [start, end) that count by now."""
        return [
            self._line(item, self._used(customer, item, period), period)
            for item in items
            if is_metered(item["price"])
        ]

    def in_advance(self, items: Sequence[Item], period: tuple[int, int]) -> list[Item]:
        """A line for each fixed item: its quantity for a period to come."""
        return [
            self._line(item, Decimal(item["quantity"]), period)
            for item in items
            if not is_metered(item["price"])
        ]

    def of_price(self, price_id: str, quantity: Decimal) -> int:
        """What a quantity of a price costs, in minor units."""
        return rounded(cost_of(self._catalog.find_price(price_id), quantity))

    def _used(self, customer: str, item: Item, period: tuple[int, int]) -> Decimal:
        meter = self._meters.get(item["price"]["recurring"]["meter"])
        return self._events.aggregate(meter, customer, *period, received_by=None)

    def _line(self, item: Item, quantity: Decimal, period: tuple[int, int]) -> Item:
        price = self._catalog.find_price(item["price"]["id"])  # With its tiers.
        details = {
            "invoice_item": None,
            "proration": False,
            "subscription": item["subscription"],
            "subscription_item": item["id"],
        }
        return line_of(
            rounded(cost_of(price, quantity)),
            price["currency"],
            quantity=quantity,
            price=price,
            period=period,
            metadata=item["metadata"],
            parent={
                "type": "subscription_item_details",
                "subscription_item_details": details,
            },
            description=price["nickname"],
        )


def line_of(
    amount: int,
    currency: str,
    *,
    quantity: Decimal,
    price: Item | None,
    period: tuple[int, int],
    metadata: Mapping[str, str],
    parent: Mapping[str, Any],
    description: str | None,
) -> Item:
    """A line, but for its id and invoice. Amount in minor units, period [start, end)."""
    whole = quantity == quantity.to_integral_value()
    pricing = None
    if price is not None:
        pricing = {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        }
    return {
        "id": "",
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": description,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": dict(metadata),
        "parent": dict(parent),
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": pricing,
        "quantity": int(quantity) if whole else None,
        "quantity_decimal": format(quantity, "f"),
        "subtotal": amount,
        "taxes": [],
    }
