"""Prices and estimates: what is not priced, not held, or held by guess."""

from collections.abc import Iterator

from sidecar.domain.errors import InvalidInput
from sidecar.domain.matching import Match
from sidecar.domain.meter_values import TOKEN_VALUES
from sidecar.domain.meters import Meter
from sidecar.domain.money import format_amount
from sidecar.domain.overshoot import Overshoot, overshoot
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Billing, RateCard
from sidecar.domain.quantities import estimate_quantities
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import EstimateFrom, EstimateRule, MeterRule, Rule, RuleTemplate
from sidecar.services.linting.containment import covers_matches
from sidecar.services.linting.findings import Finding, Linted, Severity
from sidecar.services.linting.prices import lint_prices


def lint_money(linted: Linted) -> Iterator[Finding]:
    """Currencies, models without prices, meters without estimates, packages on credit."""
    yield from _currencies(linted.policy)
    yield from _stated_bounds(linted)
    yield from lint_prices(linted)
    # Versions and overrides of a plan have most lines in common: each finding is told once.
    found = (finding for card in linted.policy.all_cards for finding in _of_card(linted, card))
    yield from dict.fromkeys(found)


def _of_card(linted: Linted, card: RateCard) -> Iterator[Finding]:
    yield from _models(linted.policy, card, linted.places.plans.get(card.plan, ""))
    yield from _unestimated(linted, card)
    yield from _overshoots(linted, card)


def _currencies(policy: Policy) -> Iterator[Finding]:
    """Limits of one currency whose customers may be on plans of another."""
    for rule in policy.rules:
        plans = sorted(rule.customers.plans or policy.cards)
        if rule.currency:
            others = [
                plan
                for plan in plans
                if plan in policy.cards and policy.cards[plan].currency != rule.currency
            ]
            others = [plan for plan in others if not _capped_elsewhere(policy, rule, plan)]
            if others:
                yield _of_rule(
                    "currency-mix",
                    rule,
                    f"the limit is in {rule.currency} and does not bound customers of plan "
                    f"{', '.join(f'{plan} ({policy.cards[plan].currency})' for plan in others)}",
                    "select plans of its currency, and give the others a limit of theirs",
                )
        currencies = sorted({policy.cards[plan].currency for plan in plans if plan in policy.cards})
        if rule.invoices.minimum_nano and len(currencies) > 1:
            yield _of_rule(
                "currency-mix",
                rule,
                f"`minimum` is {format_amount(rule.invoices.minimum_nano)} of each of "
                f"{', '.join(currencies)}, which are worth different amounts",
                "write one rule for each currency",
            )


def _capped_elsewhere(policy: Policy, rule: Rule, plan: str) -> bool:
    currency = policy.cards[plan].currency
    return any(
        other.currency == currency
        and other.template is rule.template
        and (not other.customers.plans or plan in other.customers.plans)
        for other in policy.rules
    )


def _models(policy: Policy, card: RateCard, place: str) -> Iterator[Finding]:
    """Models that the policy knows and the plan has no price for; and the other way round."""
    unpriced = [name for name in policy.models if not card.prices_model(name, card.priced_meters())]
    if unpriced and card.lines:
        yield Finding(
            code="unpriced-model",
            severity=Severity.WARNING,
            place=place,
            message=(
                f"plan {card.plan!r} has no price for {_some(unpriced)}: requests for it are "
                "refused as unknown_model"
            ),
            mend="add a price line with these `models`, or one without `models` for all others",
        )
    named = {model for line in card.lines for model in line.models}
    unlisted = sorted(named - policy.models.keys())
    if unlisted and policy.models:
        yield Finding(
            code="unlisted-model",
            severity=Severity.NOTE,
            place=place,
            message=(
                f"plan {card.plan!r} prices {_some(unlisted)}, which `models` does not list, so "
                "nothing bounds its tokens where a request does not"
            ),
            mend="list it under `models` with max_output and max_input",
        )


def _unestimated(linted: Linted, card: RateCard) -> Iterator[Finding]:
    """Priced meters that some request is counted by without an upper bound."""
    policy = linted.policy
    for rule in _priced(policy, card):
        place = linted.places.meters.get(rule.meter.name, "")
        if rule.meter.value in TOKEN_VALUES and not _estimated(policy, rule):
            prepaid = _needs_credit(policy, card)
            yield Finding(
                code="meter-without-estimate",
                severity=Severity.ERROR if prepaid else Severity.WARNING,
                place=place,
                message=(
                    f"no `estimates` entry covers all that priced meter {rule.meter.name!r} "
                    f"counts: on plan {card.plan!r} such a request "
                    + (
                        "is refused, since nothing says how much to hold"
                        if prepaid
                        else "holds nothing, and its overshoot has no bound"
                    )
                ),
                mend="add an `estimates` entry with the same routes",
            )
        elif not rule.meter.bounded:
            yield Finding(
                code="meter-without-estimate",
                severity=Severity.WARNING,
                place=place,
                message=(
                    f"only the response tells what meter {rule.meter.name!r} counts: on plan "
                    f"{card.plan!r} nothing is held for it, and its overshoot has no bound"
                ),
                mend="give the meter a `max`, or price what a request tells beforehand",
            )


