"""
How an invoice moves on: finalized, paid, retried, overdue, void or given up.

Source: docs.stripe.com/invoicing/overview and docs.stripe.com/billing/revenue-recovery.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.standins.stripe_agenda import Agenda
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_invoices import DAY_SECONDS, Invoices, subscription_of
from sidecar.standins.stripe_payments import Payments
from sidecar.standins.stripe_rooms import PAGE, Item, Room
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds
from sidecar.standins.stripe_subscriptions import ENDED, Subscriptions

_PAY = frozenset({"off_session", "paid_out_of_band", "payment_method"})


class Collection:
    """Brings the account's invoices to their end, and tells subscriptions and customers."""

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        log: EventLog,
        agenda: Agenda,
        customers: Customers,
        subscriptions: Subscriptions,
        invoices: Invoices,
        payments: Payments,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._log = log
        self._agenda = agenda
        self._customers = customers
        self._subscriptions = subscriptions
        self._invoices = invoices
        self._payments = payments
        self.payments_room = Room(
            "invoice_payment",
            "inpay",
            "/v1/invoice_payments",
            settings.objects_max,
            path_name="invoice_payment",
        )

    def plan(self, invoice: Item) -> None:
        """Let a draft be finalized when its time has come."""
        instant = invoice["automatically_finalizes_at"]
        if instant is not None:
            self._agenda.at(instant, lambda: self._finalize_if_due(invoice))

    def finalize(self, invoice_id: str, params: Mapping[str, Any]) -> Item:
        """Finalize a draft at once; it is collected too if it advances by itself."""
        refuse_unmodelled(params, frozenset({"auto_advance"}))
        invoice = self._invoices.get(invoice_id)
        if invoice["status"] != "draft":
            raise ApiError(
                400,
                "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
                code="invoice_not_editable",
            )
        if "auto_advance" in params:
            invoice["auto_advance"] = params["auto_advance"]
        self.finalize_draft(invoice)
        return invoice

    def finalize_draft(self, invoice: Item) -> None:
        """Freeze a draft; what costs nothing is paid, what advances by itself is collected."""
        self._invoices.freeze(invoice)
        self._log.emit("invoice.finalized", invoice)
        if invoice["amount_due"] == 0:
            self._mark_paid(invoice)
            return
        if invoice["collection_method"] == "send_invoice":
            if invoice["auto_advance"]:
                self._log.emit("invoice.sent", invoice)
            self._agenda.at(invoice["due_date"], lambda: self._fall_due(invoice))
        elif invoice["auto_advance"]:
            self._attempt(invoice, self._method_of(invoice))

    def pay(self, invoice_id: str, params: Mapping[str, Any]) -> Item:
        """
        Collect an open invoice now, or note that it was paid elsewhere.

        Raises:
            ApiError: In a wrong state; 402 if the card refuses, and the failure stays.
        """
        refuse_unmodelled(params, _PAY)
        invoice = self._invoices.get(invoice_id)
        if invoice["status"] == "paid":
            raise ApiError(400, "Invoice is already paid", code="invoice_already_paid")
        if invoice["status"] not in ("open", "uncollectible"):
            raise ApiError(400, f"You cannot pay an invoice that is {invoice['status']}.")
        if params.get("paid_out_of_band"):
            self._mark_paid(invoice)
            return invoice
        method = params.get("payment_method") or self._method_of(invoice)
        refusal = self._attempt(invoice, method)
        if refusal is not None:
            raise refusal
        return invoice

    def void(self, invoice_id: str) -> Item:
        """Declare an unpaid invoice a mistake."""
        invoice = self._leave(invoice_id, ("open", "uncollectible"), "void", "voided_at")
        self._log.emit("invoice.voided", invoice)
        self._settle_standing(invoice)
        return invoice

    def mark_uncollectible(self, invoice_id: str) -> Item:
        """Give an unpaid invoice up; it may still be paid."""
        invoice = self._leave(invoice_id, ("open",), "uncollectible", "marked_uncollectible_at")
        self._log.emit("invoice.marked_uncollectible", invoice)
        self._settle_standing(invoice)
        return invoice

    def send(self, invoice_id: str) -> Item:
        """Send an invoice by mail (nobody gets it); a draft is finalized first."""
        invoice = self._invoices.get(invoice_id)
        if invoice["collection_method"] != "send_invoice":
            raise ApiError(400, "You can only send invoices with collection_method=send_invoice.")
        if invoice["status"] == "draft":
            invoice["auto_advance"] = True
            self.finalize_draft(invoice)
        elif invoice["status"] == "open":
            self._log.emit("invoice.sent", invoice)
        else:
            raise ApiError(400, f"You cannot send an invoice that is {invoice['status']}.")
        return invoice

    def settle_free(self, invoice: Item) -> None:
        """An open invoice that asks for nothing more is paid."""
        self._mark_paid(invoice)

    def intent_of(self, invoice: Item) -> str:
        """The payment intent that paid an invoice. Raises ApiError if none did."""
        for item in self.payments_room.items.values():
            if item["invoice"] == invoice["id"] and item["status"] == "paid":
                intent: str = item["payment"]["payment_intent"]
                return intent
        raise ApiError(400, "The invoice was not paid by a charge.", param="refund_amount")

    def list_payments(self, params: Mapping[str, Any]) -> Item:
        """One page of invoice payments: of an invoice or of a payment intent."""
        refuse_unmodelled(params, PAGE | {"created", "invoice", "payment", "status"})
        wanted = params.get("payment", {}).get("payment_intent")
        shown = [
            item
            for item in self.payments_room.filtered(params, ("invoice", "status"))
            if wanted in (None, item["payment"].get("payment_intent"))
        ]
        return self.payments_room.page_of(shown, params)

    def _finalize_if_due(self, invoice: Item) -> None:
        finalizes = invoice["automatically_finalizes_at"]
        kept = invoice["id"] in self._invoices.room.items
        if invoice["status"] != "draft" or finalizes is None or not kept:
            return
        if finalizes > epoch_seconds(self._clock()):
            self.plan(invoice)  # Somebody has put it off.
        else:
            self.finalize_draft(invoice)

    def _method_of(self, invoice: Item) -> str | None:
        """Whose card pays: the invoice's, the subscription's, the customer's."""
        subscription = self._subscription(invoice)
        customer = self._customers.room.get(invoice["customer"])
        method: str | None = (
            invoice["default_payment_method"]
            or (subscription and subscription["default_payment_method"])
            or customer["invoice_settings"]["default_payment_method"]
        )
        return method

    def _attempt(self, invoice: Item, method: str | None) -> ApiError | None:
        invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
        intent = self._payments.open(
            invoice["amount_due"], invoice["currency"], customer=invoice["customer"], metadata={}
        )
        refusal = self._payments.charge(intent, method, off_session=True)
        self._note_payment(invoice, intent)
        if refusal is None:
            self._mark_paid(invoice)
            return None
        self._fail(invoice, asks=refusal.code == "authentication_required")
        return refusal

    def _fail(self, invoice: Item, *, asks: bool) -> None:
        days = self._settings.payment_retry_days
        tries = invoice["attempt_count"]
        again = None
        if invoice["auto_advance"] and tries <= len(days):
            again = epoch_seconds(self._clock()) + days[tries - 1] * DAY_SECONDS
            self._agenda.at(again, lambda: self._retry(invoice, tries))
        invoice["next_payment_attempt"] = again
        self._set_delinquent(invoice, delinquent=True)
        self._log.emit("invoice.payment_failed", invoice)
        if asks:
            self._log.emit("invoice.payment_action_required", invoice)
        subscription = self._subscription(invoice)
        if subscription is None or subscription["status"] in (*ENDED, "unpaid"):
            return
        if invoice["billing_reason"] == "subscription_create":
            self._subscriptions.set_fields(subscription, {"status": "incomplete"})
        elif again is not None or self._settings.after_retries == "past_due":
            self._subscriptions.set_fields(subscription, {"status": "past_due"})
        elif self._settings.after_retries == "unpaid":
            self._subscriptions.set_fields(subscription, {"status": "unpaid"})
        else:
            self._subscriptions.end(subscription)

    def _retry(self, invoice: Item, tries: int) -> None:
        if invoice["status"] == "open" and invoice["attempt_count"] == tries:
            self._attempt(invoice, self._method_of(invoice))

    def _fall_due(self, invoice: Item) -> None:
        if invoice["status"] != "open":
            return
        self._set_delinquent(invoice, delinquent=True)
        if self._settings.overdue_events:
            self._log.emit("invoice.overdue", invoice)
        subscription = self._subscription(invoice)
        if subscription is not None and subscription["status"] == "active":
            self._subscriptions.set_fields(subscription, {"status": "past_due"})

    def _mark_paid(self, invoice: Item) -> None:
        invoice.update(
            status="paid",
            amount_paid=invoice["amount_due"],
            amount_remaining=0,
            attempted=True,
            next_payment_attempt=None,
        )
        invoice["status_transitions"]["paid_at"] = epoch_seconds(self._clock())
        self._set_delinquent(invoice, delinquent=False)
        self._log.emit("invoice.paid", invoice)
        self._log.emit("invoice.payment_succeeded", invoice)
        self._settle_standing(invoice)

    def _settle_standing(self, invoice: Item) -> None:
        """
        A subscription that owes nothing more is active again.

        An unpaid one only by its latest invoice: paying an old one does not bring it back.
        """
        subscription = self._subscription(invoice)
        if subscription is None or subscription["status"] not in (
            "past_due",
            "unpaid",
            "incomplete",
        ):
            return
        if subscription["status"] == "unpaid" and subscription["latest_invoice"] != invoice["id"]:
            return
        now = epoch_seconds(self._clock())
        owes = any(
            other["status"] == "open"
            and subscription_of(other) == subscription["id"]
            and (other["attempted"] or (other["due_date"] or now + 1) <= now)
            for other in self._invoices.room.items.values()
        )
        if not owes:
            self._subscriptions.set_fields(subscription, {"status": "active"})

    def _leave(self, invoice_id: str, allowed: tuple[str, ...], status: str, date: str) -> Item:
        invoice = self._invoices.get(invoice_id)
        if invoice["status"] not in allowed:
            raise ApiError(400, f"You cannot make an invoice {status} that is {invoice['status']}.")
        invoice.update(status=status, next_payment_attempt=None)
        invoice["status_transitions"][date] = epoch_seconds(self._clock())
        return invoice

    def _note_payment(self, invoice: Item, intent: Item) -> None:
        now = epoch_seconds(self._clock())
        paid = intent["status"] == "succeeded"
        self.payments_room.add(
            {
                "id": self.payments_room.new_id(),
                "object": "invoice_payment",
                "amount_paid": intent["amount"] if paid else None,
                "amount_requested": intent["amount"],
                "created": now,
                "currency": invoice["currency"],
                "invoice": invoice["id"],
                "is_default": True,
                "livemode": False,
                "payment": {"type": "payment_intent", "payment_intent": intent["id"]},
                "status": "paid" if paid else "open",
                "status_transitions": {"canceled_at": None, "paid_at": now if paid else None},
            }
        )

    def _set_delinquent(self, invoice: Item, *, delinquent: bool) -> None:
        """As documented: the most recent change of any invoice decides."""
        customer = self._customers.room.get(invoice["customer"])
        if not customer.get("deleted"):
            self._customers.change(customer, {"delinquent": delinquent})

    def _subscription(self, invoice: Item) -> Item | None:
        subscription_id = subscription_of(invoice)
        return None if subscription_id is None else self._subscriptions.room.get(subscription_id)
