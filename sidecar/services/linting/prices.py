"""Prices whose amount is not what a hold or a cap sees: packages, tiers, fees of a period."""

from collections.abc import Iterator

from sidecar.domain.counters import MONEY
from sidecar.domain.money import format_amount
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Billing, Graduated, Package, PriceLine, RateCard, bare_price
from sidecar.domain.rules import Mode, Rule
from sidecar.services.linting.findings import Finding, Linted, Severity


def lint_prices(linted: Linted) -> Iterator[Finding]:
    """What is held beyond what is used, and what no cap can see."""
    found = (finding for card in linted.policy.all_cards for finding in _on_credit(linted, card))
    # Versions and overrides of a plan have most lines in common: each finding is told once.
    yield from dict.fromkeys(found)
    yield from _late(linted)
    yield from _unseen(linted.policy)


def _on_credit(linted: Linted, card: RateCard) -> Iterator[Finding]:
    if not card.billing.burns_credit:
        return
    place = linted.places.plans.get(card.plan, "")
    for line in card.lines:
        price = bare_price(line.price)
        if isinstance(price, Package) and price.per > 1:
            yield Finding(
                code="package-on-credit",
                severity=Severity.WARNING,
                place=place,
                message=(
                    f"plan {card.plan!r} burns credit and prices meter {line.meter!r} by packages "
                    f"of {price.per}: each request holds at least one whole package, "
                    f"{format_amount(price.amount_nano)} {card.currency}, however little it uses"
                ),
                mend="price it per_unit, or bill the plan by invoice",
            )
        elif isinstance(price, Graduated):
            yield _tiers(card, line, price, place)


def _tiers(card: RateCard, line: PriceLine, price: Graduated, place: str) -> Finding:
    """Holds are the dearest case; a flat amount makes even the smallest request hold it."""
    dearest = max(tier.amount_nano for tier in price.tiers)
    flat = price.upper_bound(1) - -(-dearest // price.per)
    held = f"{format_amount(dearest)} {card.currency} for {price.per}"
    fees = f", plus {format_amount(flat)} {card.currency} for a tier's flat amount" if flat else ""
    return Finding(
        code="tiers-on-credit",
        severity=Severity.WARNING if flat else Severity.NOTE,
        place=place,
        message=(
            f"plan {card.plan!r} burns credit and prices meter {line.meter!r} by tiers: each "
            f"request holds all its units at the dearest, {held}{fees}, wherever the total stands"
        ),
        mend="nothing, if customers have room for that; else price it per_unit",
    )


def _late(linted: Linted) -> Iterator[Finding]:
    """What credit paid is on the next invoice whenever it came."""
    for plan, late in linted.policy.late_usage.items():
        card = linted.policy.cards[plan]
        if card.billing is Billing.PREPAID:
            yield Finding(
                code="late-usage-on-credit",
                severity=Severity.NOTE,
                place=linted.places.plans.get(plan, ""),
                message=(
                    f"plan {plan!r} burns credit and says late_usage: {late.value}, which is about "
                    "usage that is invoiced: that of its customers from before they were on it"
                ),
                mend="take late_usage out, unless that is meant",
            )


def _unseen(policy: Policy) -> Iterator[Finding]:
    """Caps in money count what is rated at capture; an invoice adds more."""
    for rule in policy.rules:
        if rule.mode is Mode.DRAFT or rule.counter is None or rule.counter.measure != MONEY:
            continue
        added = _added(policy, rule)
        if added:
            yield Finding(
                code="cap-misses-fees",
                severity=Severity.WARNING,
                place=rule.place,
                rule=rule.name,
                message=(
                    "the cap counts what requests cost when they are captured, and does not see "
                    f"what the invoice adds: {', '.join(added)}"
                ),
                mend="set the limit lower by what is added, or price those meters graduated",
            )


def _added(policy: Policy, rule: Rule) -> list[str]:
    """Plans of the rule's customers, with the models of theirs that only an invoice rates."""
    found: dict[str, set[str]] = {}
    for card in policy.all_cards:
        if rule.customers.plans and card.plan not in rule.customers.plans:
            continue
        if rule.currency and rule.currency != card.currency:
            continue
        kinds = {type(bare_price(line.price)).__name__.lower() for _, line in card.of_period}
        found.setdefault(card.plan, set()).update(kinds)
    return [
        f"{' and '.join(sorted(kinds))} of plan {plan}" for plan, kinds in found.items() if kinds
    ]
