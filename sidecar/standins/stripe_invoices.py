"""
Invoices: their lines, sums and states. What moves them on is in stripe_collection.

Source: docs.stripe.com/api/invoices and docs.stripe.com/invoicing/integration/workflow-transitions.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_rooms import PAGE, Item, Room, merged_metadata, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

INVOICES_URL = "/v1/invoices"
DAYS_UNTIL_DUE = 30
DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600

_UPDATE = frozenset(
    {
        *("auto_advance", "automatically_finalizes_at", "days_until_due", "default_payment_method"),
        *("description", "due_date", "footer", "metadata"),
    }
)
_CREATE = _UPDATE | {
    *("collection_method", "currency", "customer", "pending_invoice_items_behavior"),
    "subscription",
}

Lines = Callable[[Item], list[Item]]


class Invoices:
    """The account's invoices. Amounts in minor units."""

    def __init__(
        self, settings: StripeSettings, clock: Clock, log: EventLog, customers: Customers
    ) -> None:
        self._clock = clock
        self._log = log
        self._customers = customers
        self._numbers = itertools.count(1)
        self._line_numbers = itertools.count(1)
        # What a draft's lines are made of: usage still changes them.
        self._sources: dict[str, Lines] = {}
        self._days: dict[str, int] = {}
        self.room = Room("invoice", "in", INVOICES_URL, settings.objects_max, path_name="invoice")

    def open_draft(
        self,
        customer: Item,
        currency: str,
        lines: Lines,
        *,
        days_until_due: int | None = None,
        before: Callable[[Item], None] = lambda _: None,
        **fields: Any,
    ) -> Item:
        """
        Add a draft and tell it.

        Args:
            customer: Who is to pay.
            currency: Of all lines.
            lines: Answers the draft's lines as they are now; asked until it is finalized.
            days_until_due: How long after finalization a sent invoice falls due.
            before: Called with the draft before anybody hears of it.
            fields: Replace the defaults of fields.
        """
        now = epoch_seconds(self._clock())
        invoice_id = self.room.new_id()
        invoice = self.room.add(
            {
                "id": invoice_id,
                "object": "invoice",
                "amount_due": 0,
                "amount_overpaid": 0,
                "amount_paid": 0,
                "amount_remaining": 0,
                "amount_shipping": 0,
                "attempt_count": 0,
                "attempted": False,
                "auto_advance": True,
                "automatic_tax": {"enabled": False},
                "automatically_finalizes_at": None,
                "billing_reason": "manual",
                "collection_method": "charge_automatically",
                "created": now,
                "currency": currency,
                "customer": customer["id"],
                "customer_email": customer["email"],
                "customer_name": customer["name"],
                "default_payment_method": None,
                "default_tax_rates": [],
                "description": None,
                "discounts": [],
                "due_date": None,
                "effective_at": None,
                "ending_balance": None,
                "footer": None,
                "hosted_invoice_url": None,
                "invoice_pdf": None,
                "lines": _list_of([], invoice_id),
                "livemode": False,
                "metadata": {},
                "next_payment_attempt": None,
                "number": None,
                "parent": None,
                "period_end": now,
                "period_start": now,
                "post_payment_credit_notes_amount": 0,
                "pre_payment_credit_notes_amount": 0,
                "starting_balance": customer["balance"],
                "status": "draft",
                "status_transitions": {
                    "finalized_at": None,
                    "marked_uncollectible_at": None,
                    "paid_at": None,
                    "voided_at": None,
                },
                "subtotal": 0,
                "test_clock": None,
                "total": 0,
                **fields,
            }
        )
        self._sources[invoice_id] = lines
        if days_until_due is not None:
            self._days[invoice_id] = days_until_due
        before(invoice)
        self.refresh(invoice)
        self._log.emit("invoice.created", invoice)
        return invoice

    def refresh(self, invoice: Item) -> Item:
        """Give a draft the lines and sums of this moment; another invoice stays as it is."""
        source = self._sources.get(invoice["id"])
        if invoice["status"] != "draft" or source is None:
            return invoice
        lines = source(invoice)
        known = {_line_key(line): line["id"] for line in invoice["lines"]["data"]}
        for line in lines:
            new_id = known.get(_line_key(line)) or f"il_standin{next(self._line_numbers):08d}"
            line.update(id=new_id, invoice=invoice["id"])
        total = sum(line["amount"] for line in lines)
        invoice.update(
            lines=_list_of(lines, invoice["id"]),
            subtotal=total,
            total=total,
            amount_due=max(0, total + invoice["starting_balance"]),
        )
        invoice["amount_remaining"] = invoice["amount_due"]
        return invoice

    def freeze(self, invoice: Item) -> None:
        """Take the last look at the lines, and number the invoice: it is no draft any more."""
        customer = self._customers.room.get(invoice["customer"])
        invoice["starting_balance"] = customer["balance"]
        self.refresh(invoice)
        self._sources.pop(invoice["id"], None)
        # A negative balance pays; a negative total adds to it.
        rest = invoice["total"] + invoice["starting_balance"]
        invoice["ending_balance"] = min(0, rest)
        if customer["balance"] != invoice["ending_balance"]:
            self._customers.change(customer, {"balance": invoice["ending_balance"]})
        now = epoch_seconds(self._clock())
        due = invoice["due_date"]
        if invoice["collection_method"] == "send_invoice" and due is None:
            due = now + self._days.get(invoice["id"], DAYS_UNTIL_DUE) * DAY_SECONDS
        page = f"https://invoice.stripe.com/i/{invoice['id']}"
        invoice.update(
            automatically_finalizes_at=None,
            due_date=due,
            effective_at=now,
            hosted_invoice_url=page,
            invoice_pdf=f"{page}/pdf",
            number=f"STANDIN-{next(self._numbers):04d}",
            status="open",
        )
        invoice["status_transitions"]["finalized_at"] = now

    def create_params(self, params: Mapping[str, Any]) -> tuple[Item, str, Item]:
        """
        Customer, currency and fields of a manual invoice.

        Raises:
            ApiError: For an unknown customer, or a due date without send_invoice.
        """
        refuse_unmodelled(params, _CREATE)
        if "customer" not in params:
            raise ApiError(
                400, "Missing required param: customer.", code="parameter_missing", param="customer"
            )
        customer = self._customers.get(params["customer"], param="customer")
        collection = params.get("collection_method", "charge_automatically")
        dated = {"due_date", "days_until_due"} & params.keys()
        if (collection == "send_invoice") != bool(dated):
            raise ApiError(
                400,
                "due_date or days_until_due goes with collection_method=send_invoice, and only "
                "with it.",
                param="days_until_due",
            )
        now = epoch_seconds(self._clock())
        advances = params.get("auto_advance", True)
        finalizes = params.get("automatically_finalizes_at", now + HOUR_SECONDS)
        fields = {
            "auto_advance": advances,
            "automatically_finalizes_at": finalizes if advances else None,
            "collection_method": collection,
            "default_payment_method": params.get("default_payment_method"),
            "description": params.get("description") or None,
            "due_date": params.get("due_date"),
            "days_until_due": params.get("days_until_due"),
            "footer": params.get("footer") or None,
            "metadata": metadata_of(params),
        }
        return customer, params.get("currency", customer["currency"] or "usd").lower(), fields

    def update(self, invoice_id: str, params: Mapping[str, Any]) -> Item:
        """Change an invoice: metadata at any time, the rest while it is a draft."""
        refuse_unmodelled(params, _UPDATE)
        invoice = self.get(invoice_id)
        if invoice["status"] != "draft" and params.keys() - {"metadata", "auto_advance"}:
            raise ApiError(
                400,
                "Finalized invoices can't be updated in this way.",
                code="invoice_not_editable",
            )
        names = _UPDATE - {"metadata", "days_until_due"}
        given = {name: params[name] for name in names if name in params}
        if "days_until_due" in params:
            self._days[invoice_id] = params["days_until_due"]
        if params.get("auto_advance") is False:
            given["automatically_finalizes_at"] = None
        given["metadata"] = merged_metadata(invoice["metadata"], params)
        previous = {name: invoice[name] for name in given if invoice[name] != given[name]}
        invoice.update(given)
        if previous:
            self._log.emit("invoice.updated", invoice, previous)
        return invoice

    def delete(self, invoice_id: str) -> Item:
        """Delete a draft that no subscription made."""
        invoice = self.get(invoice_id)
        if invoice["status"] != "draft" or invoice["parent"] is not None:
            raise ApiError(400, "You can only delete draft invoices that you made yourself.")
        del self.room.items[invoice_id]
        self._sources.pop(invoice_id, None)
        self._log.emit("invoice.deleted", invoice)
        return {"id": invoice_id, "object": "invoice", "deleted": True}

    def get(self, invoice_id: str, *, param: str | None = None) -> Item:
        """One invoice as it is now. Raises ApiError: 404, or 400 if `param` names it."""
        return self.refresh(self.room.get(invoice_id, param=param))

    def list(self, params: Mapping[str, Any]) -> Item:
        """One page of invoices, newest first."""
        names = ("collection_method", "customer", "due_date", "status")
        refuse_unmodelled(params, PAGE | {*names, "created", "subscription"})
        wanted = params.get("subscription")
        shown = [
            invoice
            for invoice in self.room.filtered(params, names)
            if wanted in (None, subscription_of(invoice))
        ]
        page = self.room.page_of(shown, params)
        for invoice in page["data"]:
            self.refresh(invoice)
        return page

    def list_lines(self, invoice_id: str, params: Mapping[str, Any]) -> Item:
        """One page of an invoice's lines."""
        refuse_unmodelled(params, PAGE)
        page = self.room.page_of(self.get(invoice_id)["lines"]["data"], params)
        return {**page, "url": f"{INVOICES_URL}/{invoice_id}/lines"}


def subscription_of(invoice: Item) -> str | None:
    """The subscription that made an invoice."""
    parent = invoice["parent"]
    return None if parent is None else parent["subscription_details"]["subscription"]


def _list_of(lines: list[Item], invoice_id: str) -> Item:
    return {
        "object": "list",
        "data": lines,
        "has_more": False,
        "url": f"{INVOICES_URL}/{invoice_id}/lines",
    }


def _line_key(line: Item) -> tuple[str, int, int]:
    """What a line of a draft is, whatever usage makes of its amount."""
    details = line["parent"][line["parent"]["type"]]
    what = details.get("subscription_item") or details["invoice_item"]
    return what, line["period"]["start"], line["period"]["end"]
