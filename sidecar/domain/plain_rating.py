"""
What most usage comes to: meters that count tokens or requests, at so much a unit.

It is worked out once for a card, the meters of a hold and a model, and then in one pass over the
meters. Whatever is not so plain (a value that is not there, a group, an expression, a price that
needs a total) is told by None: `quantities` and `services.rating` measure and price it. Where
this answers, they would answer the same.
"""

from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import Final

from sidecar.domain.meter_values import TOKEN_VALUES
from sidecar.domain.meters import Aggregation, Meter
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.quantities import token_count
from sidecar.domain.rate_cards import RateCard
from sidecar.domain.usage import QUANTITY_MAX, RatedLine, TokenUsage

_Count = Callable[[TokenUsage], int | None]
PlainMeter = tuple[str, frozenset[int], _Count, int | None]
"""Name, statuses (empty for all), what counts, nano of a unit (None: the model has no price)."""

_WHOLE: Final[dict[str, _Count]] = {
    "usage.input": attrgetter("input"),
    "usage.output": attrgetter("output"),
    "usage.total": attrgetter("known_total"),
}


def plain_meters(card: RateCard, names: Iterable[str], model: str) -> tuple[PlainMeter, ...] | None:
    """
    The meters of a hold as `rate_plainly` takes them, or None if one of them is not plain.

    Args:
        card: That the hold names.
        names: Of the meters, in the order that their lines shall have.
        model: That served.
    """
    rows = []
    for name in names:
        meter = card.meters.get(name)
        count = None if meter is None else _plain_count(meter)
        if meter is None or count is None:
            return None
        found = card.line_for(name, model)
        unit: int | None = 0
        if found is not None:
            unit = found[1].price.unit_nano
            if unit is None:
                return None
        elif name in card.priced_meters():
            unit = None
        rows.append((name, meter.statuses, count, unit))
    return tuple(rows)


def rate_plainly(
    meters: Iterable[PlainMeter], usage: TokenUsage, status: int | None
) -> tuple[RatedLine, ...] | None:
    """A line for each meter at its amount; None if that is for the general way to tell."""
    lines, total = [], 0
    for name, statuses, count, unit in meters:
        quantity = 0 if statuses and status not in statuses else count(usage)
        if quantity is None or quantity > QUANTITY_MAX:
            return None
        amount = 0
        if quantity:
            if unit is None:
                return None
            amount = quantity * unit
            total += amount
        lines.append(RatedLine(meter=name, quantity=quantity, amount_nano=amount))
    return tuple(lines) if total <= AMOUNT_NANO_MAX else None


def _plain_count(meter: Meter) -> _Count | None:
    """How a meter's quantity follows from token counts alone; None if it does not."""
    if meter.group_by or not meter.aggregation.additive:
        return None
    if meter.aggregation is Aggregation.COUNT or meter.value == "requests":
        return _one
    if meter.value not in TOKEN_VALUES:
        return None
    return _WHOLE.get(meter.value) or partial(token_count, meter.value.removeprefix("usage."))


def _one(_usage: TokenUsage) -> int:
    return 1
