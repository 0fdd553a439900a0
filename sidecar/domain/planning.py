"""From a policy and a request to what the check asks of the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sidecar.domain.conditions import RequestConditions
from sidecar.domain.counters import COUNTERS_MAX, CounterTake
from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.decisions import DenyReason
from sidecar.domain.estimating import LargestUse, Refusal, largest_use, refuse_unbounded
from sidecar.domain.holds import Bound, QuotaLine
from sidecar.domain.matching import RequestView
from sidecar.domain.noting import note_request
from sidecar.domain.outlines import MatchedRule, Outline, asks, outline_of
from sidecar.domain.periods import EPOCH, from_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Billing, RateCard
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import (
    COUNTING,
    PLAIN,
    OnStoreFailure,
    Rule,
    RuleTemplate,
)
from sidecar.domain.store_numbers import InvoiceDemand

__all__ = [
    "PLAN_CREDIT_RULE",
    "UNMATCHED_RULE",
    "Ask",
    "CheckPlan",
    "MatchedRule",
    "Refusal",
    "plan_check",
    "plan_unidentified",
]

UNMATCHED_RULE = "unmatched"
PLAN_CREDIT_RULE = "prepaid-credit"
"""Built-in rule that guards a prepaid plan's credit where no rule of the policy does."""
_NEVER = datetime.max.replace(tzinfo=UTC)


