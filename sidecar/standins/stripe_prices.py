"""Prices: which ones Stripe accepts, and what a quantity costs. Decimal in minor units."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from sidecar.standins.stripe_errors import ApiError, refuse_unmodelled
from sidecar.standins.stripe_settings import EXACT

DECIMALS_MAX = 12

_PRICE = frozenset(
    {
        "active",
        "billing_scheme",
        "currency",
        "expand",
        "lookup_key",
        "metadata",
        "nickname",
        "product",
        "product_data",
        "recurring",
        "tax_behavior",
        "tiers",
        "tiers_mode",
        "transfer_lookup_key",
        "transform_quantity",
        "unit_amount",
        "unit_amount_decimal",
    }
)
_RECURRING = frozenset({"interval", "interval_count", "meter", "usage_type"})


def build_price(params: Mapping[str, Any], price_id: str) -> dict[str, Any]:
    """
    Turn the parameters of a new price into the price, but for its product and date.

    Raises:
        ApiError: For a combination that Stripe refuses.
    """
    refuse_unmodelled(params, _PRICE)
    scheme = params.get("billing_scheme", "per_unit")
    tiers = _tiers(params) if scheme == "tiered" else None
    if tiers is None:
        _refuse_given(params, ("tiers", "tiers_mode"), "when billing_scheme is per_unit")
        amount = _amount(params, "unit_amount", "", required=True)
    else:
        given = ("unit_amount", "unit_amount_decimal", "transform_quantity")
        _refuse_given(params, given, "when billing_scheme is tiered")
        amount = None
    transform = params.get("transform_quantity")
    if transform is not None and transform["divide_by"] < 1:
        raise ApiError(400, "Invalid positive integer", param="transform_quantity[divide_by]")
    recurring = _recurring(params["recurring"]) if "recurring" in params else None
    return {
        "id": price_id,
        "object": "price",
        "active": params.get("active", True),
        "billing_scheme": scheme,
        "currency": params["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": params.get("lookup_key"),
        "metadata": dict(params.get("metadata") or {}),
        "nickname": params.get("nickname"),
        "recurring": recurring,
        "tax_behavior": params.get("tax_behavior", "unspecified"),
        "tiers": tiers,
        "tiers_mode": params.get("tiers_mode"),
        "transform_quantity": transform,
        "type": "one_time" if recurring is None else "recurring",
        "unit_amount": _whole(amount),
        "unit_amount_decimal": None if amount is None else format(amount, "f"),
    }


def cost_of(price: Mapping[str, Any], quantity: Decimal) -> Decimal:
    """
    What a period's whole quantity costs, exact, in minor units.

    A package is rounded once, on the period's quantity. A tier's flat amount falls due when the
    tier is reached, the first tier's always.

    Source: docs.stripe.com/products-prices/pricing-models.
    """
    if price["billing_scheme"] == "tiered":
        if price["tiers_mode"] == "volume":
            return _volume(price["tiers"], quantity)
        return _graduated(price["tiers"], quantity)
    transform = price["transform_quantity"]
    if transform is not None:
        quantity = _packages(quantity, transform["divide_by"], transform["round"])
    return EXACT.multiply(quantity, Decimal(price["unit_amount_decimal"]))


def rounded(amount: Decimal) -> int:
    """Whole minor units, half up: the one rounding of a line. Stripe's own rule is unpublished."""
    return int(amount.to_integral_value(rounding=ROUND_HALF_UP))


def _packages(quantity: Decimal, divide_by: int, direction: str) -> Decimal:
    whole = quantity // divide_by
    rest = EXACT.subtract(quantity, EXACT.multiply(whole, Decimal(divide_by)))
    return whole + 1 if rest and direction == "up" else whole


