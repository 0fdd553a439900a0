"""
The content of an invoice: lines from usage that was added up, checked against the prices.

Pure, so that an invoice that is made again, after a crash, comes out the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sidecar.domain.invoices import (
    LINE_ROUNDING,
    PRICE_MONTH,
    Charge,
    Content,
    Finding,
    FindingKind,
    InvoiceLine,
    UsagePart,
)
from sidecar.domain.late_charges import NOTHING_LATE, LateWork
from sidecar.domain.minor_units import to_minor
from sidecar.domain.period_prices import is_of_period
from sidecar.domain.periods import Period
from sidecar.domain.rate_cards import RateCard

TotalKey = tuple[datetime, str, str, str]
"""Month, price version, meter, model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthTotal:
    """All usage of a running total's month, on whatever invoice."""

    quantity: int
    amount_nano: int
    corrections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """
    What an invoice is made of.

    `totals` are of months that reach beyond its own usage; `late` is what late usage changes.
    """

    period: Period
    currency: str
    provider: str
    parts: Sequence[UsagePart]
    cards: Mapping[str, RateCard]
    charges: Sequence[Charge] = ()
    late: LateWork = NOTHING_LATE
    totals: Mapping[TotalKey, MonthTotal] = field(default_factory=dict)


def make_content(material: Material) -> Content:
    """
    Lines from parts, in a stable order, and what is wrong with them.

    Raises:
        KeyError: `cards` lacks the version of a part.
    """
    groups: dict[tuple[Any, ...], list[UsagePart]] = {}
    for part in material.parts:
        groups.setdefault(_line_key(part, material.cards), []).append(part)
    lines: list[InvoiceLine] = []
    parts: list[tuple[int, UsagePart]] = []
    findings: list[Finding] = []
    for key in sorted(groups):
        line = _usage_line(len(lines) + 1, groups[key], material)
        if not line.price and not line.amount_nano:
            continue  # Nothing has a price here, so nobody pays for it.
        lines.append(line)
        parts += [(line.number, part) for part in groups[key]]
        findings += _findings(line, groups[key], material)
    for charge in (*material.charges, *material.late.charges):
        if charge.amount_nano:
            lines.append(_charge_line(len(lines) + 1, charge, material))
    findings += material.late.findings
    return Content(lines=tuple(lines), parts=tuple(parts), findings=tuple(findings))


def _line_key(part: UsagePart, cards: Mapping[str, RateCard]) -> tuple[Any, ...]:
    """Parts of one line: a price line of a version; of what has none, each model by itself."""
    found = cards[part.price_version].line_for(part.meter, part.model)
    line, model = (-1, part.model) if found is None else (found[0], "")
    month = part.month.isoformat() if part.late else ""
    return part.late, month, part.meter, part.price_version, line, model


def _usage_line(number: int, parts: Sequence[UsagePart], material: Material) -> InvoiceLine:
    first = parts[0]
    card = material.cards[first.price_version]
    found = card.line_for(first.meter, first.model)
    amount = sum(part.amount_nano for part in parts)
    credit = sum(part.credit_nano for part in parts)
    return InvoiceLine(
        number=number,
        meter=first.meter,
        models=(first.model,) if found is None else found[1].models,
        plan=card.plan,
        price_version=first.price_version,
        price={} if found is None else found[1].price.describe(),
        period=PRICE_MONTH.at(first.month) if first.late else material.period,
        events=sum(part.events for part in parts),
        quantity=sum(part.quantity for part in parts),
        amount_nano=amount,
        credit_nano=credit,
        amount_minor=to_minor(amount, material.currency, material.provider, LINE_ROUNDING),
        due_minor=to_minor(amount - credit, material.currency, material.provider, LINE_ROUNDING),
        late=first.late,
    )


def _charge_line(number: int, charge: Charge, material: Material) -> InvoiceLine:
    line = charge.card.lines[charge.index]
    minor = to_minor(charge.amount_nano, material.currency, material.provider, LINE_ROUNDING)
    return InvoiceLine(
        number=number,
        meter=line.meter,
        models=line.models,
        plan=charge.card.plan,
        price_version=charge.card.version,
        price=line.price.describe(),
        period=charge.period or material.period,
        events=0,
        quantity=charge.quantity,
        amount_nano=charge.amount_nano,
        credit_nano=0,
        amount_minor=minor,
        due_minor=minor,
        charge=True,
        late=charge.late,
    )


def _findings(line: InvoiceLine, parts: Sequence[UsagePart], material: Material) -> list[Finding]:
    card = material.cards[line.price_version]
    found = card.line_for(line.meter, parts[0].model)
    if found is None:
        return [
            Finding(
                kind=FindingKind.UNPRICED_AMOUNT,
                line_number=line.number,
                captured_nano=line.amount_nano,
                expected_nano=0,
            )
        ]
    index, price_line = found
    if line.late and material.late.open and is_of_period(price_line.price):
        return [
            Finding(
                kind=FindingKind.LATE_CHARGE,
                line_number=line.number,
                captured_nano=line.amount_nano,
                expected_nano=0,
            )
        ]
    findings = []
    for month in sorted({part.month for part in parts}):
        total = _whole_month(month, card.total_name(index), material)
        if total is None:
            continue
        expected = price_line.price_in(PRICE_MONTH.at(month)).cumulative(total.quantity)
        if expected != total.amount_nano:
            corrected = total.corrections > 0
            findings.append(
                Finding(
                    kind=FindingKind.CORRECTED_TOTAL if corrected else FindingKind.AMOUNT_DIFFERS,
                    line_number=line.number,
                    captured_nano=total.amount_nano,
                    expected_nano=expected,
                )
            )
    return findings


def _whole_month(month: datetime, name: str, material: Material) -> MonthTotal | None:
    """All usage of a running total in a month; None while the month is not over by the period."""
    if PRICE_MONTH.at(month).end > material.period.end:
        return None
    known = [
        total
        for (of_month, version, meter, model), total in material.totals.items()
        if of_month == month and _total_name(material, version, meter, model) == name
    ]
    own = (
        MonthTotal(
            quantity=part.quantity, amount_nano=part.amount_nano, corrections=part.corrections
        )
        for part in material.parts
        if part.month == month
        and _total_name(material, part.price_version, part.meter, part.model) == name
    )
    return _added(known or own)


def _total_name(material: Material, version: str, meter: str, model: str) -> str:
    """Of the running total that usage ran over; cards may carry one on. "" where it is unknown."""
    card = material.cards.get(version)
    found = None if card is None else card.line_for(meter, model)
    return "" if card is None or found is None else card.total_name(found[0])


def _added(totals: Iterable[MonthTotal]) -> MonthTotal:
    quantity = amount = corrections = 0
    for total in totals:
        quantity += total.quantity
        amount += total.amount_nano
        corrections += total.corrections
    return MonthTotal(quantity=quantity, amount_nano=amount, corrections=corrections)


def months_to_sum(period: Period, parts: Iterable[UsagePart]) -> frozenset[datetime]:
    """Months of whose usage some may be on another invoice: what is late, and what is split."""
    return frozenset(part.month for part in parts if part.late or part.month < period.start)
