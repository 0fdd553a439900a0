"""Credit notes: an invoice made smaller. Source: docs.stripe.com/api/credit_notes."""

import itertools
from collections.abc import Mapping
from typing import Any

from sidecar.standins.stripe_collection import Collection
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, missing, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_invoices import Invoices
from sidecar.standins.stripe_refunds import Refunds
from sidecar.standins.stripe_rooms import Item, Room, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

_PARTS = ("credit_amount", "refund_amount", "out_of_band_amount")
_CREATE = frozenset({"amount", "invoice", "lines", "memo", "metadata", "reason", *_PARTS})
_LINE = frozenset(
    {"amount", "description", "invoice_line_item", "metadata", "quantity", "type", "unit_amount"}
)


class CreditNotes:
    """The account's credit notes. Amounts in minor units."""

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        log: EventLog,
        customers: Customers,
        invoices: Invoices,
        collection: Collection,
        refunds: Refunds,
    ) -> None:
        self._clock = clock
        self._log = log
        self._customers = customers
        self._invoices = invoices
        self._collection = collection
        self._refunds = refunds
        self._line_numbers = itertools.count(1)
        self.room = Room("credit note", "cn", "/v1/credit_notes", settings.objects_max)

    def create(self, params: Mapping[str, Any]) -> Item:
        """
        Credit a part of a finalized invoice: what it still asks for, or what was paid for it.

        Raises:
            ApiError: For a draft, more than the invoice has left, or parts that do not add up.
        """
        refuse_unmodelled(params, _CREATE)
        invoice = self._invoices.get(params["invoice"], param="invoice")
        if invoice["status"] not in ("open", "paid"):
            raise ApiError(
                400, f"You cannot credit an invoice that is {invoice['status']}.", param="invoice"
            )
        note_id = self.room.new_id()
        lines = self._lines(params, invoice)
        amount = sum(line["amount"] for line in lines) if lines else params.get("amount")
        if amount is None or amount <= 0:
            raise ApiError(400, "A credit note needs an amount or lines.", param="amount")
        paid = invoice["status"] == "paid"
        self._refuse_excess(invoice, amount, paid=paid)
        parts = {name: params.get(name, 0) for name in _PARTS}
        if sum(parts.values()) != (amount if paid else 0):
            raise ApiError(
                400,
                "The sum of credit amount, refund amount and out of band amount must equal the "
                "credit note's amount on a paid invoice, and 0 on an open one.",
                param="amount",
            )
        if parts["refund_amount"]:
            self._collection.intent_of(invoice)  # Refuses before anything is kept.
        now = epoch_seconds(self._clock())
        number = 1 + sum(item["invoice"] == invoice["id"] for item in self.room.items.values())
        note = self.room.add(
            {
                "id": note_id,
                "object": "credit_note",
                "amount": amount,
                "created": now,
                "currency": invoice["currency"],
                "customer": invoice["customer"],
                "discount_amount": 0,
                "discount_amounts": [],
                "effective_at": now,
                "invoice": invoice["id"],
                "lines": {
                    "object": "list",
                    "data": lines,
                    "has_more": False,
                    "url": f"/v1/credit_notes/{note_id}/lines",
                },
                "livemode": False,
                "memo": params.get("memo"),
                "metadata": metadata_of(params),
                "number": f"{invoice['number']}-CN-{number:02d}",
                "out_of_band_amount": parts["out_of_band_amount"] or None,
                "pdf": f"https://invoice.stripe.com/cn/{note_id}/pdf",
                "post_payment_amount": amount if paid else 0,
                "pre_payment_amount": 0 if paid else amount,
                "reason": params.get("reason"),
                "refunds": [],
                "status": "issued",
                "subtotal": amount,
                "total": amount,
                "type": "post_payment" if paid else "pre_payment",
                "voided_at": None,
            }
        )
        self._log.emit("credit_note.created", note)
        if paid:
            self._give_back(invoice, note, parts)
        else:
            self._lower(invoice, amount)
        return note

    def void(self, note_id: str) -> Item:
        """Take a credit note of an open invoice back."""
        note = self.room.get(note_id)
        invoice = self._invoices.get(note["invoice"])
        if note["status"] == "void" or invoice["status"] != "open":
            raise ApiError(400, "Only a credit note of an open invoice can be voided.")
        note.update(status="void", voided_at=epoch_seconds(self._clock()))
        invoice["pre_payment_credit_notes_amount"] -= note["amount"]
        invoice["amount_due"] += note["amount"]
        invoice["amount_remaining"] += note["amount"]
        self._log.emit("credit_note.voided", note)
        return note

    def page(self, params: Mapping[str, Any]) -> Item:
        """One page of credit notes, newest first."""
        return self.room.page(params, ("customer", "invoice"))

    def _refuse_excess(self, invoice: Item, amount: int, *, paid: bool) -> None:
        left = invoice["amount_remaining"]
        if paid:
            left = invoice["amount_paid"] - invoice["post_payment_credit_notes_amount"]
        if amount > left:
            raise ApiError(
                400,
                f"The credit note's amount ({amount}) is more than what is left of the invoice "
                f"({left}).",
                param="amount",
            )

    def _lower(self, invoice: Item, amount: int) -> None:
        invoice["pre_payment_credit_notes_amount"] += amount
        invoice["amount_due"] -= amount
        invoice["amount_remaining"] -= amount
        self._log.emit("invoice.updated", invoice, {"amount_due": invoice["amount_due"] + amount})
        if invoice["amount_due"] == 0:
            self._collection.settle_free(invoice)

    def _give_back(self, invoice: Item, note: Item, parts: Mapping[str, int]) -> None:
        invoice["post_payment_credit_notes_amount"] += note["amount"]
        if parts["credit_amount"]:
            customer = self._customers.room.get(invoice["customer"])
            balance = customer["balance"] - parts["credit_amount"]
            self._customers.change(customer, {"balance": balance})
        if parts["refund_amount"]:
            intent = self._collection.intent_of(invoice)
            refund = self._refunds.create(
                {"payment_intent": intent, "amount": parts["refund_amount"]}
            )
            note["refunds"] = [{"amount_refunded": refund["amount"], "refund": refund["id"]}]

    def _lines(self, params: Mapping[str, Any], invoice: Item) -> list[Item]:
        known = {line["id"]: line for line in invoice["lines"]["data"]}
        lines = []
        for index, given in enumerate(params.get("lines", [])):
            refuse_unmodelled(given, _LINE)
            source = given.get("invoice_line_item")
            if given["type"] == "invoice_line_item" and source not in known:
                place = f"lines[{index}][invoice_line_item]"
                raise missing("line item", str(source), param=place, in_path=False)
            amount = given.get("amount")
            if amount is None and "unit_amount" in given:
                amount = given["unit_amount"] * given.get("quantity", 1)
            if amount is None:
                raise ApiError(400, "A line needs an amount.", param=f"lines[{index}][amount]")
            lines.append(
                {
                    "id": f"cnli_standin{next(self._line_numbers):08d}",
                    "object": "credit_note_line_item",
                    "amount": amount,
                    "description": given.get("description")
                    or (known[source]["description"] if source in known else None),
                    "discount_amount": 0,
                    "discount_amounts": [],
                    "invoice_line_item": source,
                    "livemode": False,
                    "metadata": metadata_of(given),
                    "quantity": given.get("quantity"),
                    "tax_rates": [],
                    "taxes": [],
                    "type": given["type"],
                }
            )
        return lines
