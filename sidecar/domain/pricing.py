"""
Prices: monotone integer functions from a running total of quantity to nano.

A price is F with F(0) = 0. An event that takes the total from a to b costs F(b) - F(a), so
the sum over any split and order of events is the price of the total: ledger = invoice. Where
each unit costs a whole number of nano, F(b) - F(a) = (b - a) x unit and the total is not
needed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sidecar.domain.errors import InvalidInput
from sidecar.domain.meters import Meter, parse_meter
from sidecar.domain.money import AMOUNT_NANO_MAX


class Price(Protocol):
    """What every pricing model answers; a new model is one more class with these."""

    @property
    def unit_nano(self) -> int | None:
        """The whole nano of one unit where amount = quantity x unit, else None."""

    def cumulative(self, quantity: int) -> int:
        """F(quantity) in nano."""

    def upper_bound(self, quantity: int) -> int:
        """The most that `quantity` more units can cost, wherever the running total stands."""

    def describe(self) -> dict[str, object]:
        """The content that a price version is hashed from; JSON types only."""


class RoundPackages(StrEnum):
    """Whether a begun package counts."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class PerUnit:
    """`amount_nano` for each `per` units, linear; the running total is rounded up once."""

    amount_nano: int
    per: int = 1

    @property
    def unit_nano(self) -> int | None:
        """Whole nano per unit, or None where a unit costs a fraction of a nano."""
        unit, rest = divmod(self.amount_nano, self.per)
        return unit if rest == 0 else None

    def cumulative(self, quantity: int) -> int:
        """Ceiling of quantity x amount / per: no usage is free."""
        return -(-quantity * self.amount_nano // self.per)

    def upper_bound(self, quantity: int) -> int:
        """ceil(x + y) - ceil(x) <= ceil(y)."""
        return self.cumulative(quantity)

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {"model": "per_unit", "amount_nano": str(self.amount_nano), "per": self.per}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """
    `amount_nano` for each package of `per` units of the period's total.

    Source: Stripe's transform_quantity {divide_by, round}, applied to the period aggregate.
    """

    amount_nano: int
    per: int
    rounding: RoundPackages = RoundPackages.UP

    @property
    def unit_nano(self) -> int | None:
        """None, unless a package is one unit."""
        return self.amount_nano if self.per == 1 else None

    def cumulative(self, quantity: int) -> int:
        """Packages of the total, times their amount."""
        if self.rounding is RoundPackages.UP:
            return -(-quantity // self.per) * self.amount_nano
        return quantity // self.per * self.amount_nano

    def upper_bound(self, quantity: int) -> int:
        """A quantity can begin at most ceil(quantity / per) packages."""
        return -(-quantity // self.per) * self.amount_nano

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {
            "model": "package",
            "amount_nano": str(self.amount_nano),
            "per": self.per,
            "round": self.rounding.value,
        }


class Billing(StrEnum):
    """How a plan's usage is paid: from credit, by invoice, or credit first."""

    PREPAID = "prepaid"
    POSTPAID = "postpaid"
    CREDIT_THEN_INVOICE = "credit_then_invoice"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceLine:
    """A meter's price, for the named models or (no models) for any."""

    meter: str
    price: Price
    models: tuple[str, ...] = ()

    def applies(self, meter: str, model: str) -> bool:
        """Whether this line prices the meter for the model."""
        return self.meter == meter and (not self.models or model in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCard:
    """
    A plan's prices and the meters they read, frozen under a hash of their content.

    A hold names the version that it was priced with, so that a capture hours later, on
    another gateway, is rated by the same prices.
    """

    plan: str
    billing: Billing
    currency: str
    lines: tuple[PriceLine, ...]
    meters: Mapping[str, Meter]

    def describe(self) -> dict[str, object]:
        """All content that decides an amount; JSON types only."""
        return {
            "plan": self.plan,
            "billing": self.billing.value,
            "currency": self.currency,
            "lines": [
                {"meter": line.meter, "models": list(line.models), "price": line.price.describe()}
                for line in self.lines
            ],
            "meters": {name: meter.describe() for name, meter in sorted(self.meters.items())},
        }

    def content(self) -> str:
        """The canonical JSON text of `describe`, as it is published."""
        return json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))

    @property
    def version(self) -> str:
        """First 24 hex digits of SHA-256 over the content."""
        return hashlib.sha256(self.content().encode()).hexdigest()[:24]

    def line_for(self, meter: str, model: str) -> tuple[int, PriceLine] | None:
        """The price line for a meter and model: one that names the model beats the general one."""
        general: tuple[int, PriceLine] | None = None
        for index, line in enumerate(self.lines):
            if not line.applies(meter, model):
                continue
            if line.models:
                return index, line
            general = general or (index, line)
        return general

    def priced_meters(self) -> frozenset[str]:
        """Meters that some line prices."""
        return frozenset(line.meter for line in self.lines)

    def prices_model(self, model: str, meters: Iterable[str]) -> bool:
        """Whether each priced meter among `meters` has a line for the model."""
        return all(
            self.line_for(meter, model) is not None
            for meter in meters
            if meter in self.priced_meters()
        )

    def upper_bound(self, quantities: Mapping[str, int], model: str) -> int:
        """
        The most that these quantities can cost in nano, for a hold.

        Raises:
            InvalidInput: If it exceeds the largest amount.
        """
        return sum(self.upper_bounds(quantities, model).values())

    def upper_bounds(self, quantities: Mapping[str, int], model: str) -> dict[str, int]:
        """
        The same by meter, of those that have a price for the model.

        Raises:
            InvalidInput: If together they exceed the largest amount.
        """
        bounds = {}
        for meter, quantity in quantities.items():
            found = self.line_for(meter, model)
            if found is not None:
                bounds[meter] = found[1].price.upper_bound(quantity)
        if sum(bounds.values()) > AMOUNT_NANO_MAX:
            raise InvalidInput("the request's largest possible amount is beyond any balance")
        return bounds


def parse_rate_card(content: str) -> RateCard:
    """Rebuild a rate card from its published content; the inverse of `RateCard.content`."""
    data = json.loads(content)
    return RateCard(
        plan=data["plan"],
        billing=Billing(data["billing"]),
        currency=data["currency"],
        lines=tuple(
            PriceLine(
                meter=line["meter"],
                models=tuple(line["models"]),
                price=_parse_price(line["price"]),
            )
            for line in data["lines"]
        ),
        meters={name: parse_meter(name, meter) for name, meter in data["meters"].items()},
    )


def _parse_price(data: Mapping[str, object]) -> Price:
    amount, per = int(str(data["amount_nano"])), int(str(data["per"]))
    match data["model"]:
        case "per_unit":
            return PerUnit(amount_nano=amount, per=per)
        case "package":
            return Package(amount_nano=amount, per=per, rounding=RoundPackages(str(data["round"])))
        case other:
            raise InvalidInput(f"price model {other!r} is not known to this version")
