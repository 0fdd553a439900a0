"""
A provider's dated list of model prices, compared with what a plan has for each model.

Pure: the list was read, the plan compiled. What a plan lacks is a denial to whoever asks for
that model, so the comparison names it before a customer does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

from sidecar.domain.price_models import MARKUP_SCALE, CostPlus, PerUnit, Price
from sidecar.domain.rate_cards import PriceLine, RateCard


class Kind(StrEnum):
    """What a list has a price for."""

    INPUT = "input"
    OUTPUT = "output"
    CACHE_READ = "cache_read"
    CACHE_WRITE = "cache_write"


VALUES: Mapping[Kind, str] = {
    Kind.INPUT: "usage.input",
    Kind.OUTPUT: "usage.output",
    Kind.CACHE_READ: "usage.cache_read",
    Kind.CACHE_WRITE: "usage.cache_creation",
}
"""The meter value that counts a kind, where the operator names no meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A model's prices from an instant on, in nano for `per` tokens; `place` is file and line."""

    model: str
    effective_at: datetime
    currency: str
    per: int
    prices: Mapping[Kind, int]
    source: str = ""
    place: str = ""


class Change(StrEnum):
    """What a list's price is to a plan."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    KEPT = "kept"
    """The plan prices the model by another kind of price: left as it is."""
    GONE = "gone"
    """The plan names a model that the list does not have; it stays priced."""
    UNPRICED = "unpriced"
    """Nobody prices it: requests for the model are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """
    One model and meter of the comparison; a price that is not there is None.

    Of a new one `before` is the plan's price for any model, which it had until then.
    """

    change: Change
    model: str
    meter: str
    before: Price | None = None
    after: Price | None = None
    row: ModelRow | None = None


def rows_at(rows: Iterable[ModelRow], instant: datetime) -> dict[str, ModelRow]:
    """Each model's newest prices that have begun by an instant."""
    found: dict[str, ModelRow] = {}
    for row in rows:
        known = found.get(row.model)
        if row.effective_at <= instant and (known is None or known.effective_at < row.effective_at):
            found[row.model] = row
    return found


def meters_of(card: RateCard) -> dict[Kind, str]:
    """The meter of each kind that the card prices; none where two count the same."""
    found: dict[Kind, str] = {}
    for kind, value in VALUES.items():
        names = [name for name in sorted(card.priced_meters()) if card.meters[name].value == value]
        if len(names) == 1:
            found[kind] = names[0]
    return found


def compare_models(
    card: RateCard,
    rows: Mapping[str, ModelRow],
    meters: Mapping[Kind, str],
    known: Iterable[str],
    *,
    markup: int | None = None,
) -> list[PriceChange]:
    """
    What the list would change of a card, by model and then meter.

    Args:
        card: The plan's prices.
        rows: The list's prices that count, by model; others are the caller's to leave out.
        meters: Which meter counts each kind; a kind without one is not compared.
        known: Models that the policy has limits of.
        markup: Hundredths of a percent on top of the list; None: the list's prices are the plan's.
    """
    named = {
        (line.meter, model): line for line in card.lines for model in line.models if line.meter
    }
    changes = []
    for model, row in rows.items():
        for kind, meter in meters.items():
            if kind not in row.prices:
                continue
            line, found = named.get((meter, model)), card.line_for(meter, model)
            after = _priced(row, kind, markup)
            changes.append(
                PriceChange(
                    change=_change(None if line is None else line.price, after),
                    model=model,
                    meter=meter,
                    before=None if found is None else found[1].price,
                    after=after,
                    row=row,
                )
            )
    counted = set(meters.values())
    changes += [
        PriceChange(change=Change.GONE, model=model, meter=meter, before=line.price)
        for (meter, model), line in named.items()
        if model not in rows and meter in counted
    ]
    will_be = {(one.meter, one.model) for one in changes if one.after is not None} | named.keys()
    changes += [
        PriceChange(change=Change.UNPRICED, model=model, meter=meter)
        for model in {*rows, *known, *(model for _, model in named)}
        for meter in sorted(card.priced_meters() | {one.meter for one in changes})
        if (meter, model) not in will_be and card.line_for(meter, model) is None
    ]
    return sorted(changes, key=lambda one: (one.model, one.meter))


def _priced(row: ModelRow, kind: Kind, markup: int | None) -> Price:
    amount = row.prices[kind]
    if markup is None:
        return PerUnit(amount_nano=amount, per=row.per)
    return CostPlus(cost_nano=amount, per=row.per, markup=markup)


def _change(before: Price | None, after: Price) -> Change:
    if before is None:
        return Change.NEW
    old, new = unit_price(before), unit_price(after)
    if old is None:
        return Change.KEPT
    return Change.SAME if old == new else Change.CHANGED


def unit_price(price: Price) -> Fraction | None:
    """The exact nano of one unit; None where a price is not linear."""
    match price:
        case PerUnit():
            return Fraction(price.amount_nano, price.per)
        case CostPlus():
            share = Fraction(MARKUP_SCALE + price.markup, MARKUP_SCALE)
            return Fraction(price.cost_nano, price.per) * share
        case _:
            return None


def apply_changes(
    lines: Sequence[PriceLine], changes: Iterable[PriceChange]
) -> tuple[PriceLine, ...]:
    """A card's lines with new and changed prices in them; what is gone or kept stays."""
    wanted = {
        (one.meter, one.model): one.after
        for one in changes
        if one.change in (Change.NEW, Change.CHANGED) and one.after is not None
    }
    kept = []
    for line in lines:
        models = tuple(model for model in line.models if (line.meter, model) not in wanted)
        if models or not line.models:
            kept.append(replace(line, models=models))
    own = tuple(
        PriceLine(meter=meter, models=(model,), price=price)
        for (meter, model), price in wanted.items()
    )
    return (*kept, *own)
