"""Customers, saved cards and transactions of the Paystack stand-in."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sidecar.standins.paystack_errors import PaystackError, take

CURRENCIES = frozenset({"NGN", "GHS", "ZAR", "KES", "USD"})
OBJECTS_MAX = 100_000
_REFERENCE = re.compile(r"[A-Za-z0-9.=-]{1,100}", re.ASCII)
_CHARGE_PARAMS: dict[str, type | tuple[type, ...]] = {
    "email": str,
    "amount": (int, str),
    "currency": str,
    "authorization_code": str,
    "reference": str,
    "queue": bool,
    "metadata": dict,
}

Emit = Callable[[str, dict[str, Any]], None]


class Card(StrEnum):
    """What happens when a saved card is charged."""

    SUCCEEDS = "succeeds"
    FAILS = "fails"
    PENDS = "pends"
    CHALLENGES = "challenges"
    INACTIVE = "inactive"


@dataclass(slots=True)
class Customer:
    """A customer of the account."""

    id: int
    code: str
    email: str

    def to_json(self) -> dict[str, Any]:
        """As Paystack shows it."""
        return {"id": self.id, "customer_code": self.code, "email": self.email, "domain": "test"}


@dataclass(slots=True)
class Transaction:
    """One charge; its reference is taken for ever."""

    id: int
    reference: str
    amount: int
    currency: str
    email: str
    status: str
    metadata: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As Paystack shows it."""
        words = {"success": "Approved", "failed": "Declined"}.get(self.status, "")
        return {
            "id": self.id,
            "domain": "test",
            "status": self.status,
            "reference": self.reference,
            "amount": self.amount,
            "currency": self.currency,
            "gateway_response": words,
            "metadata": self.metadata,
            "customer": {"email": self.email},
        }


class Transactions:
    """The account's customers, cards and charges."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._ids = itertools.count(1_001)
        self._customers: dict[str, Customer] = {}
        self._cards: dict[str, tuple[str, Card]] = {}
        self.charges: dict[str, Transaction] = {}

    def next_id(self) -> int:
        """One sequence for everything."""
        return next(self._ids)

    def create_customer(self, params: dict[str, Any]) -> dict[str, Any]:
        """A new customer, or the one with this email."""
        email = take(params, {"email": str, "first_name": str, "last_name": str}, ("email",))[
            "email"
        ].lower()
        for one in self._customers.values():
            if one.email == email:
                return one.to_json()
        self._bound(self._customers)
        number = self.next_id()
        customer = Customer(id=number, code=f"CUS_standin{number}", email=email)
        self._customers[customer.code] = customer
        return customer.to_json()

    def find_customer(self, name: str | int) -> Customer:
        """By code, email or number."""
        for one in self._customers.values():
            if name in (one.code, one.email, one.id, str(one.id)):
                return one
        raise PaystackError(404, "Customer not found", code="customer_not_found")

    def add_card(self, code: str, email: str, card: Card) -> None:
        """Save a card, or change what happens with it."""
        self._cards[code] = (email.lower(), card)

    def charge(self, params: dict[str, Any]) -> dict[str, Any]:
        """Charge a saved card. Raises PaystackError for a reference that is taken."""
        take(params, _CHARGE_PARAMS, ("email", "amount", "authorization_code"))
        reference = str(params.get("reference") or f"standin{self.next_id()}")
        if not _REFERENCE.fullmatch(reference):
            raise PaystackError(400, "Invalid character in transaction reference")
        amount = _amount(params["amount"])
        currency = str(params.get("currency", "NGN"))
        if currency not in CURRENCIES:
            raise PaystackError(
                403, "Currency not supported by merchant", code="unsupported_currency"
            )
        email, card = self._cards.get(str(params["authorization_code"]), ("", Card.INACTIVE))
        if card is Card.INACTIVE:
            raise PaystackError(400, "Authorization code does not exist or has been deactivated")
        if email != str(params["email"]).lower():
            raise PaystackError(400, "Email does not match Authorization code. Please confirm")
        if reference in self.charges:
            raise PaystackError(400, "Duplicate Transaction Reference", code="duplicate_reference")
        self._bound(self.charges)
        status = {
            Card.SUCCEEDS: "success",
            Card.FAILS: "failed",
            Card.PENDS: "processing",
            Card.CHALLENGES: "abandoned",
        }[card]
        made = Transaction(
            id=self.next_id(),
            reference=reference,
            amount=amount,
            currency=currency,
            email=email,
            status=status,
            metadata=dict(params.get("metadata") or {}),
        )
        self.charges[reference] = made
        if status == "success":
            self._emit("charge.success", made.to_json())
        if card is Card.CHALLENGES:
            return {
                "paused": True,
                "reference": reference,
                "authorization_url": "https://checkout.paystack.test/confirm",
            }
        return made.to_json()

    def verify(self, reference: str) -> dict[str, Any]:
        """What became of a reference."""
        found = self.charges.get(reference)
        if found is None:
            raise PaystackError(
                400, "Transaction reference not found.", code="transaction_not_found"
            )
        return found.to_json()

    def settle(self, reference: str, status: str) -> None:
        """Decide a charge that was pending, or reverse one that was paid."""
        found = self.charges[reference]
        found.status = status
        if status == "success":
            self._emit("charge.success", found.to_json())

    def _bound(self, objects: dict[str, Any]) -> None:
        if len(objects) >= OBJECTS_MAX:
            raise PaystackError(400, "Stand-in: too many objects")


def _amount(value: int | str) -> int:
    text = str(value)
    if not text.isdecimal() or int(text) <= 0:
        raise PaystackError(400, "Amount must be an integer", code="invalid_amount")
    return int(text)
