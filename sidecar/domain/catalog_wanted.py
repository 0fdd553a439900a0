"""What the plans of a policy want a provider to have."""

from collections.abc import Iterable, Mapping

from sidecar.domain.catalog import (
    PriceContent,
    Problem,
    WantedCatalog,
    WantedMeter,
    WantedPrice,
    WantedProduct,
)
from sidecar.domain.catalog_contents import NotExpressible, content_of
from sidecar.domain.pricing import Billing, PriceLine, RateCard

FEE = "fee"
"""The line of a plan's first fee; meters have names of their own."""


def wanted_catalog(cards: Iterable[RateCard]) -> WantedCatalog:
    """
    One product for each plan; a meter and a price for each line whose usage is reported.

    Usage that credit pays is never reported, so plans that burn credit have a product alone.
    What the provider has no price for is a problem, never something near it.
    """
    gathered = _Gathered()
    for card in cards:
        gathered.add(card)
    gathered.refuse_shared()
    return WantedCatalog(
        meters=tuple(WantedMeter(event_name=name) for name in sorted(gathered.meters)),
        products=tuple(gathered.products),
        prices=tuple(gathered.prices),
        problems=tuple(gathered.problems),
        notes=tuple(gathered.notes),
    )


class _Gathered:
    def __init__(self) -> None:
        self.meters: set[str] = set()
        self.products: list[WantedProduct] = []
        self.prices: list[WantedPrice] = []
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def add(self, card: RateCard) -> None:
        """A plan's product and prices."""
        hints = card.hints
        self.products.append(
            WantedProduct(
                plan=card.plan,
                name=hints.title or card.plan,
                product_id=hints.stripe.get("product", ""),
            )
        )
        if card.billing is not Billing.POSTPAID:
            if card.lines:
                self.notes.append(
                    Problem(
                        where=card.plan,
                        message="credit pays its usage, so its prices stay here",
                    )
                )
            return
        by_meter: dict[str, list[PriceLine]] = {}
        for line in card.lines:
            by_meter.setdefault(line.meter, []).append(line)
        for meter, lines in by_meter.items():
            if meter == "":
                self._add_fees(card, lines)
            else:
                self._add_metered(card, meter, lines)

    def _add_metered(self, card: RateCard, meter: str, lines: list[PriceLine]) -> None:
        where = f"{card.plan}/{meter}"
        if not card.meters[meter].reported:
            self.notes.append(
                Problem(where=where, message="the meter is not reported, so its price stays here")
            )
            return
        if len(lines) > 1:
            self.problems.append(
                Problem(
                    where=where,
                    message=f"{len(lines)} prices for different models read one meter, and an "
                    "event at Stripe does not tell the model; give each of them a meter of "
                    "its own",
                )
            )
            return
        if (content := self._content(card, lines[0], where)) is not None:
            self.meters.add(meter)
            self._add_price(card, lines[0], meter, content)

    def _add_fees(self, card: RateCard, lines: list[PriceLine]) -> None:
        """The first is named for what it is, others by their content, whatever their order."""
        for number, line in enumerate(lines):
            content = self._content(card, line, f"{card.plan}/{FEE}")
            if content is not None:
                name = FEE if number == 0 else f"{FEE}-{content.version[:8]}"
                self._add_price(card, line, name, content)

    def _content(self, card: RateCard, line: PriceLine, where: str) -> PriceContent | None:
        tax = line.hints.tax_behavior
        if tax == "unspecified":
            tax = card.hints.tax_behavior
        try:
            return content_of(
                line.price.describe(), currency=card.currency, meter=line.meter, tax=str(tax)
            )
        except NotExpressible as error:
            self.problems.append(Problem(where=where, message=str(error)))
            return None

    def _add_price(
        self, card: RateCard, line: PriceLine, name: str, content: PriceContent
    ) -> None:
        stripe: Mapping[str, str] = line.hints.stripe
        self.prices.append(
            WantedPrice(
                plan=card.plan,
                line=name,
                content=content,
                lookup_key=stripe.get("lookup_key") or lookup_key(card.plan, name),
                price_id=stripe.get("price", ""),
            )
        )

    def refuse_shared(self) -> None:
        """One object at the provider for one line: what two lines name is neither's."""
        for what, values in (
            ("lookup key", [(price.lookup_key, price.name) for price in self.prices]),
            ("price", [(price.price_id, price.name) for price in self.prices if price.price_id]),
        ):
            first: dict[str, str] = {}
            for value, name in values:
                if value in first:
                    self.problems.append(
                        Problem(
                            where=name,
                            message=f"names {what} {value!r} as {first[value]} does; "
                            "give each line its own",
                        )
                    )
                first.setdefault(value, name)


def lookup_key(plan: str, line: str) -> str:
    """The key under which a line's current price is found; names have no colon."""
    return f"sidecar:{plan}:{line}"
