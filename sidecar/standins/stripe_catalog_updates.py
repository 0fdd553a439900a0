"""
Changes of products and prices. Source: docs.stripe.com/api/{products,prices}/update.

A price's amount, currency, product and recurrence never change; a lookup key moves only if the
call says `transfer_lookup_key`.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled

_PRODUCT = frozenset({"active", "description", "metadata", "name", "unit_label"})
_PRICE = frozenset(
    {
        "active",
        "expand",
        "lookup_key",
        "metadata",
        "nickname",
        "tax_behavior",
        "transfer_lookup_key",
    }
)
_UNSPECIFIED = "unspecified"


def update_product(product: dict[str, Any], params: Mapping[str, Any], now: int) -> dict[str, Any]:
    """Change a product in place and answer it; metadata is merged."""
    refuse_unmodelled(params, _PRODUCT)
    for name in ("active", "name"):
        if name in params:
            product[name] = params[name]
    for name in ("description", "unit_label"):
        if name in params:
            product[name] = params[name] or None
    _merge_metadata(product, params)
    product["updated"] = now
    return product


def update_price(
    price: dict[str, Any], params: Mapping[str, Any], prices: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """
    Change a price in place and answer it.

    Raises:
        ApiError: If the lookup key is another's and is not to be transferred, or the tax
            behaviour is settled.
    """
    refuse_unmodelled(params, _PRICE)
    tax = params.get("tax_behavior", price["tax_behavior"])
    if tax != price["tax_behavior"] and price["tax_behavior"] != _UNSPECIFIED:
        raise ApiError(
            400, "You cannot change the tax behavior once it is set.", param="tax_behavior"
        )
    if "lookup_key" in params:
        take_lookup_key(params, prices, own_id=price["id"])
        price["lookup_key"] = params["lookup_key"] or None
    price["tax_behavior"] = tax
    for name in ("active", "nickname"):
        if name in params:
            price[name] = params[name]
    _merge_metadata(price, params)
    return price


def take_lookup_key(
    params: Mapping[str, Any], prices: Mapping[str, dict[str, Any]], *, own_id: str = ""
) -> None:
    """
    Free the wanted lookup key, which may be an archived price's.

    Raises:
        ApiError: If another price has it and the call does not transfer it.
    """
    key = params.get("lookup_key")
    holders = [
        price for price in prices.values() if price["lookup_key"] == key and price["id"] != own_id
    ]
    if not key or not holders:
        return
    if not params.get("transfer_lookup_key", False):
        raise ApiError(
            400,
            f"A price (`{holders[0]['id']}`) already uses that lookup key.",
            code="resource_already_exists",
            param="lookup_key",
        )
    for price in holders:
        price["lookup_key"] = None


def _merge_metadata(item: dict[str, Any], params: Mapping[str, Any]) -> None:
    """Given keys replace, empty values remove, an empty text removes all."""
    given = params.get("metadata")
    if given is None:
        return
    merged = {} if given == "" else {**item["metadata"], **given}
    item["metadata"] = {key: value for key, value in merged.items() if value != ""}
