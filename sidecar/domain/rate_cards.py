"""Rate cards: a plan's prices, frozen under a hash of their content."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sidecar.domain.errors import InvalidInput
from sidecar.domain.meters import Meter, parse_meter
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.period_prices import FreeQuota, is_of_period, parse_price
from sidecar.domain.periods import Period, from_epoch_ms, to_epoch_ms
from sidecar.domain.price_models import Price
from sidecar.domain.prorating import prorate


class Billing(StrEnum):
    """How a plan's usage is paid: from credit, by invoice, or credit first."""

    PREPAID = "prepaid"
    POSTPAID = "postpaid"
    CREDIT_THEN_INVOICE = "credit_then_invoice"

    @property
    def burns_credit(self) -> bool:
        """Whether credit pays, alone or first, so that all has to be priced at capture."""
        return self is not Billing.POSTPAID

    @property
    def invoices_rest(self) -> bool:
        """Whether what credit does not pay is owed, so that no lack of credit refuses."""
        return self is Billing.CREDIT_THEN_INVOICE


class OnChange(StrEnum):
    """What becomes of running totals and fees where a card takes another's place in a period."""

    RESET = "reset"
    """The new card has totals of its own, from 0, and its fees are due whole."""
    CARRY = "carry"
    """Totals of lines that are the same go on; the fees of the period's last card are due."""
    PRORATE = "prorate"
    """As carry for totals; fees, minimums and free quotas are due for the share in use."""


class TaxBehavior(StrEnum):
    """Whether amounts contain tax. It is the provider's to act on; no amount of ours changes."""

    UNSPECIFIED = "unspecified"
    INCLUSIVE = "inclusive"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogHints:
    """
    What a provider's catalog is told of a plan or a line. It decides no amount of ours.

    `stripe` may name a product, a price and a lookup key that exist already.
    """

    title: str = ""
    tax_behavior: TaxBehavior = TaxBehavior.UNSPECIFIED
    stripe: Mapping[str, str] = field(default_factory=dict)


NO_HINTS = CatalogHints()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceLine:
    """
    A meter's price, for the named models or (no models) for any; of a fee the meter is "".

    `since` is set where a free quota is due in part for the period that the line begins in.
    `hints` are not part of the content, and so not of a card that was read from the store.
    """

    meter: str
    price: Price
    models: tuple[str, ...] = ()
    since: datetime | None = None
    hints: CatalogHints = field(default=NO_HINTS, compare=False)

    def applies(self, meter: str, model: str) -> bool:
        """Whether this line prices the meter for the model."""
        return self.meter == meter and (not self.models or model in self.models)

    def price_in(self, period: Period) -> Price:
        """The price as the period has it: a free quota is cut where the line begins within."""
        price, since = self.price, self.since
        if since is None or not isinstance(price, FreeQuota):
            return price
        if not period.start < since < period.end:
            return price
        units = prorate(price.units, Period(start=since, end=period.end), period)
        return FreeQuota(price=price.price, units=units) if units else price.price

    def describe(self) -> dict[str, object]:
        """Content for the price version; what has its default is left out."""
        content: dict[str, object] = {
            "meter": self.meter,
            "models": list(self.models),
            "price": self.price.describe(),
        }
        if self.since is not None:
            content["since_ms"] = to_epoch_ms(self.since)
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCard:
    """
    A plan's prices and the meters they read, frozen under a hash of their content.

    A hold names the version that it was priced with, so that a capture hours later, on
    another gateway, is rated by the same prices. `version` is the first 24 hex digits of
    SHA-256 over the content.
    """

    plan: str
    billing: Billing
    currency: str
    lines: tuple[PriceLine, ...]
    meters: Mapping[str, Meter]
    on_change: OnChange = OnChange.RESET
    hints: CatalogHints = field(default=NO_HINTS, compare=False)
    version: str = field(init=False, repr=False, compare=False)
    _content: str = field(init=False, repr=False, compare=False)
    _priced: frozenset[str] = field(init=False, repr=False, compare=False)
    _totals: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _named: Mapping[tuple[str, str], tuple[int, PriceLine]] = field(
        init=False, repr=False, compare=False
    )
    _general: Mapping[str, tuple[int, PriceLine]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A check asks for all of these; a card is made once and never changes.
        named: dict[tuple[str, str], tuple[int, PriceLine]] = {}
        general: dict[str, tuple[int, PriceLine]] = {}
        for index, line in enumerate(self.lines):
            if not line.models:
                general.setdefault(line.meter, (index, line))
            for model in line.models:
                named.setdefault((line.meter, model), (index, line))
        content = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(content.encode()).hexdigest()
        object.__setattr__(self, "_content", content)
        object.__setattr__(self, "version", digest[:24])
        object.__setattr__(self, "_named", named)
        object.__setattr__(self, "_general", general)
        priced = frozenset(line.meter for line in self.lines if line.meter)
        object.__setattr__(self, "_priced", priced)
        totals = tuple(self._total_of(index) for index in range(len(self.lines)))
        object.__setattr__(self, "_totals", totals)

    def describe(self) -> dict[str, object]:
        """
        All content that decides an amount; JSON types only.

        What has its default is left out, so that cards of older versions keep their name.
        """
        content: dict[str, object] = {
            "plan": self.plan,
            "billing": self.billing.value,
            "currency": self.currency,
            "lines": [line.describe() for line in self.lines],
            "meters": {name: meter.describe() for name, meter in sorted(self.meters.items())},
        }
        if self.on_change is not OnChange.RESET:
            content["on_change"] = self.on_change.value
        return content

    def content(self) -> str:
        """The canonical JSON text of `describe`, as it is published."""
        return self._content

    def line_for(self, meter: str, model: str) -> tuple[int, PriceLine] | None:
        """The price line for a meter and model: one that names the model beats the general one."""
        return self._named.get((meter, model)) or self._general.get(meter)

    def total_name(self, index: int) -> str:
        """
        What a line's running total is called: usage with one name adds up within a period.

        Where a change of cards resets totals, it is the line's place on this card. Else it is the
        line's content, so that any card of that currency with the same line carries the total on.
        """
        return self._totals[index]

    def _total_of(self, index: int) -> str:
        if self.on_change is OnChange.RESET:
            return f"{self.version}:{index}"
        line = self.lines[index]
        meter = self.meters[line.meter].describe() if line.meter in self.meters else {}
        content = [self.currency, line.describe(), meter.get("value"), meter.get("aggregation")]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}:line"

    def priced_meters(self) -> frozenset[str]:
        """Meters that some line prices."""
        return self._priced

    @property
    def of_period(self) -> tuple[tuple[int, PriceLine], ...]:
        """Lines that only an invoice can rate, with their places."""
        return tuple(
            (index, line) for index, line in enumerate(self.lines) if is_of_period(line.price)
        )

    def prices_model(self, model: str, meters: Iterable[str]) -> bool:
        """Whether each priced meter among `meters` has a line for the model."""
        return all(
            self.line_for(meter, model) is not None for meter in meters if meter in self._priced
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
                price=parse_price(line["price"]),
                since=from_epoch_ms(line["since_ms"]) if "since_ms" in line else None,
            )
            for line in data["lines"]
        ),
        meters={name: parse_meter(name, meter) for name, meter in data["meters"].items()},
        on_change=OnChange(data.get("on_change", OnChange.RESET)),
    )
