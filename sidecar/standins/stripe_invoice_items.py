"""Invoice items: amounts that wait for an invoice. Source: docs.stripe.com/api/invoiceitems."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, not_modelled, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_invoice_lines import InvoiceLines, line_of
from sidecar.standins.stripe_invoices import Invoices, subscription_of
from sidecar.standins.stripe_rooms import PAGE, Item, Room, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

_CREATE = frozenset(
    {
        *("amount", "currency", "customer", "description", "discountable", "invoice", "metadata"),
        *("period", "pricing", "quantity", "subscription"),
    }
)


class InvoiceItems:
    """The account's invoice items: pending, or on an invoice."""

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        log: EventLog,
        customers: Customers,
        catalog: Catalog,
        lines: InvoiceLines,
        invoices: Invoices,
    ) -> None:
        self._clock = clock
        self._log = log
        self._customers = customers
        self._catalog = catalog
        self._lines = lines
        self._invoices = invoices
        self.room = Room(
            "invoiceitem", "ii", "/v1/invoiceitems", settings.objects_max, path_name="invoiceitem"
        )

    def create(self, params: Mapping[str, Any]) -> Item:
        """
        Add an item, to a draft or pending: `amount` and `currency`, or `pricing[price]`.

        Raises:
            ApiError: For an unknown customer, price or draft, or another currency than its.
        """
        refuse_unmodelled(params, _CREATE)
        if "customer" not in params:
            raise ApiError(
                400, "Missing required param: customer.", code="parameter_missing", param="customer"
            )
        self._customers.get(params["customer"], param="customer")
        quantity, amount, currency, price = self._amount(params)
        invoice = None
        if "invoice" in params:
            invoice = self._invoices.get(params["invoice"], param="invoice")
            self._refuse_other_invoice(invoice, params["customer"], currency)
        now = epoch_seconds(self._clock())
        item = self.room.add(
            {
                "id": self.room.new_id(),
                "object": "invoiceitem",
                "amount": amount,
                "currency": currency,
                "customer": params["customer"],
                "date": now,
                "description": params.get("description"),
                "discountable": params.get("discountable", True),
                "discounts": [],
                "invoice": None if invoice is None else invoice["id"],
                "livemode": False,
                "metadata": metadata_of(params),
                "parent": _parent(params.get("subscription")),
                "period": params.get("period") or {"start": now, "end": now},
                "pricing": price
                and {
                    "price_details": {"price": price["id"], "product": price["product"]},
                    "type": "price_details",
                    "unit_amount_decimal": price["unit_amount_decimal"],
                },
                "proration": False,
                "quantity": quantity,
                "quantity_decimal": str(quantity),
                "tax_rates": [],
            }
        )
        self._log.emit("invoiceitem.created", item)
        return item

    def delete(self, item_id: str) -> Item:
        """Remove an item that no finalized invoice has."""
        item = self.room.get(item_id)
        if item["invoice"] and self._invoices.get(item["invoice"])["status"] != "draft":
            raise ApiError(400, "This invoice item is on a finalized invoice.")
        del self.room.items[item_id]
        self._log.emit("invoiceitem.deleted", item)
        return {"id": item_id, "object": "invoiceitem", "deleted": True}

    def page(self, params: Mapping[str, Any]) -> Item:
        """One page of items, newest first."""
        refuse_unmodelled(params, PAGE | {"customer", "invoice", "pending"})
        pending = params.get("pending")
        shown = [
            item
            for item in self.room.filtered(params, ("customer", "invoice"))
            if pending is None or pending == (item["invoice"] is None)
        ]
        return self.room.page_of(shown, params)

    def pull(self, invoice: Item) -> None:
        """Put the customer's pending items on a draft, if they have its currency and origin."""
        for item in self.room.items.values():
            if (
                item["invoice"] is None
                and item["customer"] == invoice["customer"]
                and item["currency"] == invoice["currency"]
                and _subscription(item) in (None, subscription_of(invoice))
            ):
                item["invoice"] = invoice["id"]

    def lines_of(self, invoice_id: str) -> list[Item]:
        """The lines of an invoice's items, oldest first."""
        return [
            line_of(
                item["amount"],
                item["currency"],
                quantity=Decimal(item["quantity"]),
                price=self._price_of(item),
                period=(item["period"]["start"], item["period"]["end"]),
                metadata=item["metadata"],
                parent={
                    "type": "invoice_item_details",
                    "invoice_item_details": {
                        "invoice_item": item["id"],
                        "proration": False,
                        "subscription": _subscription(item),
                    },
                },
                description=item["description"],
            )
            for item in self.room.items.values()
            if item["invoice"] == invoice_id
        ]

    def _amount(self, params: Mapping[str, Any]) -> tuple[int, int, str, Item | None]:
        """Quantity, amount in minor units, currency and price."""
        if "amount" in params:
            if "pricing" in params or "quantity" in params or "currency" not in params:
                raise ApiError(
                    400, "`amount` goes with `currency` and nothing else.", param="amount"
                )
            return 1, params["amount"], params["currency"].lower(), None
        price_id = params.get("pricing", {}).get("price")
        if price_id is None:
            raise ApiError(
                400, "You must pass either `amount` or `pricing[price]`.", param="amount"
            )
        price = self._catalog.find_price(price_id, param="pricing[price]")
        if price["recurring"] is not None:
            raise ApiError(
                400, "The price specified is set to `type=recurring`.", param="pricing[price]"
            )
        quantity = params.get("quantity", 1)
        amount = self._lines.of_price(price_id, Decimal(quantity))
        if params.get("currency", price["currency"]).lower() != price["currency"]:
            raise not_modelled("prices in several currencies")
        return quantity, amount, price["currency"], price

    def _refuse_other_invoice(self, invoice: Item, customer: str, currency: str) -> None:
        if invoice["status"] != "draft":
            raise ApiError(400, "You can only add to draft invoices.", param="invoice")
        if invoice["customer"] != customer:
            raise ApiError(400, "The invoice belongs to another customer.", param="invoice")
        if invoice["currency"] != currency:
            raise ApiError(
                400,
                f"The currency of the invoice item ({currency}) must match the invoice's "
                f"({invoice['currency']}).",
                param="currency",
            )

    def _price_of(self, item: Item) -> Item | None:
        if item["pricing"] is None:
            return None
        return self._catalog.find_price(item["pricing"]["price_details"]["price"])


def _parent(subscription: str | None) -> Item | None:
    if subscription is None:
        return None
    return {
        "type": "subscription_details",
        "subscription_details": {"subscription": subscription},
    }


def _subscription(item: Item) -> str | None:
    parent = item["parent"]
    return None if parent is None else parent["subscription_details"]["subscription"]
