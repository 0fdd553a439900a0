"""
Rating: from measured usage to a priced event, with an interval of each running total it needs.

Amount = F(total after) - F(total before), so the amounts of any split and order of events add
up to the price of the total. The store moves the total, once for each thing that is said of a hold
id; a correction moves it on from where it stands by then, forth or back. What an id costs is the
sum over its moves.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from sidecar.domain.counters import counted_quantity
from sidecar.domain.errors import InvalidInput, PricedElsewhere
from sidecar.domain.holds import HoldTerms, QuotaLine
from sidecar.domain.meter_values import TOKEN_VALUES
from sidecar.domain.periods import CalendarUnit, CalendarWindow, from_epoch_ms
from sidecar.domain.plain_rating import PlainMeter, plain_meters, rate_plainly
from sidecar.domain.pricing import Price, RateCard
from sidecar.domain.quantities import (
    Caller,
    Measured,
    MeteredQuantities,
    assume_quantities,
    measure_quantities,
)
from sidecar.domain.thawing import quickly_made
from sidecar.domain.usage import RatedLine, TokenUsage, UsageEvent, UsageReport, check_quantity
from sidecar.services.ports import Balances, RatingDemand, ReservedTotals, TotalStep

PRICE_PERIOD = CalendarWindow(unit=CalendarUnit.MONTH)
"""A running total starts anew each calendar month (UTC); anchors come with subscriptions."""

SWEEP = "sweep"
"""The edge of events that no edge reported."""
ORPHANED = "orphaned"
"""Why such an event is an estimate."""

HEADER_FACTOR_MAX = 10
"""A response header that claims more than this many times the hold is set aside: an upstream's
header is easily wrong by a unit, and nobody should pay for that unseen."""


_PLAIN_MAX = 4_096
"""Cards, meters and models together that are remembered as plain, or as not."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """
    An event with its amounts, and what it really took of the counters that its hold took.

    `steps` is how many moves of running totals the amounts were made of. Where another event of its
    hold is `pending`, it has no amounts yet: that one comes first.
    """

    event: UsageEvent
    card: RateCard
    quota_lines: tuple[QuotaLine, ...]
    steps: int = 0
    pending: UsageEvent | None = None


class Rating:
    """Prices reports by the rate card that their hold names."""

    def __init__(self, balances: Balances) -> None:
        """Wire the store that keeps running totals."""
        self._balances = balances
        self._plain: dict[tuple[str, tuple[str, ...], str], tuple[PlainMeter, ...] | None] = {}

    def price_plainly(self, report: UsageReport, terms: HoldTerms, card: RateCard) -> Priced | None:
        """What `price` answers, if the report needs neither the store nor a closer look."""
        if report.from_header:
            return None
        model = report.model or terms.model
        meters = self._plain_meters(card, tuple(terms.estimate), model)
        if meters is None:
            return None
        lines = rate_plainly(meters, report.usage, report.status)
        if lines is None:
            return None
        event = make_event(report, terms, lines, estimated=False)
        return Priced(
            event=event, card=card, quota_lines=_counted_lines(terms, event), steps=0, pending=None
        )

    def _plain_meters(
        self, card: RateCard, names: tuple[str, ...], model: str
    ) -> tuple[PlainMeter, ...] | None:
        key = (card.version, names, model)
        try:
            return self._plain[key]
        except KeyError:
            pass
        if len(self._plain) >= _PLAIN_MAX:
            # The model is an upstream's word, so there is no end of them.
            self._plain.clear()
        found = self._plain[key] = plain_meters(card, names, model)
        return found

    async def price(self, report: UsageReport, terms: HoldTerms, card: RateCard) -> Priced | str:
        """
        Measure and price a report, or say why it must be set aside.

        Raises:
            InvalidInput: It costs more than any balance, or cannot be stored.
            StoreUnavailable: An interval may or may not be reserved; repeat it.
        """
        if not terms.estimate.keys() <= card.meters.keys():
            return "unknown_meter"
        model = report.model or terms.model
        metered = measure_quantities(card.meters, terms.estimate, measured(report, terms))
        if metered.refusal:
            return metered.refusal
        if not card.prices_model(model, [name for name, q in metered.quantities.items() if q]):
            return "unpriced_model"
        if report.from_header and any(
            quantity > HEADER_FACTOR_MAX * max(terms.estimate[name], 1)
            for name, quantity in metered.quantities.items()
            if card.meters[name].value in TOKEN_VALUES
        ):
            return "implausible_header"
        # Before an interval of a total is reserved, which nothing gives back.
        for name, quantity in metered.quantities.items():
            check_quantity(quantity, field=name)
        card.upper_bound(metered.quantities, model)
        event = make_event(
            report, terms, rated_lines(card, metered), estimated=bool(metered.estimated)
        )
        return await self.rate(event, card, terms)

    async def price_orphan(self, terms: HoldTerms, card: RateCard) -> Priced:
        """
        Price what a hold was for, where no report came: a function of the hold alone.

        Raises:
            InvalidInput: The card does not know one of its meters.
            StoreUnavailable: As `price`.
        """
        if not terms.estimate.keys() <= card.meters.keys():
            raise InvalidInput("the hold names a meter that its price version does not have")
        expired = from_epoch_ms(terms.expires_at_ms)
        report = UsageReport(
            edge=SWEEP, gateway_id=terms.gateway_id, received_at=expired, usage=TokenUsage()
        )
        metered = assume_quantities(card.meters, terms.estimate, measured(report, terms))
        event = make_event(
            report, terms, rated_lines(card, metered), estimated=bool(metered.estimated)
        )
        return await self.rate(
            replace(event, estimated=True, estimate_reason=ORPHANED), card, terms
        )

    async def rate(
        self, event: UsageEvent, card: RateCard, terms: HoldTerms, *, anew: bool = False
    ) -> Priced:
        """
        Fill in each line's amount; moves running totals first where a price needs them.

        Args:
            event: Unpriced, or priced before; its amounts are worked out anew.
            card: Of its price version.
            terms: Of its hold.
            anew: Whether the id may have moved totals though this event needs none.

        Raises:
            InvalidInput, StoreUnavailable: As `price`.
            PricedElsewhere: Measured usage that cannot correct the estimate of another card.
        """
        found = {line.meter: card.line_for(line.meter, event.model) for line in event.lines}
        amounts: dict[str, int] = {}
        demands = []
        for line in event.lines:
            priced_by = found[line.meter]
            if priced_by is None:
                continue
            unit = priced_by[1].price.unit_nano
            if unit is not None:
                amounts[line.meter] = line.quantity * unit
                continue
            key = total_key(card, priced_by[0], event.occurred_at)
            demands.append(RatingDemand(key=key, quantity=line.quantity))
        reserved = ReservedTotals(steps=())
        if demands or anew:
            reserved = await self._balances.reserve_totals(
                event.customer_id, event.hold_id, event, demands
            )
        _add_steps(amounts, card, reserved)
        lines = _with_amounts(event.lines, amounts)
        priced = replace(event, lines=lines)
        return Priced(
            event=priced,
            card=card,
            quota_lines=_counted_lines(terms, priced),
            steps=reserved.count,
            pending=reserved.pending,
        )


def make_event(
    report: UsageReport, terms: HoldTerms, lines: tuple[RatedLine, ...], *, estimated: bool
) -> UsageEvent:
    """The event of a report; its lines may be at no amount yet."""
    return UsageEvent(
        hold_id=terms.hold_id,
        customer_id=terms.customer_id,
        team_id=terms.team_id,
        user_id=terms.user_id,
        credential_id=terms.credential_id,
        currency=terms.currency,
        price_version=terms.price_version,
        plan=terms.plan,
        model=report.model or terms.model,
        route=terms.route,
        lines=lines,
        usage=report.usage,
        status=report.status,
        occurred_at=from_epoch_ms(terms.decided_at_ms),
        received_at=report.received_at,
        duration_ms=report.duration_ms or 0,
        request_bytes=report.request_bytes or 0,
        response_bytes=report.response_bytes or 0,
        edge=report.edge,
        gateway_id=terms.gateway_id,
        estimated=estimated,
        estimate_reason="usage_missing" if estimated else "",
        client_key=report.event_id if not report.hold_token and not report.hold_id else "",
        request_id=terms.request_id or report.request_id,
    )


def _counted_lines(terms: HoldTerms, event: UsageEvent) -> tuple[QuotaLine, ...]:
    """What a priced event really took of each counter that its hold took."""
    if not terms.quota_lines:
        return ()
    quantities = {line.meter: line.quantity for line in event.lines}
    return tuple(
        replace(line, quantity=counted_quantity(line, event, quantities))
        for line in terms.quota_lines
    )


def measured(report: UsageReport, terms: HoldTerms) -> Measured:
    """All that is known of a finished request: the report's word, and what its hold noted."""
    return Measured(
        usage=report.usage,
        status=report.status,
        duration_ms=report.duration_ms,
        request_bytes=report.request_bytes,
        response_bytes=report.response_bytes,
        model=report.model or terms.model,
        asked_model=terms.model,
        facts=report.facts,
        caller=Caller(
            customer_id=terms.customer_id,
            plan=terms.plan,
            team_id=terms.team_id,
            user_id=terms.user_id,
            credential_id=terms.credential_id,
            route=terms.route,
            noted=terms.noted,
        ),
    )


