"""
A provider's catalog: meters, products and prices, as we want them and as they were found.

Amounts are decimals of the provider's minor unit, as it keeps them. A price's content never
changes at the provider, so content is a value here: two prices are the same price if their
contents are equal.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

PLAN_KEY: Final = "sidecar_plan"
LINE_KEY: Final = "sidecar_line"
VERSION_KEY: Final = "sidecar_version"
"""Metadata of objects that are ours: whose they are, and a digest of what was written."""
ARCHIVED: Final = "archived"
"""Stands for the digest on what was archived by us, so that what others archived is told."""

CUSTOMER_KEY: Final = "stripe_customer_id"
VALUE_KEY: Final = "value"
"""The payload's keys in the events that reporting sends."""

DECIMALS_MAX: Final = 12
"""Of a price's amount. Source: https://docs.stripe.com/api/prices/object."""
_DIGEST_DIGITS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Units up to and with `up_to` (None: all further ones), at `unit` each, and `flat` once."""

    up_to: int | None
    unit: Decimal
    flat: Decimal = Decimal(0)

    def describe(self) -> dict[str, object]:
        """JSON types only."""
        return {
            "up_to": self.up_to,
            "unit_amount_decimal": plain(self.unit),
            "flat_amount_decimal": plain(self.flat),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceContent:
    """
    Everything of a price that the provider never changes.

    Attributes:
        currency: Three capital letters.
        meter: The meter's event name; "" for a fee that does not depend on usage.
        unit: What a unit or a package costs; None where `tiers` say it.
        divide_by: Units of a package; 1 for none.
        round: Whether a begun package counts: "up" or "down"; "" without packages.
        tiers_mode: "graduated" or "volume"; "" without tiers.
    """

    currency: str
    meter: str
    unit: Decimal | None = None
    divide_by: int = 1
    round: str = ""
    tiers: tuple[Tier, ...] = ()
    tiers_mode: str = ""
    interval: str = "month"
    interval_count: int = 1
    tax_behavior: str = "unspecified"

    def describe(self) -> dict[str, object]:
        """All of it, JSON types only; equal contents have equal descriptions."""
        return {
            "currency": self.currency,
            "meter": self.meter,
            "unit_amount_decimal": None if self.unit is None else plain(self.unit),
            "divide_by": self.divide_by,
            "round": self.round,
            "tiers": [tier.describe() for tier in self.tiers],
            "tiers_mode": self.tiers_mode,
            "interval": self.interval,
            "interval_count": self.interval_count,
            "tax_behavior": self.tax_behavior,
        }

    @property
    def version(self) -> str:
        """A digest of the content."""
        return digest(self.describe())


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedMeter:
    """A meter that sums what reporting sends under its name."""

    event_name: str

    @property
    def display_name(self) -> str:
        """What people see; it is written once and theirs to change."""
        return self.event_name


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedProduct:
    """A plan's product. `product_id` names an existing one, which then stays as it is."""

    plan: str
    name: str
    product_id: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """What marks it as ours."""
        return {PLAN_KEY: self.plan, VERSION_KEY: product_version(self.name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPrice:
    """A plan's price line. `price_id` names an existing price, which then stays as it is."""

    plan: str
    line: str
    content: PriceContent
    lookup_key: str
    price_id: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.plan}/{self.line}"

    @property
    def metadata(self) -> dict[str, str]:
        """What marks it as ours."""
        return {PLAN_KEY: self.plan, LINE_KEY: self.line, VERSION_KEY: self.content.version}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What cannot be at the provider as the policy says it, and what to do about it."""

    where: str
    message: str

    def __str__(self) -> str:
        """On one line."""
        return f"{self.where}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCatalog:
    """What the policy wants of the provider; `notes` tell what stays away on purpose."""

    meters: tuple[WantedMeter, ...] = ()
    products: tuple[WantedProduct, ...] = ()
    prices: tuple[WantedPrice, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()

    def only(self, plans: frozenset[str]) -> "WantedCatalog":
        """The part of some plans."""
        prices = tuple(price for price in self.prices if price.plan in plans)
        names = {price.content.meter for price in prices}
        return WantedCatalog(
            meters=tuple(meter for meter in self.meters if meter.event_name in names),
            products=tuple(product for product in self.products if product.plan in plans),
            prices=prices,
            problems=tuple(one for one in self.problems if one.where.split("/")[0] in plans),
            notes=tuple(one for one in self.notes if one.where.split("/")[0] in plans),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMeter:
    """A meter at the provider. All but its display name and whether it is active is for ever."""

    id: str
    event_name: str
    display_name: str
    active: bool = True
    formula: str = "sum"
    customer_key: str = CUSTOMER_KEY
    value_key: str = VALUE_KEY
    window: str = ""

    @property
    def fits(self) -> bool:
        """Whether it counts what reporting sends as reporting means it."""
        return not self.misfit

    @property
    def misfit(self) -> str:
        """Why it does not; "" if it does."""
        if self.formula != "sum":
            return f"it takes the {self.formula} of events, where their sum is meant"
        if self.customer_key != CUSTOMER_KEY:
            return f"it reads the customer from {self.customer_key!r}, not {CUSTOMER_KEY!r}"
        if self.value_key != VALUE_KEY:
            return f"it reads the quantity from {self.value_key!r}, not {VALUE_KEY!r}"
        if self.window:
            return f"of one {self.window}'s events it keeps the last alone"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundProduct:
    """A product at the provider."""

    id: str
    name: str
    active: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def plan(self) -> str:
        """The plan whose product it is; "" if it is not ours."""
        return self.metadata.get(PLAN_KEY, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPrice:
    """
    A price at the provider.

    `content` is None where we could not have written it; `unreadable` then says why.
    """

    id: str
    product_id: str
    content: PriceContent | None
    meter_id: str = ""
    active: bool = True
    lookup_key: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    unreadable: str = ""

    @property
    def plan(self) -> str:
        """The plan whose price it is; "" if it does not say so."""
        return self.metadata.get(PLAN_KEY, "")

    @property
    def line(self) -> str:
        """The plan's line whose price it is; "" if it does not say so."""
        return self.metadata.get(LINE_KEY, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCatalog:
    """Everything that the provider has, archived objects included."""

    meters: tuple[FoundMeter, ...] = ()
    products: tuple[FoundProduct, ...] = ()
    prices: tuple[FoundPrice, ...] = ()


def product_version(name: str) -> str:
    """A digest of what we write of a product, by which a change by hand is told."""
    return digest({"name": name})


def digest(content: object) -> str:
    """The first 24 hex digits of SHA-256 over the canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_DIGITS]


def plain(amount: Decimal) -> str:
    """A decimal without exponent and without needless zeros."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
