"""
What a policy says of requests that look alike to it, whatever they may use: worked out once.

Two requests look alike if they have the same routes and method, if the policy cannot tell their
callers apart (`caller_classes`), and if the matches that ask for more (a header, an address, the
body) answer the same for both. Then the same rules, meters and estimate are for both; what they
cost, what conditions say and which windows count is not.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.domain.counters import CounterTake, Level
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.matching import RequestView, fits_any
from sidecar.domain.meters import Meter
from sidecar.domain.noting import depends_on_request
from sidecar.domain.policy import Policy
from sidecar.domain.remembering import Remembered
from sidecar.domain.rules import EstimateFrom, EstimateRule, Rule, RuleTemplate, Unidentified
from sidecar.domain.selecting import Tests
from sidecar.domain.store_numbers import InvoiceDemand

_PLANS_MAX: Final = 4_096
"""Of one policy: bodies bound their use in many ways, and most are never seen again."""
_OUTLINES_MAX: Final = 64
"""Of one class of callers, routes and method: each further match may double them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedRule:
    """
    A rule that is for this check.

    `enforces` is its mode for this caller. `take` is its counter's, `invoices` its demand.
    `blocks` says that it refuses whatever the store says. `values` are the caller's own.
    `failed` marks a condition that could not be evaluated: it counts as true where the rule
    denies, since unknown is never free.
    """

    rule: Rule
    enforces: bool
    values: Mapping[str, str] = field(default_factory=dict)
    take: CounterTake | None = None
    invoices: InvoiceDemand | None = None
    blocks: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """
    What is the same for requests that look alike.

    `rules` are those whose selection fits, in order, as if their conditions held and without
    their counters' takes; `asking` is the first that has to know more of the caller. `covered`
    says that a route without a price is somebody's business. A `steady` one is planned alike for
    requests that promise the same, at each instant of the same windows: no condition, stated
    bound or noted fact is the request's own.
    """

    rules: tuple[MatchedRule, ...]
    asking: Rule | None
    meters: tuple[Meter, ...]
    meter_names: frozenset[str]
    estimate: EstimateRule | None
    covered: bool
    steady: bool
    names_caller: bool
    """Whether a counter's name has more of the caller than the policy tells callers apart by."""
    number: int = field(default=0, compare=False)
    plans: Remembered[object] = field(default_factory=Remembered, repr=False, compare=False)
    """Of `planning`, which alone knows what is in it; each key begins with the number."""

    @property
    def reads_body(self) -> bool:
        """Whether the estimate wants the request's body."""
        return self.estimate is not None and self.estimate.source is EstimateFrom.BODY


@dataclass(frozen=True, slots=True)
class _Lookalikes:
    tests: tuple[Tests, ...]
    outlines: Remembered[Outline]


class Outlines:
    """The outlines of one policy, by what requests must have in common."""

    def __init__(self, policy: Policy) -> None:
        """Begin with none."""
        self.policy = policy
        self._plans: Remembered[object] = Remembered(_PLANS_MAX)
        self._numbers = itertools.count(1)
        self._known: Remembered[_Lookalikes] = Remembered()

    def of(self, view: RequestView, caller: CustomerFacts) -> Outline:
        """The outline of a request of a caller."""
        key = (view.routes, view.request.method, self.policy.classes.of(caller))
        alike = self._known.get(key)
        if alike is None:
            tests = self.policy.tests_for(view, caller)
            alike = self._known.put(key, _Lookalikes(tests, Remembered(_OUTLINES_MAX)))
        said = tuple([fits_any(tests, view) for tests in alike.tests])
        outline = alike.outlines.get(said)
        if outline is None:
            made = outline_of(self.policy, view, caller)
            made = replace(made, number=next(self._numbers), plans=self._plans)
            outline = alike.outlines.put(said, made)
        return outline


def outline_of(policy: Policy, view: RequestView, caller: CustomerFacts) -> Outline:
    """Work out what a policy says of a request and all that look like it."""
    selected = policy.rules_for(view, caller)
    rules = tuple(_matched(policy, rule, values, caller) for rule, values in selected)
    meters, estimate = policy.meters_for(view), policy.estimate_for(view)
    return Outline(
        rules=rules,
        asking=next((rule for rule, _ in selected if asks(rule, caller)), None),
        meters=meters,
        meter_names=frozenset(meter.name for meter in meters),
        estimate=estimate,
        # A shadow opens no closed route.
        covered=policy.allow_unmatched
        or any(one.rule.names_routes and one.enforces for one in rules),
        steady=all(rule.when is None for rule, _ in selected)
        and (estimate is None or estimate.source is not EstimateFrom.HEADER)
        and not depends_on_request(meters),
        names_caller=any(
            rule.counter is not None and rule.counter.level is not Level.CUSTOMER
            for rule, _ in selected
        ),
    )


def asks(rule: Rule, caller: CustomerFacts) -> bool:
    """Whether the rule has to know more of who calls than is known."""
    return (
        rule.unidentified is Unidentified.DENY
        and rule.enforces_for(caller)
        and rule.unknown_level(caller) is not None
    )


def _matched(
    policy: Policy, rule: Rule, values: Mapping[str, str], caller: CustomerFacts
) -> MatchedRule:
    enforces, invoices = rule.enforces_for(caller), None
    if rule.template is RuleTemplate.UNPAID_INVOICES:
        invoices = replace(rule.invoices, hard=enforces and not rule.judges_after)
    return MatchedRule(
        rule=rule,
        enforces=enforces,
        values=values,
        invoices=invoices,
        blocks=_blocks(policy, rule, caller),
    )


def _blocks(policy: Policy, rule: Rule, caller: CustomerFacts) -> bool:
    """Whether the rule refuses without any number; one that judges later does so then."""
    if rule.template is RuleTemplate.BLOCK:
        return True
    if rule.template is not RuleTemplate.REQUIRE_PLAN:
        return False
    if rule.plans and caller.plan not in rule.plans:
        return True
    return not rule.features <= policy.features.get(caller.plan, frozenset())
