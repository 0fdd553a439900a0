"""
Plans and prices as Moesif's catalog API gives them, as a catalog.

Source: the schema of `/~/billing/catalog/plans` and `/~/billing/catalog/prices` in Moesif's API
reference; amounts are minor units, as its own developer portal shows them. Assumed: `period_units`
M, d, w and y; a model named flat is a fee; whatever else has no tiers is charged by usage.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from sidecar.domain.catalog import (
    DECIMALS_MAX,
    FoundCatalog,
    FoundMeter,
    FoundPrice,
    FoundProduct,
    PriceContent,
    Tier,
)
from sidecar.domain.catalog_import import plan_name
from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.outbound.moesif.reading import kind_of, read_json

OBJECTS_MAX: Final = 10_000
_INTERVALS = {"d": "day", "w": "week", "m": "month", "y": "year"}
_FEES = frozenset({"flat", "flat_fee", "flat_rate"})
_TIERED = {"tiered": "graduated", "graduated": "graduated", "volume": "volume"}
_LINEAR = frozenset({"per_unit", "package", ""})
_SUMS = frozenset({"", "sum"})


def read_catalog(path: Path) -> FoundCatalog:
    """
    A file with a list of plans that hold their prices, or with `plans` and `prices`.

    Raises:
        ConfigError: It is no such file: what was found, what is allowed.
    """
    value = read_json(path)
    plans, prices = value, []
    if isinstance(value, Mapping):
        plans, prices = value.get("plans"), value.get("prices", [])
    if not isinstance(plans, list) or not isinstance(prices, list):
        raise ConfigError(
            f"{path}: found {kind_of(value)}; allowed: a list of plans, or an object with the "
            "lists plans and prices"
        )
    if len(plans) + len(prices) > OBJECTS_MAX:
        raise ConfigError(f"{path}: found more than {OBJECTS_MAX} plans and prices")
    return _Reading(path).catalog(plans, prices)


class _Reading:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._meters: dict[str, FoundMeter] = {}
        self._prices: dict[str, FoundPrice] = {}

    def catalog(self, plans: Sequence[Any], prices: Sequence[Any]) -> FoundCatalog:
        """Plans as products; a price that stands in both lists counts once."""
        products: dict[str, FoundProduct] = {}
        for number, plan in enumerate(plans, 1):
            fields = self._object(plan, f"plan {number}")
            name = self._id(fields, f"plan {number}")
            products[name] = FoundProduct(
                id=name, name=_text(fields, "name") or name, active=_active(fields)
            )
            held = fields.get("prices") or []
            if not isinstance(held, list):
                raise ConfigError(
                    f"{self._path}: prices of plan {name!r}: found {kind_of(held)}; allowed: a list"
                )
            for place, price in enumerate(held, 1):
                self._add(self._object(price, f"price {place} of plan {name!r}"), name)
        for number, price in enumerate(prices, 1):
            fields = self._object(price, f"price {number}")
            plan = _text(fields, "plan_id")
            if plan not in products:
                raise ConfigError(
                    f"{self._path}: price {number}: found plan_id {plan[:80]!r}; "
                    "allowed: the id of a plan in the file"
                )
            self._add(fields, plan)
        return FoundCatalog(
            meters=tuple(self._meters.values()),
            products=tuple(products.values()),
            prices=tuple(self._prices.values()),
        )

    def _object(self, value: Any, what: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self._path}: {what}: found {kind_of(value)}; allowed: an object")
        return value

    def _id(self, fields: Mapping[str, Any], what: str) -> str:
        name = _text(fields, "id")
        if not name:
            raise ConfigError(f"{self._path}: {what}: found no id; allowed: a text")
        return name

    def _add(self, fields: Mapping[str, Any], plan: str) -> None:
        name = self._id(fields, f"a price of plan {plan!r}")
        meter = ""
        try:
            if _text(fields, "pricing_model").lower() not in _FEES:
                meter = self._meter(fields, name)
            content, unreadable = _content(fields, meter), ""
        except InvalidInput as error:
            content, unreadable = None, str(error)
        self._prices[name] = FoundPrice(
            id=name,
            product_id=plan,
            meter_id=meter,
            content=content,
            active=_active(fields),
            unreadable=unreadable,
        )

    def _meter(self, fields: Mapping[str, Any], price: str) -> str:
        """The meter that the price names, else one named after the price."""
        named = fields.get("price_meter")
        event_name = _text(named, "event_name") if isinstance(named, Mapping) else ""
        name = event_name or plan_name(_text(fields, "name") or price)
        self._meters.setdefault(name, FoundMeter(id=name, event_name=name, display_name=name))
        return name


def _content(fields: Mapping[str, Any], meter: str) -> PriceContent:
    """
    What the price costs.

    Raises:
        InvalidInput: It is no price that a catalog has.
    """
    model = _text(fields, "pricing_model").lower().replace("-", "_").replace(" ", "_")
    if model not in _FEES and model not in _TIERED and model not in _LINEAR:
        raise InvalidInput(f"its pricing model {model[:40]!r} is not known")
    if _text(fields, "usage_aggregator").lower() not in _SUMS:
        raise InvalidInput(
            f"it takes the {_text(fields, 'usage_aggregator')[:40]} of usage, and prices here "
            "take the sum"
        )
    unit = _text(fields, "period_units").lower() or "m"
    if unit not in _INTERVALS:
        raise InvalidInput(f"its period unit {unit[:20]!r} is not known")
    transform = fields.get("transform_quantity") or {}
    if not isinstance(transform, Mapping):
        raise InvalidInput("its transform_quantity is no object")
    divide_by = _count(transform.get("divide_by", 1), "divide_by")
    tiers = _tiers(fields) if model in _TIERED else ()
    if tiers and divide_by > 1:
        raise InvalidInput("it has both tiers and packages")
    return PriceContent(
        currency=_text(fields, "currency").upper() or "USD",
        meter=meter,
        unit=None if tiers else _decimal(fields.get("price_in_decimal"), "price_in_decimal"),
        divide_by=divide_by,
        round=_rounding(transform) if divide_by > 1 else "",
        tiers=tiers,
        tiers_mode=_TIERED[model] if tiers else "",
        interval=_INTERVALS[unit],
        interval_count=_count(fields.get("period") or 1, "period"),
        tax_behavior=_tax(fields),
    )


def _tiers(fields: Mapping[str, Any]) -> tuple[Tier, ...]:
    given = fields.get("tiers")
    if not isinstance(given, list) or not given:
        raise InvalidInput("it has no tiers")
    tiers = []
    for tier in given:
        if not isinstance(tier, Mapping):
            raise InvalidInput("one of its tiers is no object")
        up_to = tier.get("up_to")
        tiers.append(
            Tier(
                up_to=None if up_to in (None, "inf") else _count(up_to, "up_to"),
                unit=_decimal(tier.get("unit_price_in_decimal") or "0", "unit_price_in_decimal"),
                flat=_decimal(tier.get("flat_price_in_decimal") or "0", "flat_price_in_decimal"),
            )
        )
    return tuple(tiers)


def _tax(fields: Mapping[str, Any]) -> str:
    tax = _text(fields, "tax_behavior").lower() or "unspecified"
    if tax not in ("unspecified", "inclusive", "exclusive"):
        raise InvalidInput(f"its tax behaviour {tax[:20]!r} is not known")
    return tax


def _rounding(transform: Mapping[str, Any]) -> str:
    rounding = _text(transform, "round").lower()
    if rounding not in ("up", "down"):
        raise InvalidInput("its packages are rounded neither up nor down")
    return rounding


def _active(fields: Mapping[str, Any]) -> bool:
    return _text(fields, "status").lower() in ("", "active")


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _count(value: Any, what: str) -> int:
    """A whole number of at least 1, also as digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:  # noqa: PLR2004  Fits 64 bits.
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 10**18:
        raise InvalidInput(f"its {what} is no whole number from 1 on")
    return value


def _decimal(value: Any, what: str) -> Decimal:
    """An exact amount: digits in quotes, or a whole number; a JSON fraction is binary."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidInput(f"its {what} is no decimal in quotes")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise InvalidInput(f"its {what} is no decimal in quotes") from None
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or amount < 0 or amount.adjusted() > DECIMALS_MAX:
        raise InvalidInput(f"its {what} is no amount")
    if -exponent > DECIMALS_MAX:
        raise InvalidInput(f"its {what} has more than {DECIMALS_MAX} decimals")
    return amount
