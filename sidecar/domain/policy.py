"""
The policy: one immutable snapshot serves a whole check.

`plan` says what a check wants of the store, before the store is asked; `decide` turns the
store's numbers into a decision. Neither does I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound, QuotaLine
from sidecar.domain.identity import ApiKeySource
from sidecar.domain.matching import Match, RouteSet
from sidecar.domain.pricing import Billing, Meter, RateCard
from sidecar.domain.quantities import TOKEN_VALUES, estimate_quantities
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.rules import (
    EstimateFrom,
    EstimateRule,
    MeterRule,
    Mode,
    ModelLimits,
    OnStoreFailure,
    Quota,
    Rule,
    RuleTemplate,
)

UNMATCHED_RULE = "unmatched"
PLAN_CREDIT_RULE = "prepaid-credit"
"""Built-in rule that guards a prepaid plan's credit where no rule of the policy does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaTake:
    """What a check takes of one quota window; `hard` refuses beyond the limit."""

    quota: Quota
    quantity: int
    start_ms: int
    end_ms: int
    hard: bool

    @property
    def line(self) -> QuotaLine:
        """The counter as the store keeps it; the window's start is part of its name."""
        return QuotaLine(
            field=f"q:{self.quota.name}:{self.start_ms}",
            meter=self.quota.meter,
            quantity=self.quantity,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A denial that needs no store: its reason, the rule, and words that are safe to show."""

    reason: DenyReason
    rule: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan:
    """What one check asks of the store, and the rules that judge the answer, in order."""

    card: RateCard
    model: str
    quantities: Mapping[str, int]
    amount_nano: int
    bound: Bound
    credit_required: bool
    refuse_delinquent: bool
    quotas: tuple[QuotaTake, ...]
    rules: tuple[Rule, ...]

    @property
    def on_store_failure(self) -> OnStoreFailure:
        """Allow only if each enforcing rule that can deny says so, and one does."""
        wishes = {
            rule.on_store_failure
            for rule in self.rules
            if rule.denies and rule.mode is Mode.ENFORCE
        }
        return OnStoreFailure.ALLOW if wishes == {OnStoreFailure.ALLOW} else OnStoreFailure.DENY


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A whole policy, compiled. `version` is a hash of the files it came from."""

    version: str
    routes: RouteSet
    identity: tuple[ApiKeySource, ...]
    cards: Mapping[str, RateCard]
    meters: tuple[MeterRule, ...] = ()
    rules: tuple[Rule, ...] = ()
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    estimates: tuple[EstimateRule, ...] = ()
    models: Mapping[str, ModelLimits] = field(default_factory=dict)
    free: tuple[Match, ...] = ()
    allow_unmatched: bool = False

    def is_free(self, request: AccessRequest, routes: frozenset[int]) -> bool:
        """Whether the request is on a route that costs nothing and asks for nobody."""
        return any(match.accepts(request, routes) for match in self.free)

    def passes_unmatched(self, request: AccessRequest, routes: frozenset[int]) -> bool:
        """Whether nothing claims the request and the policy lets such requests pass."""
        return self.allow_unmatched and not self._claimed(request, routes)

    def reads_body(self, request: AccessRequest, routes: frozenset[int]) -> bool:
        """Whether the estimate wants the request's body."""
        rule = self._estimate_rule(request, routes)
        return rule is not None and rule.source is EstimateFrom.BODY

    def plan(
        self,
        request: AccessRequest,
        routes: frozenset[int],
        customer: CustomerFacts,
        facts: RequestFacts,
        now: datetime,
    ) -> CheckPlan | Refusal:
        """
        Say what the check wants of the store.

        Args:
            request: The access request.
            routes: Numbers of the patterns that its normalised path matched.
            customer: Whose request it is.
            facts: What the body promises; empty where it was not read.
            now: The instant that windows are taken at; the store confirms it.
        """
        card = self.cards.get(customer.plan)
        if card is None:
            return Refusal(
                reason=DenyReason.NOT_ENTITLED,
                rule="plan",
                detail="the customer's plan is not part of the policy",
            )
        matched = self._matched_rules(request, routes, customer)
        meters = tuple(m.meter for m in self.meters if m.match.accepts(request, routes))
        priced = card.priced_meters() & {meter.name for meter in meters}
        if (
            not priced
            and not self.allow_unmatched
            and not any(r.match.names_routes for r in matched)
        ):
            return Refusal(
                reason=DenyReason.BLOCKED,
                rule=UNMATCHED_RULE,
                detail="no rule and no price covers this route",
            )
        if not card.prices_model(facts.model, priced):
            return Refusal(
                reason=DenyReason.UNKNOWN_MODEL,
                rule="prices",
                detail="the plan has no price for this model",
            )
        credit_required = _credit_required(card, matched)
        if credit_required and not self._bounded(request, routes, meters, priced):
            return Refusal(
                reason=DenyReason.BLOCKED,
                rule="estimates",
                detail="no estimate says how much this route can use",
            )
        tokens, bound = self._token_bounds(request, routes, facts)
        quantities = estimate_quantities(meters, tokens[0], tokens[1], len(request.body or b""))
        try:
            amount = card.upper_bound(quantities, facts.model)
        except InvalidInput as error:
            return Refusal(reason=DenyReason.INVALID_REQUEST, rule="estimate", detail=str(error))
        return CheckPlan(
            card=card,
            model=facts.model,
            quantities=quantities,
            amount_nano=amount,
            bound=bound,
            credit_required=credit_required,
            refuse_delinquent=_refuse_delinquent(matched),
            quotas=self._quota_takes(matched, quantities, now),
            rules=matched,
        )

    def _matched_rules(
        self, request: AccessRequest, routes: frozenset[int], customer: CustomerFacts
    ) -> tuple[Rule, ...]:
        return tuple(
            rule
            for rule in self.rules
            if rule.mode is not Mode.DRAFT
            and rule.match.accepts(request, routes)
            and rule.customers.accepts(customer)
        )

    def _claimed(self, request: AccessRequest, routes: frozenset[int]) -> bool:
        return any(
            rule.match.names_routes and rule.match.accepts(request, routes)
            for rule in self.rules
            if rule.mode is not Mode.DRAFT
        ) or any(meter.match.accepts(request, routes) for meter in self.meters)

    def _estimate_rule(self, request: AccessRequest, routes: frozenset[int]) -> EstimateRule | None:
        for rule in self.estimates:
            if rule.match.accepts(request, routes):
                return rule
        return None

    def _bounded(
        self,
        request: AccessRequest,
        routes: frozenset[int],
        meters: tuple[Meter, ...],
        priced: frozenset[str],
    ) -> bool:
        """Whether what is priced by tokens has an estimate; without one a hold would be 0."""
        by_tokens = any(m.name in priced and m.value in TOKEN_VALUES for m in meters)
        return not by_tokens or self._estimate_rule(request, routes) is not None

    def _token_bounds(
        self, request: AccessRequest, routes: frozenset[int], facts: RequestFacts
    ) -> tuple[tuple[int, int], Bound]:
        """Input and output tokens that the hold covers, and whether no response can exceed them."""
        rule = self._estimate_rule(request, routes)
        default_input = rule.default_input if rule else 0
        default_output = rule.default_output if rule else 0
        if facts.unread:
            # Whoever hides what a request says must not hold less for it.
            largest = [limits.max_input or 0 for limits in self.models.values()]
            longest = [limits.max_output or 0 for limits in self.models.values()]
            return (
                max(default_input, *largest, 0),
                max(default_output, *longest, 0),
            ), Bound.ESTIMATED
        limits = self.models.get(facts.model, ModelLimits())
        input_bound = _least(facts.input_bound, limits.max_input)
        model_output = None if limits.max_output is None else limits.max_output * facts.choices
        output_bound = _least(facts.output_bound, model_output)
        proven = input_bound is not None and output_bound is not None
        return (
            default_input if input_bound is None else input_bound,
            default_output if output_bound is None else output_bound,
        ), (Bound.PROVEN if proven else Bound.ESTIMATED)

    def _quota_takes(
        self, matched: tuple[Rule, ...], quantities: Mapping[str, int], now: datetime
    ) -> tuple[QuotaTake, ...]:
        takes: dict[str, QuotaTake] = {}
        for rule in matched:
            if rule.template is not RuleTemplate.QUOTA:
                continue
            quota = self.quotas[rule.quota]
            enforcing = rule.mode is Mode.ENFORCE
            hard = enforcing and (quota.hard or rule.denies)
            before = takes.get(quota.name)
            period = quota.window.at(now)
            takes[quota.name] = QuotaTake(
                quota=quota,
                quantity=quantities.get(quota.meter, 0),
                start_ms=period.start_ms,
                end_ms=period.end_ms,
                hard=hard or (before is not None and before.hard),
            )
        return tuple(takes.values())


def _credit_required(card: RateCard, matched: tuple[Rule, ...]) -> bool:
    """
    Whether the hold must fit into the available credit.

    Rules decide where one speaks of credits (a shadow rule alone switches it off, which is
    what shadow means); where none does, a plan that burns credit guards it by itself.
    """
    speaking = [rule for rule in matched if rule.template is RuleTemplate.NO_CREDITS]
    if speaking:
        return any(rule.mode is Mode.ENFORCE for rule in speaking)
    return card.billing is Billing.PREPAID


def _refuse_delinquent(matched: tuple[Rule, ...]) -> bool:
    return any(
        rule.template is RuleTemplate.UNPAID_INVOICES and rule.mode is Mode.ENFORCE
        for rule in matched
    )


def _least(*bounds: int | None) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None
