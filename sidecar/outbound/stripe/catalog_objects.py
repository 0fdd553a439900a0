"""Stripe's meters, products and prices, as plain data, to ours."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sidecar.domain.catalog import FoundMeter, FoundPrice, FoundProduct, PriceContent, Tier

_SCHEME_TIERED = "tiered"


def read_meter(item: Mapping[str, Any]) -> FoundMeter:
    """A billing meter."""
    mapping, value = item.get("customer_mapping") or {}, item.get("value_settings") or {}
    return FoundMeter(
        id=item["id"],
        event_name=item["event_name"],
        display_name=item.get("display_name") or "",
        active=item["status"] == "active",
        formula=item["default_aggregation"]["formula"],
        customer_key=mapping.get("event_payload_key", ""),
        value_key=value.get("event_payload_key", ""),
        window=item.get("event_time_window") or "",
    )


def read_product(item: Mapping[str, Any]) -> FoundProduct:
    """A product."""
    return FoundProduct(
        id=item["id"],
        name=item["name"],
        active=item["active"],
        metadata=dict(item.get("metadata") or {}),
    )


def read_price(item: Mapping[str, Any], event_names: Mapping[str, str]) -> FoundPrice:
    """
    A price; one that has what ours never have keeps its id and says what that is.

    Args:
        item: With its tiers.
        event_names: Of all meters by their ids.
    """
    recurring = item.get("recurring") or {}
    meter_id = recurring.get("meter") or ""
    unreadable = _unreadable(item, event_names)
    product = item["product"]
    return FoundPrice(
        id=item["id"],
        product_id=product["id"] if isinstance(product, Mapping) else product,
        meter_id=meter_id,
        content=None if unreadable else _content(item, event_names.get(meter_id, "")),
        active=item["active"],
        lookup_key=item.get("lookup_key") or "",
        metadata=dict(item.get("metadata") or {}),
        unreadable=unreadable,
    )


def _unreadable(item: Mapping[str, Any], event_names: Mapping[str, str]) -> str:
    """Why no plan of ours can have written the price; "" if one can."""
    recurring = item.get("recurring")
    if not recurring:
        return "it is a one-time price"
    if item.get("custom_unit_amount"):
        return "its amount is the customer's choice"
    if recurring.get("usage_type") == "metered":
        if not recurring.get("meter"):
            return "it is metered by usage records, which Stripe no longer has"
        if recurring["meter"] not in event_names:
            return f"its meter {recurring['meter']} is not there"
    elif item.get("billing_scheme") == _SCHEME_TIERED:
        return "it has tiers of a number that is no usage"
    if recurring.get("trial_period_days"):
        return "it has a trial period of its own"
    if item.get("billing_scheme") == _SCHEME_TIERED:
        return "" if item.get("tiers") else "its tiers are not shown"
    return "" if _amount(item, "unit_amount") is not None else "it has no amount"


def _content(item: Mapping[str, Any], meter: str) -> PriceContent:
    recurring = item["recurring"]
    tiers = tuple(
        Tier(
            up_to=tier.get("up_to"),
            unit=_amount(tier, "unit_amount") or Decimal(0),
            flat=_amount(tier, "flat_amount") or Decimal(0),
        )
        for tier in item.get("tiers") or ()
    )
    transform = item.get("transform_quantity") or {}
    # A package of one unit is a unit.
    divide_by = int(transform.get("divide_by", 1))
    return PriceContent(
        currency=str(item["currency"]).upper(),
        meter=meter,
        unit=None if tiers else _amount(item, "unit_amount"),
        divide_by=divide_by,
        round=str(transform["round"]) if divide_by > 1 else "",
        tiers=tiers,
        tiers_mode=item.get("tiers_mode") or "" if tiers else "",
        interval=recurring["interval"],
        interval_count=int(recurring.get("interval_count") or 1),
        tax_behavior=item.get("tax_behavior") or "unspecified",
    )


def _amount(item: Mapping[str, Any], name: str) -> Decimal | None:
    """An amount in minor units, by its exact field."""
    exact = item.get(f"{name}_decimal")
    given = item.get(name) if exact is None else exact
    return None if given is None else Decimal(str(given))
