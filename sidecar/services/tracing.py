"""What each rule made of a request: read off the same plan and judgement that decided."""

from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.domain.counters import CounterTake
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.expressions import ExpressionFailed, ValueRead
from sidecar.domain.judging import (
    Judgement,
    condition_holds,
    condition_variables,
    warns,
    would_deny,
)
from sidecar.domain.matching import RequestView
from sidecar.domain.money import format_amount
from sidecar.domain.planning import Ask, CheckPlan, MatchedRule
from sidecar.domain.policy import Policy
from sidecar.domain.redaction import Redaction, shown
from sidecar.domain.rules import Mode, Rule, RuleTemplate
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.services.explanation import (
    ConditionTrace,
    CounterTrace,
    RuleOutcome,
    RuleTrace,
    instant_or_none,
)
from sidecar.services.given_numbers import counted, room
from sidecar.services.mismatches import Mismatches

_CLIENTS_PARTS = frozenset({"headers", "query", "context", "body"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedNumbers:
    """
    The numbers that rules judge.

    On a placed hold `seen` are those after it, as the store tells them; with `after_hold`
    False they are those before it, as tests of rules give them.
    """

    seen: StoreNumbers
    after_hold: bool = True

    def before(self, take: CounterTake) -> int:
        """What the counter had counted before the request."""
        used = self.seen.used.get(take.name, 0)
        if self.seen.denied or not self.after_hold:
            return used
        return used - counted(take, self.seen)

    def available_before(self, plan: CheckPlan) -> int:
        """
        The credit before the request.

        Where an invoice took what credit lacked, nothing tells how much there was: then it is what
        is left, 0.
        """
        moved = not self.seen.denied and self.after_hold
        if plan.invoices_rest and not self.seen.available_nano:
            return 0
        return self.seen.available_nano + (plan.amount_nano if moved else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a request came to: None in what it did not come to."""

    view: RequestView | None = None
    plan: CheckPlan | None = None
    numbers: JudgedNumbers | None = None
    judgement: Judgement | None = None
    ended: str = ""
    """Why rules were not judged."""

    @property
    def placed(self) -> bool:
        """Whether the hold stands after the decision."""
        return (
            self.plan is not None
            and self.plan.ask is Ask.HOLD
            and self.numbers is not None
            and self.judgement is not None
            and self.judgement.denial is None
        )


@dataclass(frozen=True, slots=True)
class Tracer:
    """Traces one request's rules."""

    policy: Policy
    customer: CustomerFacts
    judged: Judged
    _matched: dict[str, MatchedRule] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.judged.plan is not None:
            self._matched.update({one.rule.name: one for one in self.judged.plan.rules})

    def rules(self) -> tuple[RuleTrace, ...]:
        """Every rule of the policy, in the order in which this caller meets them."""
        mismatches = Mismatches(self.policy)
        return tuple(self._trace(rule, mismatches) for rule in self._in_order())

    def _in_order(self) -> list[Rule]:
        """The policy's order, but those that match in the order of evaluation."""
        if self.judged.view is None:
            return list(self.policy.rules)
        selected = [rule for rule, _ in self.policy.rules_for(self.judged.view, self.customer)]
        names = {rule.name for rule in selected}
        turn = iter(selected)
        return [next(turn) if rule.name in names else rule for rule in self.policy.rules]

    def _trace(self, rule: Rule, mismatches: Mismatches) -> RuleTrace:
        trace = RuleTrace(
            rule=rule.name,
            place=rule.place,
            template=rule.template.value,
            mode=f"{rule.percent} %" if rule.mode is Mode.PERCENT else rule.mode.value,
            enforces=rule.enforces_for(self.customer),
            outcome=RuleOutcome.NOT_JUDGED,
            detail=self.judged.ended,
        )
        if rule.mode is Mode.DRAFT:
            return replace(trace, outcome=RuleOutcome.DRAFT, detail="")
        if self.judged.view is None:
            return trace
        found = mismatches.of(rule, self.judged.view, self.customer)
        if found:
            return replace(trace, outcome=RuleOutcome.NOT_MATCHED, mismatches=found, detail="")
        plan = self.judged.plan
        if plan is None:
            return trace
        matched = self._matched.get(rule.name)
        if matched is None:
            return replace(trace, **self._left_out(rule, plan))
        return replace(
            trace,
            outcome=self._outcome(matched, plan),
            condition=self._condition(matched.rule, plan, matched),
            counter=self._counter(matched),
            detail=self._detail(matched, plan),
        )

    def _left_out(self, rule: Rule, plan: CheckPlan) -> dict[str, Any]:
        """Selected, and yet no part of the plan: another currency, or a false condition."""
        if plan.card is not None and rule.currency and rule.currency != plan.card.currency:
            words = f"the limit is in {rule.currency}, the plan in {plan.card.currency}"
            return {"outcome": RuleOutcome.OTHER_CURRENCY, "detail": words}
        return {
            "outcome": RuleOutcome.CONDITION_FALSE,
            "condition": self._condition(rule, plan, None),
            "detail": "",
        }

    def _outcome(self, matched: MatchedRule, plan: CheckPlan) -> RuleOutcome:
        judgement, rule = self.judged.judgement, matched.rule
        seen = None if self.judged.numbers is None else self.judged.numbers.seen
        if judgement is None:
            return RuleOutcome.NOT_JUDGED
        if judgement.denial is not None and judgement.denial.rule == rule.name:
            return RuleOutcome.DECIDES
        if rule.name in judgement.shadow_denials:
            return RuleOutcome.WOULD_DENY
        holds = condition_holds(plan, matched, seen)
        if holds is False:
            return RuleOutcome.CONDITION_FALSE
        if rule.denies:
            denies = matched.enforces and would_deny(plan, matched, seen)
            return RuleOutcome.DENIES if denies else RuleOutcome.PASSES
        speaks = matched.enforces and bool(holds) and bool(rule.warn) and warns(matched, seen)
        return RuleOutcome.WARNS if speaks else RuleOutcome.PASSES

    def _condition(
        self, rule: Rule, plan: CheckPlan, matched: MatchedRule | None
    ) -> ConditionTrace | None:
        when, numbers = rule.when, self.judged.numbers
        if when is None:
            return None
        variables = dict(plan.variables)
        if numbers is not None:
            variables = condition_variables(plan, numbers.seen)
        redaction = Redaction(self.policy.identity)
        values = {one.source: _shown(one, redaction) for one in when.values_read(variables)}
        holds: bool | None = False
        failure = ""
        if matched is not None and not matched.failed:
            seen = None if numbers is None else numbers.seen
            holds = condition_holds(plan, matched, seen)
        elif matched is not None:
            holds = None
        if holds is None:
            try:
                when.evaluate(variables)
            except ExpressionFailed as error:
                failure = str(error)
        return ConditionTrace(text=when.text, values=values, holds=holds, failure=failure)

    def _counter(self, matched: MatchedRule) -> CounterTrace | None:
        take, numbers = matched.take, self.judged.numbers
        if take is None:
            return None
        before = 0 if numbers is None else numbers.before(take)
        added = 0
        if numbers is not None and self.judged.placed:
            added = counted(take, numbers.seen)
        return CounterTrace(
            name=take.name,
            measure=take.counter.measure,
            limit=room(take),
            before=before,
            wanted=take.quantity,
            after=before + added,
            over=numbers is not None and take.name in numbers.seen.over,
            hard=take.hard,
            ends_at=instant_or_none(take.end_ms),
        )

    def _detail(self, matched: MatchedRule, plan: CheckPlan) -> str:
        """What a rule without a counter and a condition looked at."""
        numbers, rule = self.judged.numbers, matched.rule
        match rule.template:
            case RuleTemplate.NO_CREDITS if numbers is not None:
                available = format_amount(numbers.available_before(plan))
                return f"{available} is available, the hold needs {format_amount(plan.amount_nano)}"
            case RuleTemplate.UNPAID_INVOICES if numbers is not None:
                seen = numbers.seen
                due = "" if seen.due_nano is None else f", {format_amount(seen.due_nano)} overdue"
                return f"standing {seen.standing.value}{due}"
            case RuleTemplate.REQUIRE_PLAN:
                wanted = ", ".join(sorted(rule.plans) + [f"feature {f}" for f in rule.features])
                return f"plan {self.customer.plan!r}, wanted {wanted}"
            case _:
                return ""


def _shown(read: ValueRead, redaction: Redaction) -> str:
    path, value = read.path, read.value
    if path[:2] == ("request", "url") and isinstance(value, str):
        return shown(value.partition("?")[0])  # A query may hold a key.
    if len(path) > 2 and path[0] == "request" and path[1] in _CLIENTS_PARTS:  # noqa: PLR2004  A part and a name.
        hidden = next((str(part) for part in path[2:] if redaction.hides(str(part))), "")
        return redaction.show(hidden or str(path[-1]), value)
    return "absent" if value is None else shown(value)
