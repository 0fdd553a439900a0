"""
Subscriptions and their items: who has agreed to which prices, and in what standing.

What an invoice makes of them is in stripe_cycles. Source: docs.stripe.com/api/subscriptions and
docs.stripe.com/billing/subscriptions/overview#subscription-statuses.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.standins.stripe_catalog import Catalog
from sidecar.standins.stripe_customers import Customers
from sidecar.standins.stripe_errors import ApiError, missing, not_modelled, refuse_unmodelled
from sidecar.standins.stripe_event_log import EventLog
from sidecar.standins.stripe_payment_methods import PaymentMethods
from sidecar.standins.stripe_rooms import PAGE, Item, Room, merged_metadata, metadata_of
from sidecar.standins.stripe_settings import Clock, StripeSettings, epoch_seconds

SUBSCRIPTIONS_URL = "/v1/subscriptions"
ITEMS_MAX = 20
DAYS_UNTIL_DUE_MAX = 365
ENDED = ("canceled", "incomplete_expired")

_CREATE = frozenset(
    {
        *("billing_cycle_anchor", "billing_mode", "cancel_at_period_end", "collection_method"),
        *("currency", "customer", "days_until_due", "default_payment_method", "description"),
        *("items", "metadata", "off_session", "payment_behavior", "proration_behavior"),
        *("trial_end", "trial_period_days"),
    }
)
_UPDATE = frozenset(
    {
        *("cancel_at_period_end", "collection_method", "days_until_due"),
        *("default_payment_method", "description", "items", "metadata", "off_session"),
        *("proration_behavior", "trial_end"),
    }
)
_NEW_ITEM = frozenset({"metadata", "price", "quantity"})
_ITEM = _NEW_ITEM | {"deleted", "id"}


class Subscriptions:
    """The account's subscriptions. Dates are seconds since 1970."""

    def __init__(
        self,
        *,
        settings: StripeSettings,
        clock: Clock,
        log: EventLog,
        customers: Customers,
        catalog: Catalog,
        methods: PaymentMethods,
    ) -> None:
        self._clock = clock
        self._log = log
        self._customers = customers
        self._catalog = catalog
        self._methods = methods
        self._item_numbers = itertools.count(1)
        self.room = Room(
            "subscription",
            "sub",
            SUBSCRIPTIONS_URL,
            settings.objects_max,
            path_name="subscription",
        )

    def build(self, params: Mapping[str, Any], start: int) -> Item:
        """
        A subscription from its parameters, not kept yet and without periods.

        Raises:
            ApiError: For an unknown customer, price or card, or prices that do not go together.
        """
        refuse_unmodelled(params, _CREATE)
        if "customer" not in params:
            raise ApiError(
                400, "Missing required param: customer.", code="parameter_missing", param="customer"
            )
        customer = self._customers.get(params["customer"], param="customer")
        method = params.get("default_payment_method")
        if method is not None:
            self._methods.card_of(method, param="default_payment_method")
        collection = _collection(params)
        given = params.get("items", [])
        if not 1 <= len(given) <= ITEMS_MAX:
            raise ApiError(400, f"A subscription has 1 to {ITEMS_MAX} items.", param="items")
        for item in given:
            refuse_unmodelled(item, _NEW_ITEM)
        subscription_id = self.room.new_id()
        items = [self._new_item(subscription_id, item, index) for index, item in enumerate(given)]
        _check_items(items)
        return {
            "id": subscription_id,
            "object": "subscription",
            "application": None,
            "automatic_tax": {"enabled": False},
            "billing_cycle_anchor": start,
            "billing_mode": {"type": "flexible"},
            "cancel_at": None,
            "cancel_at_period_end": params.get("cancel_at_period_end", False),
            "canceled_at": None,
            "collection_method": collection,
            "created": epoch_seconds(self._clock()),
            "currency": items[0]["price"]["currency"],
            "customer": customer["id"],
            "days_until_due": params.get("days_until_due"),
            "default_payment_method": method,
            "default_source": None,
            "default_tax_rates": [],
            "description": params.get("description") or None,
            "discounts": [],
            "ended_at": None,
            "items": {
                "object": "list",
                "data": items,
                "has_more": False,
                "url": f"/v1/subscription_items?subscription={subscription_id}",
            },
            "latest_invoice": None,
            "livemode": False,
            "metadata": metadata_of(params),
            "pause_collection": None,
            "pending_update": None,
            "schedule": None,
            "start_date": start,
            "status": "active",
            "test_clock": None,
            "trial_end": None,
            "trial_start": None,
        }

    def change(self, subscription: Item, params: Mapping[str, Any]) -> Item:
        """
        Apply an update and tell what changed.

        Raises:
            ApiError: For an ended subscription, or a change that would have to be prorated
                without `proration_behavior=none` (501).
        """
        refuse_unmodelled(params, _UPDATE)
        self._refuse_ended(subscription)
        fields: Item = {
            name: params[name] or None
            for name in ("default_payment_method", "description")
            if name in params
        }
        if fields.get("default_payment_method"):
            self._methods.card_of(params["default_payment_method"], param="default_payment_method")
        if {"collection_method", "days_until_due"} & params.keys():
            both = {**subscription, **params}
            fields["collection_method"] = _collection(both)
            fields["days_until_due"] = both.get("days_until_due")
        if "cancel_at_period_end" in params:
            ends = params["cancel_at_period_end"]
            now = epoch_seconds(self._clock())
            end = period_of(subscription)[1]
            fields["cancel_at_period_end"] = ends
            fields["cancel_at"] = end if ends else None
            fields["canceled_at"] = now if ends else None
        if "items" in params:
            proration = params.get("proration_behavior", "create_prorations")
            items = self._changed_items(subscription, params["items"], proration)
            fields["items"] = {**subscription["items"], "data": items}
        fields["metadata"] = merged_metadata(subscription["metadata"], params)
        return self.set_fields(subscription, fields)

    def set_fields(self, subscription: Item, fields: Mapping[str, Any]) -> Item:
        """Set fields and tell it, if anything is new."""
        previous = {
            name: copy.deepcopy(subscription[name])
            for name, value in fields.items()
            if subscription[name] != value
        }
        subscription.update(fields)
        if previous:
            self._log.emit("customer.subscription.updated", subscription, previous)
        return subscription

    def end(self, subscription: Item, *, status: str = "canceled") -> Item:
        """End a subscription now; what is open stays open."""
        now = epoch_seconds(self._clock())
        subscription["canceled_at"] = subscription["canceled_at"] or now
        subscription.update(status=status, ended_at=now)
        self._log.emit("customer.subscription.deleted", subscription)
        return subscription

    def live(self, subscription_id: str) -> Item:
        """A subscription that has not ended. Raises ApiError otherwise."""
        subscription = self.room.get(subscription_id)
        self._refuse_ended(subscription)
        return subscription

    def page(self, params: Mapping[str, Any]) -> Item:
        """One page of subscriptions: without a status those that have not ended."""
        refuse_unmodelled(
            params, PAGE | {"collection_method", "created", "customer", "price", "status"}
        )
        status = params.get("status")
        shown = [
            item
            for item in self.room.filtered(params, ("collection_method", "customer"))
            if _has_status(item, status)
            and params.get("price") in (None, *(line["price"]["id"] for line in items_of(item)))
        ]
        return self.room.page_of(shown, params)

    def list_items(self, params: Mapping[str, Any]) -> Item:
        """One page of a subscription's items."""
        refuse_unmodelled(params, PAGE | {"subscription"})
        subscription = self.room.get(params["subscription"], param="subscription")
        return self.room.page_of(items_of(subscription), params)

    def _refuse_ended(self, subscription: Item) -> None:
        if subscription["status"] in ENDED:
            raise missing("subscription", subscription["id"], param="id", in_path=True)

    def _new_item(self, subscription_id: str, params: Mapping[str, Any], index: int) -> Item:
        place = f"items[{index}]"
        if "price" not in params:
            raise ApiError(
                400,
                f"Missing required param: {place}[price].",
                code="parameter_missing",
                param=f"{place}[price]",
            )
        price = self._catalog.find_price(params["price"], param=f"{place}[price]")
        if not price["active"]:
            raise ApiError(400, "The price specified is inactive.", param=f"{place}[price]")
        if price["recurring"] is None:
            raise ApiError(
                400, "The price specified is set to `type=one_time`.", param=f"{place}[price]"
            )
        metered = is_metered(price)
        if metered and "quantity" in params:
            raise ApiError(
                400,
                "A quantity cannot be set for a metered price: usage sets it.",
                param=f"{place}[quantity]",
            )
        item = {
            "id": f"si_standin{next(self._item_numbers):08d}",
            "object": "subscription_item",
            "created": epoch_seconds(self._clock()),
            "current_period_end": 0,
            "current_period_start": 0,
            "discounts": [],
            "metadata": metadata_of(params),
            "price": {name: value for name, value in price.items() if name != "tiers"},
            "subscription": subscription_id,
            "tax_rates": [],
        }
        return item if metered else {**item, "quantity": params.get("quantity", 1)}

    def _changed_items(
        self, subscription: Item, changes: Sequence[Mapping[str, Any]], proration: str
    ) -> list[Item]:
        items = {item["id"]: copy.deepcopy(item) for item in items_of(subscription)}
        start, end = period_of(subscription)
        for index, change in enumerate(changes):
            refuse_unmodelled(change, _ITEM)
            known = items.get(change.get("id", ""))
            if "id" in change and known is None:
                raise missing(
                    "subscription item", change["id"], param=f"items[{index}][id]", in_path=False
                )
            if change.get("deleted"):
                item = items.pop(change.get("id", ""), None)
            elif known is None or "price" in change:
                item = self._new_item(subscription["id"], change, index)
                if known is not None:
                    item["id"] = known["id"]
                    item["metadata"] = merged_metadata(known["metadata"], change)
                item.update(current_period_start=start, current_period_end=end)
                items[item["id"]] = item
            else:
                item = known
                if "quantity" in change:
                    if is_metered(known["price"]):
                        raise ApiError(400, "Usage sets the quantity of a metered price.")
                    known["quantity"] = change["quantity"]
                known["metadata"] = merged_metadata(known["metadata"], change)
            costs = [entry for entry in (item, known) if entry and not is_metered(entry["price"])]
            moves = change.keys() & {"price", "quantity", "deleted"}
            if costs and moves and proration != "none" and subscription["status"] != "trialing":
                raise not_modelled("prorations; send proration_behavior=none")
        _check_items(list(items.values()))
        return list(items.values())


