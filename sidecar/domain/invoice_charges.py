"""What a period's end decides for an invoice: which cards were in force, and what they charge."""

from collections.abc import Iterable, Mapping, Sequence

from sidecar.domain.invoice_prices import CardUse, invoice_amount, period_charges
from sidecar.domain.invoices import Charge, UsagePart
from sidecar.domain.period_prices import Volume, bare_price
from sidecar.domain.periods import Period
from sidecar.domain.rate_cards import RateCard


def charges_of(
    period: Period,
    in_force: Sequence[tuple[RateCard, Period]],
    cards: Mapping[str, RateCard],
    parts: Iterable[UsagePart],
) -> list[Charge]:
    """
    Volume, flat and minimum prices of a period.

    Args:
        period: The invoice's.
        in_force: Cards of the customer's plans, each with its part of the period, in order of time.
        cards: Those of the usage, by version.
        parts: The usage of the period itself, without what came late.

    Returns:
        What those cards charge; and volume prices of usage under cards that are not among them
        (a gateway may have had another card for a moment around a change), each whole. In force
        those were not, so their flat prices and minimums are not charged.
    """
    used = list(parts)
    spans: dict[str, list[Period]] = {}
    by_version: dict[str, RateCard] = {}
    for card, span in in_force:
        # Whoever is in force last stands last.
        spans[card.version] = [*spans.pop(card.version, []), span]
        by_version[card.version] = card
    uses = [_use(by_version[version], tuple(own), used) for version, own in spans.items()]
    charges = [
        Charge(card=one.card, index=one.index, quantity=one.quantity, amount_nano=one.amount_nano)
        for one in period_charges(uses, period)
    ]
    for version in sorted(cards.keys() - spans.keys()):
        charges += _volumes(_use(cards[version], (period,), used), period)
    return charges


def _use(card: RateCard, spans: tuple[Period, ...], parts: Iterable[UsagePart]) -> CardUse:
    totals: dict[int, int] = {}
    rated = 0
    for part in parts:
        if part.price_version != card.version:
            continue
        rated += part.amount_nano
        found = card.line_for(part.meter, part.model)
        if found is not None:
            totals[found[0]] = totals.get(found[0], 0) + part.quantity
    return CardUse(card=card, spans=spans, totals=totals, rated_nano=rated)


def _volumes(use: CardUse, period: Period) -> list[Charge]:
    return [
        Charge(
            card=use.card,
            index=index,
            quantity=use.totals[index],
            amount_nano=invoice_amount(line, use.totals[index], period=period),
        )
        for index, line in use.card.of_period
        if isinstance(bare_price(line.price), Volume) and use.totals.get(index)
    ]