def _overshoots(linted: Linted, card: RateCard) -> Iterator[Finding]:
    """How far usage can go beyond the hold where the estimate is a default only."""
    policy = linted.policy
    for number, estimate in enumerate(policy.estimates):
        meters = [
            rule.meter
            for rule in _priced(policy, card)
            if rule.meter.value in TOKEN_VALUES
            and covers_matches(estimate.match, rule.match, policy.routes.patterns)
        ]
        if not meters:
            continue
        worst = _worst(policy, card, estimate, meters)
        if worst is None or (worst.most_nano is not None and not worst.beyond_nano):
            continue
        places = linted.places.estimates
        severity, who, mend = _HELD_BY_DEFAULT[_believed(estimate)]
        yield Finding(
            code="overshoot",
            severity=severity,
            place=places[number] if number < len(places) else "",
            message=(
                f"on plan {card.plan!r}, {who} is held by its default: {worst.words(card.currency)}"
            ),
            mend=mend,
        )


_HELD_BY_DEFAULT = {
    EstimateFrom.BODY: (
        Severity.NOTE,
        "a body that promises no bound",
        "raise `default`, or list every model under `models` with max_input and max_output",
    ),
    EstimateFrom.HEADER: (
        Severity.NOTE,
        "a request whose headers do not state all bounds",
        "have the gateway set the headers on every request, or raise `default`",
    ),
    EstimateFrom.NONE: (
        Severity.WARNING,
        "each request",
        "read bounds `from: body`, or raise `default`",
    ),
}
"""By what is believed of a request: how grave it is, which requests, and what mends it."""


def _believed(estimate: EstimateRule) -> EstimateFrom:
    """What can prove a bound; a header that callers can set proves none."""
    if estimate.source is EstimateFrom.HEADER and not estimate.trusted:
        return EstimateFrom.NONE
    return estimate.source


def _stated_bounds(linted: Linted) -> Iterator[Finding]:
    """Headers that state bounds: somebody has to keep callers from setting them."""
    places = linted.places.estimates
    for number, estimate in enumerate(linted.policy.estimates):
        if estimate.source is not EstimateFrom.HEADER:
            continue
        names = " and ".join(stated.header for stated in estimate.stated)
        yield Finding(
            code="stated-bound",
            severity=Severity.NOTE if estimate.trusted else Severity.WARNING,
            place=places[number] if number < len(places) else "",
            message=(
                f"header {names} bounds usage and is believed: a client that can set it decides "
                "how little is held"
                if estimate.trusted
                else f"a client can set header {names}, so the bound is not proven: it can only "
                "raise the default"
            ),
            mend=(
                "make sure that the gateway sets the header itself or drops the client's"
                if estimate.trusted
                else "have the gateway set the header or drop the client's, then write "
                "`trusted: true`"
            ),
        )


def _worst(
    policy: Policy, card: RateCard, estimate: EstimateRule, meters: list[Meter]
) -> Overshoot | None:
    """The largest overshoot of any model that the plan prices; None if it prices none."""
    quantities = estimate_quantities(meters, estimate.default_input, estimate.default_output, 0)
    found: list[Overshoot] = []
    general = card.prices_model("", [meter.name for meter in meters])
    named = {model for line in card.lines for model in line.models}
    for model in sorted({*policy.models, *named} | ({""} if general else set())):
        if not card.prices_model(model, [meter.name for meter in meters]):
            continue
        try:
            held = card.upper_bound(quantities, model)
        except InvalidInput:
            continue  # Such a request is refused.
        facts = RequestFacts(model=model)
        found.append(overshoot(policy.models, card, meters, facts, held))
    open_ended = [one for one in found if one.most_nano is None]
    if open_ended:
        return open_ended[0]
    return max(found, key=lambda one: one.beyond_nano or 0, default=None)


def _priced(policy: Policy, card: RateCard) -> list[MeterRule]:
    priced = card.priced_meters()
    return [rule for rule in policy.meters if rule.meter.name in priced]


def _estimated(policy: Policy, rule: MeterRule) -> bool:
    patterns = policy.routes.patterns
    return all(
        any(covers_matches(one.match, (match,), patterns) for one in policy.estimates)
        for match in rule.match or (Match(),)
    )


def _needs_credit(policy: Policy, card: RateCard) -> bool:
    """Whether a hold on this plan has to fit into the customer's credit."""
    if card.billing is not Billing.POSTPAID:
        return card.billing is Billing.PREPAID
    return any(
        rule.template is RuleTemplate.NO_CREDITS
        and (not rule.customers.plans or card.plan in rule.customers.plans)
        for rule in policy.rules
    )


def _some(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _of_rule(code: str, rule: Rule, message: str, mend: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.WARNING,
        place=rule.place,
        rule=rule.name,
        message=message,
        mend=mend,
    )
