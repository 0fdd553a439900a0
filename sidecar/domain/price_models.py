"""
Pricing models: monotone integer functions from a running total of quantity to nano.

A price is F with F(0) = 0. An event that takes the total from a to b costs F(b) - F(a), so
the sum over any split and order of events is the price of the total: ledger = invoice. Where
each unit costs a whole number of nano, F(b) - F(a) = (b - a) x unit and the total is not
needed. Prices that only the end of a period can tell are in `invoice_prices`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

from sidecar.domain.errors import InvalidInput

MARKUP_SCALE = 10_000
"""A mark-up is counted in hundredths of a percent."""
TIERS_MAX = 100


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
class CostPlus:
    """
    What a provider takes, plus a share of it: linear, and rounded up once as `PerUnit`.

    `cost_nano` is for `per` units; `markup` is in hundredths of a percent. Both stay on the card,
    so that a margin can be told from it.
    """

    cost_nano: int
    per: int
    markup: int

    @property
    def linear(self) -> PerUnit:
        """The same price as one exact fraction."""
        return PerUnit(
            amount_nano=self.cost_nano * (MARKUP_SCALE + self.markup), per=self.per * MARKUP_SCALE
        )

    @property
    def unit_nano(self) -> int | None:
        """Whole nano per unit, or None where a unit costs a fraction of a nano."""
        return self.linear.unit_nano

    def cumulative(self, quantity: int) -> int:
        """Ceiling of quantity x cost x (1 + markup) / per."""
        return self.linear.cumulative(quantity)

    def upper_bound(self, quantity: int) -> int:
        """As of a linear price."""
        return self.linear.cumulative(quantity)

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {
            "model": "cost_plus",
            "cost_nano": str(self.cost_nano),
            "per": self.per,
            "markup": self.markup,
        }


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """
    The units of a total up to and including `up_to`, from where the tier before ends.

    `amount_nano` is for the price's `per` units; `flat_nano` falls due once, with the first unit
    of the tier. None is no end.
    """

    up_to: int | None
    amount_nano: int
    flat_nano: int = 0

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        content: dict[str, object] = {"up_to": self.up_to, "amount_nano": str(self.amount_nano)}
        if self.flat_nano:
            content["flat_nano"] = str(self.flat_nano)
        return content


def check_tiers(tiers: tuple[Tier, ...]) -> None:
    """
    Tiers ascend, and the last one, and it alone, has no end.

    Raises:
        InvalidInput: They do not.
    """
    ends = [0, *(tier.up_to for tier in tiers[:-1])]
    ascending = all(
        one is not None and other is not None and one < other for one, other in pairwise(ends)
    )
    if not 0 < len(tiers) <= TIERS_MAX or tiers[-1].up_to is not None or not ascending:
        raise InvalidInput("tiers have to ascend, and the last one has no end", field="tiers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """
    Each unit at the amount of its tier, plus the flat amount of each tier that was reached.

    The sum over all tiers is rounded up once.

    Unlike at Stripe, the first tier's flat amount is due with the first unit and not at none:
    nothing costs nothing. What is due without any use is a flat price.

    Source: https://docs.stripe.com/products-prices/pricing-models (graduated)
    """

    tiers: tuple[Tier, ...]
    per: int = 1

    def __post_init__(self) -> None:
        check_tiers(self.tiers)

    @property
    def unit_nano(self) -> int | None:
        """None: a unit's amount depends on the total."""
        return None

    def cumulative(self, quantity: int) -> int:
        """Units times amounts over the tiers, rounded up once, plus flat amounts."""
        product = flat = 0
        for below, tier in self._reached(quantity):
            end = quantity if tier.up_to is None else min(quantity, tier.up_to)
            product += (end - below) * tier.amount_nano
            flat += tier.flat_nano
        return -(-product // self.per) + flat

    def _reached(self, quantity: int) -> Iterator[tuple[int, Tier]]:
        """Tiers that a total has units of, each with the units below it."""
        below = 0
        for tier in self.tiers:
            if quantity <= below:
                return
            yield below, tier
            below = quantity if tier.up_to is None else tier.up_to

    def upper_bound(self, quantity: int) -> int:
        """All units at the dearest tier, plus the most flat amounts that they can reach."""
        dearest = max(tier.amount_nano for tier in self.tiers)
        return -(-quantity * dearest // self.per) + self._flat_bound(quantity)

    def _flat_bound(self, quantity: int) -> int:
        """
        The dearest run of tiers whose first units lie within `quantity` units.

        Units a+1 to a+quantity reach the tiers that have between a and a+quantity-1 units below.
        """
        if quantity == 0 or not any(tier.flat_nano for tier in self.tiers):
            return 0
        starts = [0, *(tier.up_to or 0 for tier in self.tiers[:-1])]
        most = total = first = 0
        for last, start in enumerate(starts):
            total += self.tiers[last].flat_nano
            while starts[first] + quantity <= start:
                total -= self.tiers[first].flat_nano
                first += 1
            most = max(most, total)
        return most

    def describe(self) -> dict[str, object]:
        """Content for the price version."""
        return {
            "model": "graduated",
            "per": self.per,
            "tiers": [tier.describe() for tier in self.tiers],
        }
