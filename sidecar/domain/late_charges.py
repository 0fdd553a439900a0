"""
What late usage changes of that which a period's end decided: volume prices, minimums.

Usage on an invoice of its period was charged by F of that total. Usage that comes later costs what
F of the total with it is more, or less, than F of the total before it. So the sum over all invoices
is F of the total, in whatever steps it came. Amounts are nano.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sidecar.domain.invoice_charges import charges_of
from sidecar.domain.invoices import Charge, Finding, FindingKind, UsagePart
from sidecar.domain.periods import Period
from sidecar.domain.rate_cards import RateCard


@dataclass(frozen=True, slots=True, kw_only=True)
class LatePeriod:
    """
    A period that was invoiced, and usage of it that comes onto an invoice now.

    `before` is all of its usage that is on invoices already; what was written off is in neither.
    """

    period: Period
    in_force: Sequence[tuple[RateCard, Period]]
    before: Sequence[UsagePart]
    added: Sequence[UsagePart]


@dataclass(frozen=True, slots=True, kw_only=True)
class LateWork:
    """
    What late usage of an invoice charges beside its own amounts.

    `open` is set where it is not worked out: nobody knows the period, or what was in force in it.
    """

    charges: tuple[Charge, ...] = ()
    findings: tuple[Finding, ...] = ()
    open: bool = False


def work_out(
    periods: Sequence[LatePeriod],
    cards: Mapping[str, RateCard],
    *,
    written_off: bool = False,
    is_open: bool = False,
) -> LateWork:
    """
    The charges of all periods, each line by itself.

    Args:
        periods: In a stable order.
        cards: Those of all usage, by version.
        written_off: Late usage is not asked for: what would raise a period's sum is left out, and
            a finding says how much.
        is_open: Some of the usage is of no period that is known.
    """
    charges: list[Charge] = []
    findings = []
    for one in periods:
        found = late_charges(one, cards)
        if written_off:
            kept = withhold(found, sum(part.amount_nano for part in one.added if not part.prepaid))
            if kept != found:
                findings.append(
                    Finding(
                        kind=FindingKind.LATE_WRITTEN_OFF,
                        line_number=0,
                        captured_nano=_sum(kept),
                        expected_nano=_sum(found),
                    )
                )
            found = kept
        charges += found
    return LateWork(charges=tuple(charges), findings=tuple(findings), open=is_open)


def late_charges(late: LatePeriod, cards: Mapping[str, RateCard]) -> list[Charge]:
    """What the added usage makes more, or less, of each line; lines that stay are left out."""
    whole = _charged(late, cards, [*late.before, *late.added])
    before = _charged(late, cards, late.before)
    changed = []
    for key in dict.fromkeys((*whole, *before)):
        now, was = whole.get(key), before.get(key)
        found = now or was
        assert found is not None
        amount = (now.amount_nano if now else 0) - (was.amount_nano if was else 0)
        quantity = (now.quantity if now else 0) - (was.quantity if was else 0)
        if amount:
            changed.append(
                replace(found, quantity=quantity, amount_nano=amount, period=late.period, late=True)
            )
    return changed


def withhold(charges: Sequence[Charge], usage_nano: int) -> list[Charge]:
    """
    Charges without what raises a period's sum; the first ones give way first.

    Args:
        charges: Of one period, of either sign.
        usage_nano: What its late usage comes to beside them. What usage takes back, a minimum may
            ask for: together that raises nothing.
    """
    excess = _sum(charges) + usage_nano
    kept = []
    for charge in charges:
        given = max(0, min(excess, charge.amount_nano))
        excess -= given
        if charge.amount_nano != given:
            kept.append(replace(charge, amount_nano=charge.amount_nano - given))
    return kept


def _charged(
    late: LatePeriod, cards: Mapping[str, RateCard], parts: Sequence[UsagePart]
) -> dict[tuple[str, int], Charge]:
    # Versions of all the usage, so that both sums have the same lines.
    versions = {part.price_version for part in (*late.before, *late.added)}
    known = {version: cards[version] for version in versions}
    return {
        (charge.card.version, charge.index): charge
        for charge in charges_of(late.period, late.in_force, known, parts)
    }


def _sum(charges: Sequence[Charge]) -> int:
    return sum(charge.amount_nano for charge in charges)


NOTHING_LATE = LateWork()