def rated_lines(card: RateCard, metered: MeteredQuantities) -> tuple[RatedLine, ...]:
    """A line for each meter, at no amount yet."""
    return tuple(
        RatedLine(
            meter=name,
            quantity=observed.quantity,
            amount_nano=0,
            groups=observed.groups,
            text_hash=observed.text_hash,
            observed=not card.meters[name].aggregation.additive,
        )
        for name, observed in metered.observed.items()
    )


def _add_steps(amounts: dict[str, int], card: RateCard, reserved: ReservedTotals) -> None:
    """
    Add what an id's moves of running totals cost to the amounts by meter.

    Raises:
        PricedElsewhere: The store moved a total that is not of this card.
    """
    if not reserved.steps:
        return
    lines = {card.total_name(index): line for index, line in enumerate(card.lines)}
    for step in reserved.steps:
        name, _, start = step.key.rpartition(":")
        line = lines.get(name)
        if line is not None:
            period = PRICE_PERIOD.at(from_epoch_ms(int(start)))
            nano = step_amount(step, line.price_in(period))
            amounts[line.meter] = amounts.get(line.meter, 0) + nano
        elif reserved.made:
            raise PricedElsewhere("the usage that it corrects has another price version")


def step_amount(step: TotalStep, price: Price) -> int:
    """What one move of a running total costs, in nano; below 0 of one back."""
    if step.before is None:
        assert step.amount_nano is not None
        return step.amount_nano
    return price.cumulative(step.before + step.quantity) - price.cumulative(step.before)


def _with_amounts(lines: Iterable[RatedLine], amounts: dict[str, int]) -> tuple[RatedLine, ...]:
    """The lines at their amounts, and one at quantity 0 for a meter of which all has gone back."""
    rated = [replace(line, amount_nano=amounts.pop(line.meter, 0)) for line in lines]
    rest = [RatedLine(meter=meter, quantity=0, amount_nano=n) for meter, n in amounts.items() if n]
    return (*rated, *rest)


def total_key(card: RateCard, line: int, instant: datetime) -> str:
    """Name of a running total: by what the card calls it, and the period."""
    return f"{card.total_name(line)}:{PRICE_PERIOD.at(instant).start_ms}"
