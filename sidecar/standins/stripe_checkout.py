"""
Checkout sessions that take one payment, and payment links that open them.

Source: docs.stripe.com/api/checkout/sessions and docs.stripe.com/api/payment-link. Nobody visits
the page: a test or the demo completes a session.
"""

import itertools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sidecar.standins.stripe_agenda import Agenda
from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, not_modelled, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_payments import Payments
from sidecar.standins.stripe_prices import cost_of, rounded
from sidecar.standins.stripe_rooms import PAGE, Item, Room, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

SESSIONS_URL = "/v1/checkout/sessions"
LINES_MAX = 100
OPEN_SECONDS = 24 * 3_600
OPEN_SECONDS_MIN = 30 * 60

_SESSION = frozenset(
    {
        *("automatic_tax", "cancel_url", "client_reference_id", "currency", "customer"),
        *("customer_creation", "customer_email", "expires_at", "line_items", "metadata", "mode"),
        *("payment_intent_data", "success_url", "ui_mode"),
    }
)
_LINE = frozenset({"price", "price_data", "quantity"})
_INTENT = frozenset({"description", "metadata", "receipt_email", "setup_future_usage"})


class Checkout:
    """The account's checkout sessions."""

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        log: EventLog,
        customers: Customers,
        agenda: Agenda,
        catalog: Catalog,
        payments: Payments,
    ) -> None:
        self._clock = clock
        self._log = log
        self._customers = customers
        self._agenda = agenda
        self._catalog = catalog
        self._payments = payments
        self._line_numbers = itertools.count(1)
        self._lines: dict[str, list[Item]] = {}
        self._intent_data: dict[str, Mapping[str, Any]] = {}
        self.room = Room(
            "checkout.session", "cs_test", SESSIONS_URL, settings.objects_max, path_name="session"
        )

    def create(self, params: Mapping[str, Any], *, link: str | None = None) -> Item:
        """
        Open a session.

        Raises:
            ApiError: For another mode than payment (501), an unknown customer or price, lines of
                several currencies, or an end that is too near or too far.
        """
        refuse_unmodelled(params, _SESSION)
        if params.get("mode") != "payment":
            raise not_modelled("checkout in another mode than payment")
        if params.get("ui_mode", "hosted_page") != "hosted_page":
            raise not_modelled("checkout that is embedded")
        if params.get("automatic_tax", {}).get("enabled"):
            raise not_modelled("automatic tax")
        if "success_url" not in params and link is None:
            raise ApiError(
                400,
                "Missing required param: success_url.",
                code="parameter_missing",
                param="success_url",
            )
        if {"customer", "customer_email"} <= params.keys():
            raise ApiError(400, "You may only specify one of: customer, customer_email.")
        if "customer" in params:
            self._customers.get(params["customer"], param="customer")
        intent_data = params.get("payment_intent_data", {})
        refuse_unmodelled(intent_data, _INTENT)
        lines = self.lines(params.get("line_items", []))
        now = epoch_seconds(self._clock())
        expires = params.get("expires_at", now + OPEN_SECONDS)
        if not now + OPEN_SECONDS_MIN <= expires <= now + OPEN_SECONDS:
            raise ApiError(
                400,
                "The `expires_at` timestamp must be 30 minutes to 24 hours from now.",
                param="expires_at",
            )
        session = self.room.add(self._session(params, lines, expires, link))
        self._lines[session["id"]] = lines
        self._intent_data[session["id"]] = dict(intent_data)
        self._agenda.at(expires, lambda: self._expire_if_open(session))
        return session

    def expire(self, session_id: str) -> Item:
        """End an open session; its page takes no payment any more."""
        session = self._open(session_id)
        session.update(status="expired", url=None)
        self._log.emit("checkout.session.expired", session)
        return session

    def list_lines(self, session_id: str, params: Mapping[str, Any]) -> Item:
        """One page of a session's lines."""
        refuse_unmodelled(params, PAGE)
        self.room.get(session_id)
        page = self.room.page_of(self._lines[session_id], params)
        return {**page, "url": f"{SESSIONS_URL}/{session_id}/line_items"}

    def complete(self, session_id: str, *, card: str, email: str, delayed: bool = False) -> Item:
        """
        Somebody pays on the session's page.

        Args:
            session_id: An open session.
            card: A test card's name; one that refuses leaves the session open.
            email: What the payer types, if the session knows no customer.
            delayed: The money comes later, or never: see `settle`.

        Raises:
            ApiError: If the session is not open.
        """
        session = self._open(session_id)
        self._identify(session, email)
        data = self._intent_data[session_id]
        intent = self._payments.open(
            session["amount_total"],
            session["currency"],
            customer=session["customer"],
            metadata=metadata_of(data),
            setup_future_usage=data.get("setup_future_usage"),
        )
        intent["description"] = data.get("description")
        session["payment_intent"] = intent["id"]
        if delayed:
            intent["status"] = "processing"
            self._log.emit("payment_intent.processing", intent)
        else:
            self._payments.charge(intent, card, off_session=False)
            if intent["status"] == "requires_action":
                self._payments.succeed(intent)  # The payer is there, and confirms.
            if intent["status"] != "succeeded":
                return session
        paid = "unpaid" if delayed else "paid"
        session.update(status="complete", payment_status=paid, url=None)
        self._log.emit("checkout.session.completed", session)
        return session

    def settle(self, session_id: str, *, paid: bool) -> Item:
        """The money of a delayed payment comes, or does not."""
        session = self.room.get(session_id)
        intent = self._payments.intents.get(session["payment_intent"] or "")
        if intent["status"] != "processing":
            raise ApiError(400, "The session waits for no delayed payment.")
        if paid:
            self._payments.succeed(intent)
            session["payment_status"] = "paid"
            self._log.emit("checkout.session.async_payment_succeeded", session)
        else:
            self._payments.charge(intent, "pm_card_chargeCustomerFail", off_session=True)
            self._log.emit("checkout.session.async_payment_failed", session)
        return session

    def lines(self, given: Sequence[Mapping[str, Any]]) -> list[Item]:
        """
        Line items from parameters; inline prices become prices of the catalog.

        Raises:
            ApiError: For none or too many, an unknown price, or several currencies.
        """
        if not 1 <= len(given) <= LINES_MAX:
            raise ApiError(400, f"line_items has 1 to {LINES_MAX} items.", param="line_items")
        lines = []
        for index, line in enumerate(given):
            refuse_unmodelled(line, _LINE)
            place = f"line_items[{index}]"
            quantity = line.get("quantity", 0)
            if quantity < 1:
                raise ApiError(400, "Quantity must be at least 1.", param=f"{place}[quantity]")
            if ("price" in line) == ("price_data" in line):
                raise ApiError(400, "Give price or price_data.", param=place)
            price = (
                self._catalog.find_price(line["price"], param=f"{place}[price]")
                if "price" in line
                else self._catalog.create_price(line["price_data"])
            )
            if price["recurring"] is not None:
                raise ApiError(
                    400,
                    "You must provide at least one recurring price in `subscription` mode and "
                    "none in `payment` mode.",
                    param=f"{place}[price]",
                )
            amount = rounded(cost_of(price, Decimal(quantity)))
            lines.append(
                {
                    "id": f"li_standin{next(self._line_numbers):08d}",
                    "object": "item",
                    "amount_discount": 0,
                    "amount_subtotal": amount,
                    "amount_tax": 0,
                    "amount_total": amount,
                    "currency": price["currency"],
                    "description": self._catalog.find_product(price["product"])["name"],
                    "price": {name: value for name, value in price.items() if name != "tiers"},
                    "quantity": quantity,
                }
            )
        if len({line["currency"] for line in lines}) != 1:
            raise ApiError(400, "All line items must have the same currency.", param="line_items")
        return lines

    def _session(
        self, params: Mapping[str, Any], lines: Sequence[Item], expires: int, link: str | None
    ) -> Item:
        session_id = self.room.new_id()
        amount = sum(line["amount_total"] for line in lines)
        return {
            "id": session_id,
            "object": "checkout.session",
            "amount_subtotal": amount,
            "amount_total": amount,
            "automatic_tax": {"enabled": False, "liability": None, "status": None},
            "cancel_url": params.get("cancel_url"),
            "client_reference_id": params.get("client_reference_id"),
            "client_secret": None,
            "created": epoch_seconds(self._clock()),
            "currency": lines[0]["currency"],
            "customer": params.get("customer"),
            "customer_creation": params.get("customer_creation", "if_required"),
            "customer_details": None,
            "customer_email": params.get("customer_email"),
            "expires_at": expires,
            "invoice": None,
            "livemode": False,
            "metadata": metadata_of(params),
            "mode": "payment",
            "payment_intent": None,
            "payment_link": link,
            "payment_method_collection": "if_required",
            "payment_method_types": ["card"],
            "payment_status": "unpaid",
            "setup_intent": None,
            "status": "open",
            "subscription": None,
            "success_url": params.get("success_url"),
            "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
            "ui_mode": "hosted_page",
            "url": f"https://checkout.stripe.com/c/pay/{session_id}",
        }

    def _identify(self, session: Item, email: str) -> None:
        """Who pays: the session's customer, or what the payer types."""
        known = session["customer"]
        email = session["customer_email"] or email
        if known is not None:
            email = self._customers.get(known)["email"] or email
        elif session["customer_creation"] == "always":
            session["customer"] = self._customers.create({"email": email})["id"]
        session["customer_details"] = {
            "address": None,
            "email": email,
            "name": None,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        }

    def _open(self, session_id: str) -> Item:
        session = self.room.get(session_id)
        if session["status"] != "open":
            raise ApiError(
                400,
                f'Only Checkout Sessions with a status in ["open"] can do this; it is '
                f"{session['status']}.",
            )
        return session

    def _expire_if_open(self, session: Item) -> None:
        if session["status"] == "open":
            self.expire(session["id"])


