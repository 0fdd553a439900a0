"""Customers: who pays. Source: docs.stripe.com/api/customers."""

import re
from collections.abc import Mapping
from typing import Any

from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_rooms import PAGE, Item, Room, merged_metadata, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

CUSTOMERS_URL = "/v1/customers"
SEARCH_LIMIT_MAX = 100

_TEXTS = ("description", "email", "name", "phone")
_PARAMS = frozenset(
    {*_TEXTS, "address", "invoice_settings", "metadata", "payment_method", "tax_exempt"}
)
_INVOICE_SETTINGS = frozenset({"default_payment_method"})
_CLAUSE = re.compile(r"(?:(\w+)|metadata\[['\"]([^'\"]+)['\"]\])\s*:\s*(['\"])(.*?)\3")


class Customers:
    """The account's customers."""

    def __init__(self, settings: StripeSettings, clock: Clock, log: EventLog) -> None:
        self._clock = clock
        self._log = log
        self.room = Room("customer", "cus", CUSTOMERS_URL, settings.objects_max)

    def exists(self, customer_id: str) -> bool:
        """Whether there is such a customer, not deleted."""
        return customer_id in self.room.items and not self.room.items[customer_id].get("deleted")

    def add(self, customer_id: str, params: Mapping[str, Any]) -> Item:
        """Add a customer under an id of the caller's choice; ApiError if it is taken."""
        refuse_unmodelled(params, _PARAMS)
        customer = self.room.add(
            {
                "id": customer_id,
                "object": "customer",
                "address": params.get("address") or None,
                "balance": 0,
                "created": epoch_seconds(self._clock()),
                "currency": None,
                "default_source": None,
                "delinquent": False,
                **{name: params.get(name) or None for name in _TEXTS},
                "invoice_settings": {
                    "custom_fields": None,
                    "default_payment_method": None,
                    "footer": None,
                    "rendering_options": None,
                },
                "livemode": False,
                "metadata": metadata_of(params),
                "preferred_locales": [],
                "shipping": None,
                "tax_exempt": params.get("tax_exempt") or "none",
            }
        )
        self._log.emit("customer.created", customer)
        return customer

    def create(self, params: Mapping[str, Any]) -> Item:
        """Add a customer."""
        return self.add(self.room.new_id(), params)

    def update(self, customer_id: str, params: Mapping[str, Any]) -> Item:
        """Change texts and metadata."""
        refuse_unmodelled(params, _PARAMS - {"payment_method"})
        settings = params.get("invoice_settings", {})
        refuse_unmodelled(settings, _INVOICE_SETTINGS)
        customer = self.get(customer_id)
        given = {name: params[name] or None for name in (*_TEXTS, "address") if name in params}
        if "tax_exempt" in params:
            given["tax_exempt"] = params["tax_exempt"] or "none"
        return self.change(
            customer,
            {
                **given,
                "metadata": merged_metadata(customer["metadata"], params),
                "invoice_settings": {**customer["invoice_settings"], **settings},
            },
        )

    def change(self, customer: Item, fields: Mapping[str, Any]) -> Item:
        """Set fields and tell it, if anything is new."""
        previous = {
            name: customer[name] for name, value in fields.items() if customer[name] != value
        }
        if previous:
            customer.update(fields)
            self._log.emit("customer.updated", customer, previous)
        return customer

    def get(self, customer_id: str, *, param: str | None = None) -> Item:
        """One customer that is not deleted. Raises ApiError: 404, or 400 if `param` names it."""
        customer = self.room.get(customer_id, param=param)
        if customer.get("deleted"):
            raise ApiError(
                404 if param is None else 400,
                f"No such customer: '{customer_id}'",
                code="resource_missing",
                param=param or "id",
            )
        return customer

    def retrieve(self, customer_id: str) -> Item:
        """One customer; of a deleted one only that it is so."""
        customer = self.room.get(customer_id)
        if customer.get("deleted"):
            return {"id": customer_id, "object": "customer", "deleted": True}
        return customer

    def delete(self, customer_id: str) -> Item:
        """Delete a customer for good; the id stays taken."""
        customer = self.get(customer_id)
        self._log.emit("customer.deleted", customer)
        customer["deleted"] = True
        return self.retrieve(customer_id)

    def list(self, params: Mapping[str, Any]) -> Item:
        """One page of customers, newest first."""
        refuse_unmodelled(params, PAGE | {"created", "email"})
        shown = self.room.filtered(params, ("email",))
        return self.room.page_of([item for item in shown if not item.get("deleted")], params)

    def search(self, params: Mapping[str, Any]) -> Item:
        """
        Customers by `email:'...'`, `name:'...'` or `metadata['key']:'...'`, joined by AND.

        Raises:
            ApiError: For a query that is no such thing; Stripe's language can do more.
        """
        refuse_unmodelled(params, frozenset({"query", "limit"}))
        clauses = _clauses(params["query"])
        limit = min(params.get("limit", 10), SEARCH_LIMIT_MAX)
        found = [
            item
            for item in reversed(self.room.items.values())
            if not item.get("deleted") and all(_matches(item, *clause) for clause in clauses)
        ]
        return {
            "object": "search_result",
            "url": f"{CUSTOMERS_URL}/search",
            "has_more": len(found) > limit,
            "next_page": None,
            "data": found[:limit],
        }


def _clauses(query: str) -> list[tuple[str, str, str]]:
    clauses = []
    for part in re.split(r"\s+AND\s+", query.strip()):
        match = _CLAUSE.fullmatch(part)
        if match is None or match[1] not in (None, "email", "name"):
            raise ApiError(400, "We were unable to parse your search query.", param="query")
        clauses.append((match[1] or "", match[2] or "", match[4]))
    return clauses


def _matches(customer: Item, field: str, key: str, value: str) -> bool:
    found = customer["metadata"].get(key) if key else customer[field]
    return bool(found is not None and str(found).lower() == value.lower())
