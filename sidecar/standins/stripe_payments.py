"""
Payment intents and their charges. Source: docs.stripe.com/payments/paymentintents/lifecycle.

Neither is in the billing description; requests and answers are checked against what the SDK's
types say (data/stripe-openapi-payments.json), in which hardly any field is required.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_payment_methods import Card, Outcome, PaymentMethods
from sidecar.standins.stripe_rooms import Item, Room, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

AMOUNT_MAX = 99_999_999

_CONFIRM = frozenset({"error_on_requires_action", "off_session", "payment_method", "return_url"})
_CREATE = _CONFIRM | {
    *("amount", "automatic_payment_methods", "confirm", "currency", "customer", "description"),
    *("metadata", "payment_method_types", "receipt_email", "setup_future_usage"),
}
_CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")


class Payments:
    """The account's payment intents and charges."""

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        log: EventLog,
        customers: Customers,
        methods: PaymentMethods,
    ) -> None:
        self._clock = clock
        self._log = log
        self._customers = customers
        self._methods = methods
        most = settings.objects_max
        self.intents = Room("payment_intent", "pi", "/v1/payment_intents", most, path_name="intent")
        self.charges = Room("charge", "ch", "/v1/charges", most)

    def create(self, params: Mapping[str, Any]) -> Item:
        """
        Add an intent, and confirm it with `confirm`.

        Raises:
            ApiError: For a bad amount, an unknown customer or card; 402 if confirmation fails, in
                which case the intent stays.
        """
        refuse_unmodelled(params, _CREATE)
        if not 1 <= params["amount"] <= AMOUNT_MAX:
            raise ApiError(400, "Invalid positive integer", param="amount")
        if "customer" in params:
            self._customers.get(params["customer"], param="customer")
        method = params.get("payment_method")
        if method is not None:
            self._check_owner(method, params.get("customer"))
        if params.get("off_session") and not params.get("confirm"):
            raise ApiError(
                400, "off_session can only be set when confirm is true.", param="off_session"
            )
        intent = self.open(
            params["amount"],
            params["currency"],
            customer=params.get("customer"),
            metadata=metadata_of(params),
            setup_future_usage=params.get("setup_future_usage"),
        )
        intent["description"] = params.get("description")
        intent["receipt_email"] = params.get("receipt_email") or None
        if method is not None:
            intent.update(payment_method=method, status="requires_confirmation")
        if params.get("confirm"):
            return self._confirm_or_raise(intent, off_session=bool(params.get("off_session")))
        return intent

    def confirm(self, intent_id: str, params: Mapping[str, Any]) -> Item:
        """Charge the card. Raises ApiError: 400 in a wrong state, 402 if the card refuses."""
        refuse_unmodelled(params, _CONFIRM)
        intent = self.intents.get(intent_id)
        if intent["status"] not in _CONFIRMABLE:
            raise _unexpected_state(intent, "confirm")
        if "payment_method" in params:
            self._check_owner(params["payment_method"], intent["customer"])
            intent["payment_method"] = params["payment_method"]
        return self._confirm_or_raise(intent, off_session=bool(params.get("off_session")))

    def cancel(self, intent_id: str, params: Mapping[str, Any]) -> Item:
        """Give an intent up that has not been paid."""
        refuse_unmodelled(params, frozenset({"cancellation_reason"}))
        intent = self.intents.get(intent_id)
        if intent["status"] not in _CONFIRMABLE:
            raise _unexpected_state(intent, "cancel")
        now = epoch_seconds(self._clock())
        reason = params.get("cancellation_reason")
        intent.update(status="canceled", canceled_at=now, cancellation_reason=reason)
        self._log.emit("payment_intent.canceled", intent)
        return intent

    def open(
        self,
        amount: int,
        currency: str,
        *,
        customer: str | None,
        metadata: Mapping[str, str],
        setup_future_usage: str | None = None,
    ) -> Item:
        """Add an intent without a card. Amount in minor units."""
        intent_id = self.intents.new_id()
        intent = self.intents.add(
            {
                "id": intent_id,
                "object": "payment_intent",
                "amount": amount,
                "amount_capturable": 0,
                "amount_received": 0,
                "automatic_payment_methods": None,
                "canceled_at": None,
                "cancellation_reason": None,
                "capture_method": "automatic",
                "client_secret": f"{intent_id}_secret_standin",
                "confirmation_method": "automatic",
                "created": epoch_seconds(self._clock()),
                "currency": currency.lower(),
                "customer": customer,
                "description": None,
                "last_payment_error": None,
                "latest_charge": None,
                "livemode": False,
                "metadata": dict(metadata),
                "next_action": None,
                "payment_method": None,
                "payment_method_types": ["card"],
                "processing": None,
                "receipt_email": None,
                "setup_future_usage": setup_future_usage,
                "status": "requires_payment_method",
            }
        )
        self._log.emit("payment_intent.created", intent)
        return intent

    def charge(self, intent: Item, method: str | None, *, off_session: bool) -> ApiError | None:
        """
        Charge a card for an intent and tell what came of it.

        Args:
            intent: Takes the outcome.
            method: A saved card's id or a test card's name; None if there is none.
            off_session: Whether the owner is away, so that nobody can confirm.

        Returns:
            The refusal as the API words it, or None: then the intent is paid or asks for action.
        """
        if method is None:
            return self._refuse(intent, None)
        card = self._methods.card_of(method)
        asks = card.outcome is Outcome.ASKS
        if intent["setup_future_usage"] and intent["customer"] and card.outcome is Outcome.PAYS:
            method = self._methods.attach(method, intent["customer"])["id"]
        intent["payment_method"] = method
        if asks and not off_session:
            action = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
            intent.update(status="requires_action", next_action=action)
            self._log.emit("payment_intent.requires_action", intent)
            return None
        if card.outcome is not Outcome.PAYS:
            return self._refuse(intent, card)
        self.succeed(intent)
        return None

    def succeed(self, intent: Item) -> None:
        """The intent's card has paid."""
        charge = self._add_charge(intent, None)
        self._log.emit("charge.succeeded", charge)
        intent.update(
            amount_received=intent["amount"],
            last_payment_error=None,
            latest_charge=charge["id"],
            next_action=None,
            status="succeeded",
        )
        self._log.emit("payment_intent.succeeded", intent)

    def authenticate(self, intent_id: str, *, confirmed: bool = True) -> Item:
        """The card's owner confirms the payment, or fails to. Raises ApiError in a wrong state."""
        intent = self.intents.get(intent_id)
        if intent["status"] != "requires_action":
            raise _unexpected_state(intent, "authenticate")
        if confirmed:
            self.succeed(intent)
        else:
            card = Card(
                outcome=Outcome.ASKS, last4="3184", code="payment_intent_authentication_failure"
            )
            self._refuse(intent, card)
        return intent

    def _confirm_or_raise(self, intent: Item, *, off_session: bool) -> Item:
        refusal = self.charge(intent, intent["payment_method"], off_session=off_session)
        if refusal is not None:
            raise refusal
        return intent

    def _refuse(self, intent: Item, card: Card | None) -> ApiError:
        if card is None:
            code, kind = "payment_intent_unexpected_state", "invalid_request_error"
            message = "You cannot confirm this PaymentIntent because it's missing a payment method."
            decline = None
        else:
            code, kind, decline = card.code, "card_error", card.decline_code
            message = "Your card was declined."
            charge = self._add_charge(intent, card)
            self._log.emit("charge.failed", charge)
            intent["latest_charge"] = charge["id"]
        problem: Item = {"type": kind, "code": code, "message": message}
        if decline is not None:
            problem["decline_code"] = decline
        intent.update(
            last_payment_error=problem, status="requires_payment_method", next_action=None
        )
        intent["payment_method"] = None
        self._log.emit("payment_intent.payment_failed", intent)
        more: Item = {"payment_intent": intent}
        if decline is not None:
            more["decline_code"] = decline
        return ApiError(402 if card else 400, message, kind=kind, code=code, more=more)

    def _add_charge(self, intent: Item, refusal: Card | None) -> Item:
        paid = refusal is None
        return self.charges.add(
            {
                "id": self.charges.new_id(),
                "object": "charge",
                "amount": intent["amount"],
                "amount_captured": intent["amount"] if paid else 0,
                "amount_refunded": 0,
                "balance_transaction": None,
                "captured": paid,
                "created": epoch_seconds(self._clock()),
                "currency": intent["currency"],
                "customer": intent["customer"],
                "description": intent["description"],
                "disputed": False,
                "failure_code": None if refusal is None else refusal.code,
                "failure_message": None if paid else "Your card was declined.",
                "livemode": False,
                "metadata": dict(intent["metadata"]),
                "paid": paid,
                "payment_intent": intent["id"],
                "payment_method": intent["payment_method"],
                "receipt_url": None,
                "refunded": False,
                "status": "succeeded" if paid else "failed",
            }
        )

    def _check_owner(self, method: str, customer: str | None) -> None:
        self._methods.card_of(method)
        saved = self._methods.room.items.get(method)
        if saved is not None and saved["customer"] != customer:
            raise ApiError(
                400,
                "The provided PaymentMethod cannot be attached: it belongs to another customer.",
                param="payment_method",
            )


def _unexpected_state(intent: Item, verb: str) -> ApiError:
    return ApiError(
        400,
        f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}.",
        code="payment_intent_unexpected_state",
    )