class Ask(StrEnum):
    """What the store is asked for."""

    HOLD = "hold"
    PROBE = "probe"
    """Numbers only: a rule refuses anyway, but an earlier one may have the word."""
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan:
    """What one check asks of the store, and the rules that judge the answer, in order."""

    ask: Ask
    card: RateCard | None
    rules: tuple[MatchedRule, ...]
    model: str = ""
    quantities: Mapping[str, int] = field(default_factory=dict)
    amount_nano: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    """What the amount is for by meter, in nano."""
    bound: Bound = Bound.PROVEN
    credit_required: bool = False
    counters: tuple[CounterTake, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    noted: Mapping[str, str] = field(default_factory=dict)
    invoices: tuple[InvoiceDemand, ...] = field(init=False)
    """When unpaid invoices refuse, for the script."""
    quota_lines: tuple[QuotaLine, ...] = field(init=False)
    """The counters as a hold remembers them."""
    enforced: tuple[CounterTake, ...] = field(init=False)
    """The counters that clients may notice: those of shadow rules alone are counted only."""

    def __post_init__(self) -> None:
        invoices = tuple([one.invoices for one in self.rules if one.invoices is not None])
        names = {one.take.name for one in self.rules if one.enforces and one.take is not None}
        enforced = tuple([take for take in self.counters if take.name in names])
        object.__setattr__(self, "invoices", invoices)
        object.__setattr__(self, "quota_lines", tuple([take.line for take in self.counters]))
        object.__setattr__(self, "enforced", enforced)

    def available_after(self, available_nano: int) -> int:
        """What is left to set aside once the hold is placed; an invoice takes what credit lacks."""
        left = available_nano - self.amount_nano
        return max(0, left) if self.invoices_rest else left

    @property
    def invoices_rest(self) -> bool:
        """Whether the plan invoices what credit does not pay, so that no lack of it refuses."""
        return self.card is not None and self.card.billing.invoices_rest

    @property
    def on_store_failure(self) -> tuple[OnStoreFailure, int]:
        """
        What happens without the store, and how many seconds old numbers may be for `stale`.

        The strictest wish of the enforcing rules that need the store; deny where none has one,
        and where the plan's own guard of its credit is the only one.
        """
        wishes = [matched.rule for matched in self.rules if _asked_without_store(matched)]
        kinds = {rule.on_store_failure for rule in wishes}
        guarded = any(rule.template is RuleTemplate.NO_CREDITS for rule in wishes)
        if not kinds or OnStoreFailure.DENY in kinds or (self.credit_required and not guarded):
            return OnStoreFailure.DENY, 0
        if OnStoreFailure.STALE not in kinds:
            return OnStoreFailure.ALLOW, 0
        seconds = [r.stale_seconds for r in wishes if r.on_store_failure is OnStoreFailure.STALE]
        return OnStoreFailure.STALE, min(seconds)


def _asked_without_store(matched: MatchedRule) -> bool:
    """Whether the store's silence leaves open if the rule refuses."""
    rule = matched.rule
    numbers = rule.template not in PLAIN or (matched.blocks and rule.judges_after)
    return matched.enforces and rule.denies and numbers


def plan_check(
    policy: Policy,
    view: RequestView,
    customer: CustomerFacts,
    facts: RequestFacts,
    now: datetime,
    *,
    outline: Outline | None = None,
) -> CheckPlan | Refusal:
    """
    Say what a check wants of the store.

    Args:
        policy: The snapshot.
        view: The request.
        customer: Whose request it is.
        facts: What the body promises; empty where it was not read.
        now: The instant that windows are taken at; the store confirms it.
        outline: The request's, if it is known.
    """
    card = policy.card_for(customer.plan, customer.customer_id, now)
    if card is None:
        return Refusal(
            reason=DenyReason.NOT_ENTITLED,
            rule="plan",
            detail="the customer's plan is not part of the policy",
        )
    known = outline or outline_of(policy, view, customer)
    planner = _Planner(policy, known, view, customer, facts, now, card)
    return planner.plan() if outline is None or not known.steady else _plan_known(planner)


def _plan_known(planner: "_Planner") -> CheckPlan | Refusal:
    """The plan of a request that looks and promises alike, for as long as its windows last."""
    outline, now = planner.outline, planner.now
    plans, caller = outline.plans, planner.customer
    key = (
        outline.number,
        # A policy keeps its cards for as long as it lives, so none takes the place of another.
        id(planner.card),
        planner.facts,
        len(planner.view.request.body or b""),
        (caller.team_id, caller.user_id, caller.credential_id) if outline.names_caller else None,
    )
    known = plans.get(key)
    if isinstance(known, _KnownPlan) and known.begins_at <= now < known.ends_at:
        return known.plan
    plan = planner.plan()
    plans.put(key, _KnownPlan(plan, *_lasts(plan)))
    return plan


@dataclass(frozen=True, slots=True)
class _KnownPlan:
    plan: CheckPlan | Refusal
    begins_at: datetime
    ends_at: datetime


def _lasts(plan: CheckPlan | Refusal) -> tuple[datetime, datetime]:
    """From when until when all windows of a plan are those that it names."""
    takes = () if isinstance(plan, Refusal) else plan.counters
    # A rate and a limit of requests in flight have no window.
    windows = [take for take in takes if take.counter.window is not None]
    begins = [from_epoch_ms(take.start_ms) for take in windows]
    ends = [from_epoch_ms(take.end_ms) for take in windows]
    return max(begins, default=EPOCH), min(ends, default=_NEVER)


def plan_unidentified(
    policy: Policy,
    view: RequestView,
    now: datetime,
    caller: CustomerFacts = NOBODY,
    *,
    outline: Outline | None = None,
) -> CheckPlan | Refusal:
    """
    Say what the policy makes of a request that belongs to no customer it could tell.

    It passes only where nothing has a price and no rule asks who it is. `outline` is the request's,
    if it is known.
    """
    outline = outline or outline_of(policy, view, caller)
    conditions = RequestConditions(view, caller, RequestFacts(), now)
    rules: list[MatchedRule] = []
    asking: Rule | None = None
    blocked = False
    for one in outline.rules:
        matched = _if_met(one, conditions)
        if matched is None:
            continue
        rules.append(matched)
        if asks(matched.rule, caller):
            asking = asking or matched.rule
        # What refuses before any rule asks who it is has the word.
        blocked = blocked or (matched.blocks and matched.enforces and asking is None)
    plan = CheckPlan(ask=Ask.NOTHING, card=None, rules=tuple(rules), variables=conditions.known)
    if blocked:
        return plan
    if asking is not None or not outline.covered or policy.is_priced(outline.meters):
        return Refusal(
            reason=DenyReason.UNIDENTIFIED,
            rule="identity" if asking is None else asking.name,
            detail="no credential was presented",
        )
    return plan


def _if_met(matched: MatchedRule, conditions: RequestConditions) -> MatchedRule | None:
    """The rule as this check has it, its counter apart; None if its condition is false."""
    rule = matched.rule
    if rule.when is None:
        return matched
    if rule.judges_after:
        conditions.prepare()
        return matched
    met = conditions.holds(rule.when)
    if met:
        return matched
    failed = met is None
    return replace(matched, failed=True) if failed and rule.denies else None


@dataclass(frozen=True, slots=True)
class _Planner:
    policy: Policy
    outline: Outline
    view: RequestView
    customer: CustomerFacts
    facts: RequestFacts
    now: datetime
    card: RateCard

    def plan(self) -> CheckPlan | Refusal:
        outline = self.outline
        if outline.asking is not None:
            level = outline.asking.unknown_level(self.customer) or outline.asking.level
            return Refusal(
                reason=DenyReason.UNIDENTIFIED,
                rule=outline.asking.name,
                detail=f"the credential names no {level.value}",
            )
        meters = outline.meters
        if not outline.covered and self.card.priced_meters().isdisjoint(outline.meter_names):
            return Refusal(
                reason=DenyReason.BLOCKED,
                rule=UNMATCHED_RULE,
                detail="no rule and no price covers this route",
            )
        amount = largest_use(
            self.view,
            self.facts,
            self.card,
            meters,
            estimate=outline.estimate,
            models=self.policy.models,
        )
        conditions = RequestConditions(self.view, self.customer, amount.facts, self.now)
        conditions.amount_nano = amount.amount_nano
        rules = tuple(self._matched(amount, conditions))
        ask = _ask(rules)
        credit = _credit_required(self.card, rules)
        refusal = amount.refusal
        if refusal is None and credit:
            refusal = refuse_unbounded(outline.estimate, self.card, meters)
        if refusal is not None:
            if ask is Ask.HOLD:
                return refusal
            # What the request could cost is unknown, but a rule refuses it anyway.
            ask = Ask.NOTHING
        counters = _merge(rules)
        if len(counters) > COUNTERS_MAX:
            return Refusal(
                reason=DenyReason.BLOCKED,
                rule="counters",
                detail=f"more than {COUNTERS_MAX} limits apply to this request",
            )
        return CheckPlan(
            ask=ask,
            card=self.card,
            rules=rules,
            model=amount.facts.model,
            quantities=amount.quantities,
            amount_nano=amount.amount_nano,
            parts=amount.parts,
            bound=amount.bound,
            credit_required=credit,
            counters=counters,
            variables=conditions.known,
            noted=note_request(meters, self.view, self.customer),
        )

    def _matched(self, amount: LargestUse, conditions: RequestConditions) -> list[MatchedRule]:
        found = []
        for one in self.outline.rules:
            rule = one.rule
            if rule.currency and rule.currency != self.card.currency:
                continue  # No exchange: a cap speaks of its own currency only.
            matched = _if_met(one, conditions)
            if matched is None:
                continue
            if rule.template in COUNTING:
                matched = replace(matched, take=self._take(rule, amount, enforces=matched.enforces))
            found.append(matched)
        return found

    def _take(self, rule: Rule, amount: LargestUse, *, enforces: bool) -> CounterTake | None:
        counter = rule.counter
        if counter is None or not counter.level.name_in(self.customer):
            return None
        match counter.measure:
            case "@money":
                quantity = amount.amount_nano
            case "@requests" | "@in_flight":
                quantity = 1
            case "@tokens":
                quantity = amount.tokens
            case meter:
                quantity = amount.quantities.get(meter, 0)
        hard = enforces and (rule.hard or rule.denies) and not rule.judges_after
        return counter.take(self.customer, quantity, self.now, hard=hard)


def _ask(rules: Sequence[MatchedRule]) -> Ask:
    """
    A hold, unless a rule refuses whatever the store says.

    Then only the numbers are asked for, and not even they where nothing said would change.
    """
    for position, matched in enumerate(rules):
        if not (matched.blocks and matched.enforces and not matched.rule.judges_after):
            continue
        others = (*rules[:position], *(rule for rule in rules[position:] if rule.rule.warn))
        needed = [one for one in (*others, matched) if one.enforces and one.rule.needs_store]
        return Ask.PROBE if needed else Ask.NOTHING
    return Ask.HOLD


def _merge(rules: Sequence[MatchedRule]) -> tuple[CounterTake, ...]:
    """Each counter once, hard if one of its rules makes it so."""
    takes: dict[str, CounterTake] = {}
    for take in (matched.take for matched in rules):
        if take is None:
            continue
        before = takes.get(take.name)
        if before is None or (take.hard and not before.hard):
            takes[take.name] = take
    return tuple(takes.values())


def _credit_required(card: RateCard, rules: Sequence[MatchedRule]) -> bool:
    """
    Whether the hold must fit into the available credit.

    Rules decide where one speaks of credits (a shadow rule alone switches it off, which is
    what shadow means); where none does, a plan that burns credit guards it by itself. What a plan
    owes beyond credit needs none.
    """
    if card.billing.invoices_rest:
        return False
    speaking = [rule for rule in rules if rule.rule.template is RuleTemplate.NO_CREDITS]
    if speaking:
        return any(rule.enforces and not rule.rule.judges_after for rule in speaking)
    return card.billing is Billing.PREPAID