def is_metered(price: Item) -> bool:
    """Whether usage sets the quantity."""
    return bool(price["recurring"] and price["recurring"]["usage_type"] == "metered")


def items_of(subscription: Item) -> Sequence[Item]:
    """The items of a subscription."""
    items: Sequence[Item] = subscription["items"]["data"]
    return items


def period_of(subscription: Item) -> tuple[int, int]:
    """The current period [start, end): the same for all items."""
    first = items_of(subscription)[0]
    return first["current_period_start"], first["current_period_end"]


def _collection(params: Mapping[str, Any]) -> str:
    collection: str = params.get("collection_method") or "charge_automatically"
    days = params.get("days_until_due")
    if (collection == "send_invoice") != (days is not None):
        raise ApiError(
            400,
            "days_until_due goes with collection_method=send_invoice, and only with it.",
            param="days_until_due",
        )
    if days is not None and not 0 <= days <= DAYS_UNTIL_DUE_MAX:
        raise ApiError(400, "Invalid number of days", param="days_until_due")
    return collection


def _check_items(items: Sequence[Item]) -> None:
    if not items:
        raise ApiError(400, "A subscription must have at least one active item.", param="items")
    prices = [item["price"] for item in items]
    if len({price["id"] for price in prices}) != len(prices):
        raise ApiError(400, "Cannot add multiple subscription items with the same price.")
    if len({price["currency"] for price in prices}) != 1:
        raise ApiError(400, "All prices of a subscription must have the same currency.")
    cycles = {(p["recurring"]["interval"], p["recurring"]["interval_count"]) for p in prices}
    if len(cycles) != 1:
        raise not_modelled("subscriptions of several intervals")


def _has_status(subscription: Item, wanted: str | None) -> bool:
    status = subscription["status"]
    if wanted in (None, "all"):
        return wanted == "all" or status != "canceled"
    return bool(status in ENDED if wanted == "ended" else status == wanted)