def _graduated(tiers: Sequence[Mapping[str, Any]], quantity: Decimal) -> Decimal:
    total, below = Decimal(0), Decimal(0)
    for index, tier in enumerate(tiers):
        if index and quantity <= below:
            break
        top = quantity if tier["up_to"] is None else min(quantity, Decimal(tier["up_to"]))
        total = EXACT.add(total, _tier_cost(tier, EXACT.subtract(top, below)))
        below = top
    return total


def _volume(tiers: Sequence[Mapping[str, Any]], quantity: Decimal) -> Decimal:
    tier = next(tier for tier in tiers if tier["up_to"] is None or quantity <= tier["up_to"])
    return _tier_cost(tier, quantity)


def _tier_cost(tier: Mapping[str, Any], quantity: Decimal) -> Decimal:
    unit = Decimal(tier["unit_amount_decimal"] or 0)
    flat = Decimal(tier["flat_amount_decimal"] or 0)
    return EXACT.add(EXACT.multiply(quantity, unit), flat)


def _tiers(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    for name in ("tiers", "tiers_mode"):
        if not params.get(name):
            raise ApiError(
                400, f"Missing required param: {name}.", code="parameter_missing", param=name
            )
    tiers = []
    below = 0
    last = len(params["tiers"]) - 1
    for index, tier in enumerate(params["tiers"]):
        place = f"tiers[{index}]"
        endless = tier["up_to"] == "inf"
        if endless != (index == last) or (not endless and tier["up_to"] <= below):
            raise ApiError(
                400,
                "Tiers must ascend by `up_to`, and exactly the last must be up to `inf`.",
                param=f"{place}[up_to]",
            )
        unit = _amount(tier, "unit_amount", place, required=False)
        flat = _amount(tier, "flat_amount", place, required=False)
        if unit is None and flat is None:
            raise ApiError(400, "A tier needs a unit_amount or a flat_amount.", param=place)
        below = below if endless else tier["up_to"]
        tiers.append(
            {
                "flat_amount": _whole(flat),
                "flat_amount_decimal": None if flat is None else format(flat, "f"),
                "unit_amount": _whole(unit),
                "unit_amount_decimal": None if unit is None else format(unit, "f"),
                "up_to": None if endless else tier["up_to"],
            }
        )
    return tiers


def _amount(params: Mapping[str, Any], name: str, place: str, *, required: bool) -> Decimal | None:
    """An amount given as `name` (integer) or `name`_decimal, never as both."""
    given = [item for item in (name, f"{name}_decimal") if item in params]
    param = f"{place}[{name}]" if place else name
    if len(given) > 1 or (required and not given):
        raise ApiError(400, f"You must specify one of {name} and {name}_decimal.", param=param)
    if not given:
        return None
    try:
        amount = Decimal(params[given[0]])
    except InvalidOperation as error:
        raise ApiError(400, "Invalid decimal", param=param) from error
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or amount < 0:
        raise ApiError(400, "Invalid non-negative decimal", param=param)
    if -exponent > DECIMALS_MAX or amount.adjusted() > DECIMALS_MAX:
        raise ApiError(400, f"A decimal has at most {DECIMALS_MAX} places", param=param)
    return amount


def _recurring(given: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unmodelled(given, _RECURRING)
    usage_type = given.get("usage_type", "licensed")
    if (usage_type == "metered") != ("meter" in given):
        raise ApiError(
            400,
            "A metered price needs a meter, and only a metered price may have one.",
            param="recurring[meter]",
        )
    return {
        "interval": given["interval"],
        "interval_count": given.get("interval_count", 1),
        "meter": given.get("meter"),
        "trial_period_days": None,
        "usage_type": usage_type,
    }


def _whole(amount: Decimal | None) -> int | None:
    """The integer that stands beside a decimal field: null where the amount is fractional."""
    return int(amount) if amount is not None and amount == amount.to_integral_value() else None


def _refuse_given(params: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    for name in names:
        if name in params:
            raise ApiError(400, f"You may not specify `{name}` {why}.", param=name)
