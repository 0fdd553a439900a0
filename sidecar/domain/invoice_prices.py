"""
What an invoice adds to rated usage: volume, flat and minimum prices.

Pure functions of totals and spans, so that an invoice that is made again comes out the same.
Usage of all other prices was rated when it was captured: an invoice sums those amounts up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.domain.period_prices import Flat, FreeQuota, Minimum, Volume, bare_price
from sidecar.domain.periods import Period
from sidecar.domain.prorating import prorate, shares
from sidecar.domain.rate_cards import OnChange, PriceLine, RateCard


@dataclass(frozen=True, slots=True, kw_only=True)
class CardUse:
    """
    One card's time and usage in a period, all that was rated by its version.

    `spans` are when it was in force. `totals` are the quantities of its lines by their place;
    `rated_nano` is what capture rated of all of them together.
    """

    card: RateCard
    spans: tuple[Period, ...]
    totals: Mapping[int, int] = field(default_factory=dict)
    rated_nano: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodCharge:
    """
    An amount that a period's end decides: by which line of which card, for which quantity.

    Of a fee the quantity is 1.
    """

    card: RateCard
    index: int
    quantity: int
    amount_nano: int

    @property
    def line(self) -> PriceLine:
        """The price line."""
        return self.card.lines[self.index]


def invoice_amount(
    line: PriceLine,
    quantity: int,
    *,
    period: Period | None = None,
    spans: Sequence[Period] | None = None,
) -> int:
    """
    What a line comes to for a period, in nano.

    Args:
        line: Any line; one that is rated at capture gives F of the total, to compare with.
        quantity: The period's total in the meter's unit. For a minimum: what all other lines
            come to, in nano. For a flat price it does not matter.
        period: The invoice's; without it nothing is cut to a share.
        spans: When the line was in force, where it is due for that share of the period only: a
            volume price's free quota is cut. Flat prices and minimums are those of the whole
            period; `period_charges` cuts them.
    """
    price = bare_price(line.price)
    match price:
        case Volume():
            free = line.price.units if isinstance(line.price, FreeQuota) else 0
            if spans is not None and period is not None:
                free = sum(prorate(free, span, period) for span in spans)
            return price.period_amount(max(0, quantity - free))
        case Flat():
            return price.amount_nano
        case Minimum():
            return max(0, price.amount_nano - quantity)
        case _:
            at_capture = line.price if period is None else line.price_in(period)
            return at_capture.cumulative(quantity)


def period_charges(uses: Sequence[CardUse], period: Period) -> list[PeriodCharge]:
    """
    All that a period's end adds, for the cards that a customer had in it.

    The last card's `on_change` says how a change within the period is settled, be it of prices or
    of plans:

    reset: each card's volume prices are due whole, and so are its flat price and minimum, for the
        share of the period that the customer was on the card's plan.
    carry: volume lines with the same content are one total; flat and minimum prices are those of
        the last card, once, and its minimum counts all that the period came to.
    prorate: volume lines likewise; each card's flat price, minimum and volume quota are due for
        the share of the period that the card was in force.

    Shares of all flat prices are rounded together, once, and so are those of all minimums: see
    `shares`.

    Args:
        uses: One for each card, the one that was last in force at the end; no span overlaps
            another one's.
        period: Half-open, the invoice's.
    """
    if not uses:
        return []
    on_change = uses[-1].card.on_change
    charges = _volumes(uses, period, on_change)
    for use, index, amount in _due(uses, Flat, period, on_change):
        charges.append(PeriodCharge(card=use.card, index=index, quantity=1, amount_nano=amount))
    minimums = []
    for use, index, least in _due(uses, Minimum, period, on_change):
        counted = uses if on_change is OnChange.CARRY else (use,)
        versions = {one.card.version for one in counted}
        others = sum(one.rated_nano for one in counted) + sum(
            charge.amount_nano for charge in charges if charge.card.version in versions
        )
        lacking = max(0, least - others)
        minimums.append(PeriodCharge(card=use.card, index=index, quantity=1, amount_nano=lacking))
    return charges + minimums


def _volumes(uses: Sequence[CardUse], period: Period, on_change: OnChange) -> list[PeriodCharge]:
    """Volume lines, those of one running total together, on the last card that has it."""
    found: dict[str, tuple[RateCard, int, int, tuple[Period, ...]]] = {}
    for use in uses:
        for index, line in use.card.of_period:
            if not isinstance(bare_price(line.price), Volume):
                continue
            name = use.card.total_name(index)
            if on_change is OnChange.RESET:
                name = f"{use.card.version}:{index}"
            quantity, spans = use.totals.get(index, 0), use.spans
            if name in found:
                quantity, spans = quantity + found[name][2], found[name][3] + spans
            found[name] = use.card, index, quantity, spans
    charges = []
    for card, index, quantity, spans in found.values():
        part = spans if on_change is OnChange.PRORATE else None
        amount = invoice_amount(card.lines[index], quantity, period=period, spans=part)
        charges.append(PeriodCharge(card=card, index=index, quantity=quantity, amount_nano=amount))
    return charges


def _due(
    uses: Sequence[CardUse], kind: type[Flat | Minimum], period: Period, on_change: OnChange
) -> list[tuple[CardUse, int, int]]:
    """Fees of a kind with their places, each for the time that counts."""
    if on_change is OnChange.CARRY:
        uses = uses[-1:]
    found = [
        (use, index, price.amount_nano)
        for use in uses
        for index, line in use.card.of_period
        if isinstance(price := line.price, kind)
    ]
    parts = [(whole, _time_of(use, uses, period, on_change)) for use, _, whole in found]
    return [
        (use, index, share)
        for (use, index, _), share in zip(found, shares(parts, period), strict=True)
    ]


def _time_of(
    use: CardUse, uses: Sequence[CardUse], period: Period, on_change: OnChange
) -> Sequence[Period]:
    """For which part of the period a card's fees are due."""
    match on_change:
        case OnChange.CARRY:
            return (period,)
        case OnChange.PRORATE:
            return use.spans
        case OnChange.RESET:
            return [span for one in uses if one.card.plan == use.card.plan for span in one.spans]
