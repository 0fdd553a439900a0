"""Saved cards: Stripe's test cards by their names. Source: docs.stripe.com/testing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sidecar.standins.stripe_customers import CUSTOMERS_URL, Customers
from sidecar.standins.stripe_errors import ApiError, missing, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_paging import page_of
from sidecar.standins.stripe_rooms import PAGE, Item, Room
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds


class Outcome(Enum):
    """What a card does when it is charged."""

    PAYS = 1
    DECLINES = 2
    ASKS = 3
    """It pays only while its owner is there to confirm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A test card: what it does, and the codes of its refusal."""

    outcome: Outcome
    last4: str
    code: str = "card_declined"
    decline_code: str | None = None


CARDS: Mapping[str, Card] = {
    "pm_card_visa": Card(outcome=Outcome.PAYS, last4="4242"),
    "pm_card_chargeCustomerFail": Card(
        outcome=Outcome.DECLINES, last4="0341", decline_code="generic_decline"
    ),
    "pm_card_visa_chargeDeclined": Card(
        outcome=Outcome.DECLINES, last4="0002", decline_code="generic_decline"
    ),
    "pm_card_visa_chargeDeclinedInsufficientFunds": Card(
        outcome=Outcome.DECLINES, last4="9995", decline_code="insufficient_funds"
    ),
    "pm_card_chargeDeclinedExpiredCard": Card(
        outcome=Outcome.DECLINES, last4="0069", code="expired_card"
    ),
    "pm_card_authenticationRequired": Card(
        outcome=Outcome.ASKS,
        last4="3184",
        code="authentication_required",
        decline_code="authentication_required",
    ),
}


class PaymentMethods:
    """The cards of the account's customers."""

    def __init__(
        self, settings: StripeSettings, clock: Clock, log: EventLog, customers: Customers
    ) -> None:
        self._clock = clock
        self._log = log
        self._customers = customers
        self._cards: dict[str, Card] = {}
        self.room = Room(
            "PaymentMethod",
            "pm",
            "/v1/payment_methods",
            settings.objects_max,
            path_name="payment_method",
        )

    def card_of(self, method_id: str, *, param: str | None = "payment_method") -> Card:
        """The card behind an id or a test card's name. Raises ApiError for neither."""
        if method_id in CARDS:
            return CARDS[method_id]
        if method_id not in self._cards:
            raise missing(
                "PaymentMethod", method_id, param=param or "payment_method", in_path=param is None
            )
        return self._cards[method_id]

    def attach(self, name: str, customer_id: str) -> Item:
        """
        Save a test card with a customer; a saved card of the customer stays as it is.

        Raises:
            ApiError: For an unknown card or customer, or somebody else's card.
        """
        card = self.card_of(name)
        self._customers.get(customer_id, param="customer")
        if name in self.room.items:
            if self.room.items[name]["customer"] != customer_id:
                raise ApiError(
                    400,
                    "The payment method you provided has already been attached to a customer.",
                    code="payment_method_unexpected_state",
                )
            return self.room.items[name]
        method = self.room.add(
            {
                "id": self.room.new_id(),
                "object": "payment_method",
                "allow_redisplay": "unspecified",
                "billing_details": {"address": None, "email": None, "name": None, "phone": None},
                "card": {
                    "brand": "visa",
                    "country": "US",
                    "exp_month": 12,
                    "exp_year": 2040,
                    "funding": "credit",
                    "last4": card.last4,
                },
                "created": epoch_seconds(self._clock()),
                "customer": customer_id,
                "livemode": False,
                "metadata": {},
                "type": "card",
            }
        )
        self._cards[method["id"]] = card
        self._log.emit("payment_method.attached", method)
        return method

    def attach_by(self, name: str, params: Mapping[str, Any]) -> Item:
        """POST /v1/payment_methods/{name}/attach."""
        refuse_unmodelled(params, frozenset({"customer"}))
        if "customer" not in params:
            raise ApiError(
                400,
                "Missing required param: customer.",
                code="parameter_missing",
                param="customer",
            )
        self.card_of(name, param=None)
        return self.attach(name, params["customer"])

    def make_default(self, name: str, customer_id: str) -> Item:
        """Save a card and let it pay the customer's invoices."""
        method = self.attach(name, customer_id)
        customer = self._customers.get(customer_id)
        settings = {**customer["invoice_settings"], "default_payment_method": method["id"]}
        self._customers.change(customer, {"invoice_settings": settings})
        return method

    def of_customer(self, customer_id: str, params: Mapping[str, Any]) -> Item:
        """One page of a customer's saved cards."""
        refuse_unmodelled(params, PAGE | {"type"})
        self._customers.get(customer_id)
        shown = self.room.filtered({"customer": customer_id}, ("customer",))
        if params.get("type") not in (None, "card"):
            shown = []
        return page_of(shown, params, f"{CUSTOMERS_URL}/{customer_id}/payment_methods")
