"""
Prices of a whole period: volume, flat, minimum; and the free quota that any metered price can have.

A period's total decides these, so nothing can be rated by them while it runs: at capture they
come to 0, and a plan that burns credit cannot have them. `invoice_prices` gives their amounts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.domain.errors import InvalidInput
from sidecar.domain.price_models import (
    CostPlus,
    Graduated,
    Package,
    PerUnit,
    Price,
    RoundPackages,
    Tier,
    check_tiers,
)


class _OfPeriod:
    """What is rated at 0 while the period runs."""

    __slots__ = ()

    @property
    def unit_nano(self) -> int | None:
        """Nothing while the period runs, whatever the total: none is kept."""
        return 0

    def cumulative(self, quantity: int) -> int:  # noqa: ARG002  A price's form.
        """Nothing while the period runs."""
        return 0

    def upper_bound(self, quantity: int) -> int:  # noqa: ARG002  A price's form.
        """Nothing is held for it."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(_OfPeriod):
    """
    All units of a period at the amount of the tier that their total falls into.

    It is not monotone: one unit more can make all of them cheaper.

    Source: https://docs.stripe.com/products-prices/pricing-models (volume)
    """

    tiers: tuple[Tier, ...]
    per: int = 1

    def __post_init__(self) -> None:
        check_tiers(self.tiers)

    def period_amount(self, quantity: int) -> int:
        """The period's amount in nano, rounded up once; no use costs nothing."""
        if quantity == 0:
            return 0
        tier = next(one for one in self.tiers if one.up_to is None or quantity <= one.up_to)
        return -(-quantity * tier.amount_nano // self.per) + tier.flat_nano

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {
            "model": "volume",
            "per": self.per,
            "tiers": [tier.describe() for tier in self.tiers],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat(_OfPeriod):
    """`amount_nano` for a period, used or not."""

    amount_nano: int

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {"model": "flat", "amount_nano": str(self.amount_nano)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum(_OfPeriod):
    """A period's other prices come to at least `amount_nano`: what they lack is added."""

    amount_nano: int

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {"model": "minimum", "amount_nano": str(self.amount_nano)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeQuota:
    """
    The first `units` of a period cost nothing; the price counts what comes after them.

    So the tiers of a price with a free quota begin behind it.
    """

    price: Price
    units: int

    def __post_init__(self) -> None:
        if self.units <= 0 or isinstance(self.price, FreeQuota | Flat | Minimum):
            raise InvalidInput("a free quota is of some units of a metered price", field="free")

    @property
    def unit_nano(self) -> int | None:
        """None, unless nothing costs anything: whether a unit is free depends on the total."""
        return 0 if self.price.unit_nano == 0 else None

    def cumulative(self, quantity: int) -> int:
        """F of what is beyond the free units."""
        return self.price.cumulative(max(0, quantity - self.units))

    def upper_bound(self, quantity: int) -> int:
        """As if the free units had been used."""
        return self.price.upper_bound(quantity)

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {**self.price.describe(), "free": self.units}


def bare_price(price: Price) -> Price:
    """A price without its free quota."""
    return price.price if isinstance(price, FreeQuota) else price


def is_of_period(price: Price) -> bool:
    """Whether only the end of a period tells the amount."""
    return isinstance(bare_price(price), Volume | Flat | Minimum)


def parse_price(data: Mapping[str, Any]) -> Price:
    """
    A price from its published content; the inverse of `describe`.

    Raises:
        InvalidInput: A newer version wrote it.
        KeyError, ValueError: It is none.
    """
    price = _parse_bare(data)
    return FreeQuota(price=price, units=int(data["free"])) if "free" in data else price


def _parse_bare(data: Mapping[str, Any]) -> Price:
    match data["model"]:
        case "per_unit":
            return PerUnit(amount_nano=int(data["amount_nano"]), per=int(data["per"]))
        case "package":
            return Package(
                amount_nano=int(data["amount_nano"]),
                per=int(data["per"]),
                rounding=RoundPackages(data["round"]),
            )
        case "cost_plus":
            return CostPlus(
                cost_nano=int(data["cost_nano"]), per=int(data["per"]), markup=int(data["markup"])
            )
        case "graduated":
            return Graduated(tiers=_parse_tiers(data), per=int(data["per"]))
        case "volume":
            return Volume(tiers=_parse_tiers(data), per=int(data["per"]))
        case "flat":
            return Flat(amount_nano=int(data["amount_nano"]))
        case "minimum":
            return Minimum(amount_nano=int(data["amount_nano"]))
        case other:
            raise InvalidInput(f"price model {other!r} is not known to this version")


def _parse_tiers(data: Mapping[str, Any]) -> tuple[Tier, ...]:
    return tuple(
        Tier(
            up_to=None if tier["up_to"] is None else int(tier["up_to"]),
            amount_nano=int(tier["amount_nano"]),
            flat_nano=int(tier.get("flat_nano", 0)),
        )
        for tier in data["tiers"]
    )