class PaymentLinks:
    """The account's payment links: each visit opens a session."""

    def __init__(self, settings: StripeSettings, checkout: Checkout) -> None:
        self._checkout = checkout
        self._params: dict[str, Mapping[str, Any]] = {}
        self.room = Room(
            "payment_link",
            "plink",
            "/v1/payment_links",
            settings.objects_max,
            path_name="payment_link",
        )

    def create(self, params: Mapping[str, Any]) -> Item:
        """Add a link. Raises ApiError for lines that no session could have."""
        modelled = {"customer_creation", "line_items", "metadata", "payment_intent_data"}
        refuse_unmodelled(params, frozenset(modelled))
        data = params.get("payment_intent_data", {})
        refuse_unmodelled(data, _INTENT)
        lines = self._checkout.lines(params["line_items"])
        link_id = self.room.new_id()
        link = self.room.add(
            {
                "id": link_id,
                "object": "payment_link",
                "active": True,
                "currency": lines[0]["currency"],
                "customer_creation": params.get("customer_creation", "if_required"),
                "livemode": False,
                "metadata": metadata_of(params),
                "payment_intent_data": {
                    "description": data.get("description"),
                    "metadata": metadata_of(data),
                    "setup_future_usage": data.get("setup_future_usage"),
                },
                "url": f"https://buy.stripe.com/test_{link_id}",
            }
        )
        prices = [{"price": line["price"]["id"], "quantity": line["quantity"]} for line in lines]
        self._params[link_id] = {**params, "line_items": prices, "mode": "payment"}
        return link

    def update(self, link_id: str, params: Mapping[str, Any]) -> Item:
        """Switch a link on or off."""
        refuse_unmodelled(params, frozenset({"active"}))
        link = self.room.get(link_id)
        link["active"] = params.get("active", link["active"])
        return link

    def visit(self, link_id: str) -> Item:
        """Somebody opens the link: a session of its own. Raises ApiError if it is off."""
        if not self.room.get(link_id)["active"]:
            raise ApiError(400, "The payment link is not active.")
        return self._checkout.create(self._params[link_id], link=link_id)
