"""What the plans of a policy want a provider to have."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from sidecar.domain.catalog import (
    PriceContent,
    Problem,
    WantedCatalog,
    WantedMeter,
    WantedPrice,
    WantedProduct,
)
from sidecar.domain.catalog_contents import NotExpressible, content_of
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Billing, FreeQuota, PriceLine, RateCard

FEE = "@fee"
"""The line of a plan's flat price, which has no meter; no meter can be called so."""
_OWN_DIGITS = 8


def wanted_by_policy(policy: Policy, instant: datetime) -> WantedCatalog:
    """What the prices in force at an instant want, those of single customers included."""
    own: dict[str, list[RateCard]] = {}
    for plan, schedule in policy.schedules.items():
        found = (timeline.at(instant) for timeline in schedule.customers.values())
        own[plan] = list({card.version: card for card in found}.values())
    cards = [policy.card_for(plan, "", instant) for plan in policy.cards]
    return wanted_catalog([card for card in cards if card is not None], own)


def wanted_catalog(
    cards: Iterable[RateCard], own: Mapping[str, Iterable[RateCard]] | None = None
) -> WantedCatalog:
    """
    One product for each plan; a meter and a price for each line whose usage is reported.

    Usage that credit pays is never reported, so plans that burn credit have a product alone.
    What the provider has no price for is a problem, never something near it.

    Args:
        cards: One for each plan.
        own: By plan, the cards of customers with prices of their own: where they differ from the
            plan's, they want prices beside its.
    """
    gathered = _Gathered()
    for card in cards:
        gathered.add(card)
        for other in (own or {}).get(card.plan, ()):
            gathered.add_own(card, other)
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
                self._note(card.plan, f"{_paid_by(card)}, so its prices stay here")
            return
        for meter, lines in _by_meter(card).items():
            if meter == "":
                self._add_fees(card, lines)
            else:
                self._add_metered(card, meter, lines)

    def add_own(self, general: RateCard, card: RateCard) -> None:
        """Prices of single customers, for the lines in which their card is another."""
        if card.billing is not Billing.POSTPAID:
            return
        usual = _by_meter(general)
        for meter, lines in _by_meter(card).items():
            known = [line.describe() for line in usual.get(meter, ())]
            other = [line for line in lines if line.describe() not in known]
            if not other:
                continue
            if meter == "":
                for line in other:
                    self._add_own_price(card, FEE, line)
            elif len(lines) == 1:
                self._add_metered(card, meter, lines, own=True)
            else:
                self._refuse_models(f"{card.plan}/{meter}", lines)

    def _note(self, where: str, message: str) -> None:
        self.notes.append(Problem(where=where, message=message))

    def _refuse_models(self, where: str, lines: list[PriceLine]) -> None:
        self.problems.append(
            Problem(
                where=where,
                message=f"{len(lines)} prices for different models read one meter, and an event "
                "at Stripe does not tell the model; give each of them a meter of its own",
            )
        )

    def _add_metered(
        self, card: RateCard, meter: str, lines: list[PriceLine], *, own: bool = False
    ) -> None:
        where = f"{card.plan}/{meter}"
        if not card.meters[meter].reported:
            self._note(where, "the meter is not reported, so its price stays here")
            return
        if len(lines) > 1:
            self._refuse_models(where, lines)
            return
        line = lines[0]
        if isinstance(line.price, FreeQuota) and line.since is not None:
            self._note(where, "its free quantity is whole from the first period on at Stripe")
        if own:
            self._add_own_price(card, meter, line)
        elif (content := self._content(card, line, where)) is not None:
            self._add_price(card, line, meter, content)

    def _add_own_price(self, card: RateCard, name: str, line: PriceLine) -> None:
        """Named by its content, so that customers with the same price share it."""
        content = self._content(card, line, f"{card.plan}/{name}")
        if content is None:
            return
        name = f"{name}@{content.version[:_OWN_DIGITS]}"
        if not any(one.plan == card.plan and one.line == name for one in self.prices):
            self._add_price(card, line, name, content)

    def _add_fees(self, card: RateCard, lines: list[PriceLine]) -> None:
        """A plan has one flat price; a minimum beside it is a problem."""
        for line in lines:
            content = self._content(card, line, f"{card.plan}/{FEE}")
            if content is not None:
                self._add_price(card, line, FEE, content)

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

    def _add_price(self, card: RateCard, line: PriceLine, name: str, content: PriceContent) -> None:
        if content.meter:
            self.meters.add(content.meter)
        stripe = line.hints.stripe
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


def _paid_by(card: RateCard) -> str:
    """Why a plan's usage is nothing that the provider could price."""
    if card.billing.invoices_rest:
        return "credit pays its usage first and our own invoices ask for the rest"
    return "credit pays its usage"


def _by_meter(card: RateCard) -> dict[str, list[PriceLine]]:
    """The lines of each meter; fees stand under "", and so do minimums."""
    found: dict[str, list[PriceLine]] = {}
    for line in card.lines:
        found.setdefault(line.meter, []).append(line)
    return found


def lookup_key(plan: str, line: str) -> str:
    """The key under which a line's current price is found; names have no colon."""
    return f"sidecar:{plan}:{line}"
