"""From a check's plan and the store's numbers to what the rules say of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.counters import MONEY, CounterKind, CounterTake
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import DenyReason
from sidecar.domain.expressions import ExpressionFailed
from sidecar.domain.planning import PLAN_CREDIT_RULE, CheckPlan, MatchedRule
from sidecar.domain.rules import COUNTING, DenyAnswer, RuleTemplate
from sidecar.domain.store_numbers import StoreNumbers
from sidecar.domain.template_values import (
    TemplateValues,
    limit_of,
    remaining,
    reset_seconds,
    seconds_until,
)
from sidecar.domain.templates import Template
from sidecar.domain.thawing import quickly_made
from sidecar.domain.variables import store_variables, used_percent

OVER_LIMIT_HEADER = "x-limit-exceeded"
"""Names the soft limits that an allowed request is beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """The rule that refuses, and its words."""

    rule: str
    reason: DenyReason
    answer: DenyAnswer
    body: object | None
    retry_after_seconds: int | None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """
    What the rules say: the first enforcing denial, all headers, and what else is to be told.

    `shadow_denials` are rules that would deny and do not enforce. `over_limits` are soft
    limits that the request is beyond. `failed_conditions` are rules whose condition could
    not be evaluated.
    """

    denial: Denial | None
    headers: Mapping[str, str]
    shadow_denials: tuple[str, ...] = ()
    over_limits: tuple[str, ...] = ()
    failed_conditions: tuple[str, ...] = ()


def judge(plan: CheckPlan, numbers: StoreNumbers | None, customer: CustomerFacts) -> Judgement:
    """
    Let the rules speak, in order.

    The first enforcing denial decides status and body; headers of every rule that speaks
    accumulate, the earlier rule winning a shared name.

    Args:
        plan: As the check was planned.
        numbers: What the store answered; None where it was not asked.
        customer: Who calls.
    """
    return _Judge(plan=plan, numbers=numbers, customer=customer).run()


def would_deny(plan: CheckPlan, matched: MatchedRule, numbers: StoreNumbers | None) -> bool:
    """Whether what the rule watches is beyond what it allows, its condition apart."""
    if matched.blocks:
        return True
    if numbers is None:
        return False
    match matched.rule.template:
        case RuleTemplate.NO_CREDITS if plan.invoices_rest:
            return False  # An invoice takes what credit leaves.
        case RuleTemplate.NO_CREDITS:
            # Where the script was not to refuse, the hold took credit that is not there.
            short = plan.amount_nano if numbers.denied else 0
            return numbers.failed_credit or numbers.available_nano < short
        case RuleTemplate.UNPAID_INVOICES:
            return matched.invoices is not None and matched.invoices.fails(numbers)
        case template if template in COUNTING:
            return matched.take is not None and matched.take.name in numbers.over
        case _:
            return False


def warns(matched: MatchedRule, numbers: StoreNumbers | None) -> bool:
    """Whether a rule that only adds headers does so."""
    if matched.rule.at_percent is None:
        return True
    if matched.take is None or numbers is None:
        return False
    used = numbers.used.get(matched.take.name, 0)
    return used_percent(used, matched.take.counter.limit) >= matched.rule.at_percent


def denies_after(plan: CheckPlan, numbers: StoreNumbers) -> bool:
    """Whether a condition over these numbers refuses what the script lets through."""
    return any(
        matched.enforces
        and matched.rule.denies
        and matched.rule.judges_after
        and would_deny(plan, matched, numbers)
        and condition_holds(plan, matched, numbers) is not False
        for matched in plan.rules
    )


def condition_holds(
    plan: CheckPlan, matched: MatchedRule, numbers: StoreNumbers | None
) -> bool | None:
    """Whether a condition over the store's numbers is true; None if it cannot be evaluated."""
    when = matched.rule.when
    if when is None or not matched.rule.judges_after:
        return True
    if numbers is None:
        return False
    try:
        return bool(when.evaluate(condition_variables(plan, numbers)))
    except ExpressionFailed:
        return None


def condition_variables(plan: CheckPlan, numbers: StoreNumbers) -> dict[str, Any]:
    """What a condition over the store's numbers reads."""
    limits = {
        one.rule.quota: (one.take.name, one.take.counter.limit)
        for one in plan.rules
        if one.rule.quota and one.take is not None
    }
    return {**plan.variables, **store_variables(numbers, limits)}


@dataclass(slots=True)
class _Judge:
    plan: CheckPlan
    numbers: StoreNumbers | None
    customer: CustomerFacts
    headers: dict[str, str] = field(default_factory=dict)
    shadow: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    denial: Denial | None = None

    def run(self) -> Judgement:
        self._limit_headers()
        for matched in self.plan.rules:
            self._judge_rule(matched)
        if self.numbers is not None and self.numbers.denied and self.denial is None:
            self.denial = self._built_in_denial(self.numbers)
        over = tuple(sorted(take.name for take in self._over() if not take.hard))
        if over and self.denial is None:
            self.headers.setdefault(
                OVER_LIMIT_HEADER, ", ".join(sorted({t.counter.name for t in self._over()}))
            )
        return Judgement(
            denial=self.denial,
            headers=self.headers,
            shadow_denials=tuple(self.shadow),
            over_limits=over,
            failed_conditions=tuple(self.failed),
        )

    def _judge_rule(self, matched: MatchedRule) -> None:
        rule = matched.rule
        holds = condition_holds(self.plan, matched, self.numbers)
        if matched.failed or holds is None:
            self.failed.append(rule.name)
        if holds is False:
            return
        if not rule.denies:
            if matched.enforces and holds and warns(matched, self.numbers):
                self._add_headers(matched, rule.warn)
            return
        if not would_deny(self.plan, matched, self.numbers):
            return
        if not matched.enforces:
            self.shadow.append(rule.name)
            return
        self._add_headers(matched, rule.deny.headers)
        if self.denial is None:
            body = rule.deny.body
            self.denial = Denial(
                rule=rule.name,
                reason=rule.reason,
                answer=rule.deny,
                body=None if body is None else _fill(body, self._values(matched)),
                retry_after_seconds=self._retry_after() if rule.template in COUNTING else None,
            )

    def _over(self) -> Iterator[CounterTake]:
        if self.numbers is not None and self.numbers.over:
            over = self.numbers.over
            yield from (take for take in self.plan.enforced if take.name in over)

    def _built_in_denial(self, numbers: StoreNumbers) -> Denial:
        """The script refused, yet no rule of the policy owns the demand: a plan's own guard."""
        name = next((take.counter.name for take in self._over() if take.hard), "")
        if numbers.failed_credit or not name:
            rule, reason = PLAN_CREDIT_RULE, DenyReason.NO_AVAILABLE_CREDITS
        else:
            rule, reason = f"quota:{name}", DenyReason.QUOTA_EXCEEDED
        return Denial(
            rule=rule,
            reason=reason,
            answer=DenyAnswer(),
            body=None,
            retry_after_seconds=self._retry_after() if name else None,
        )

    def _retry_after(self) -> int | None:
        """
        Seconds until the request would pass; None where waiting alone does not help.

        Every limit that refuses has to have room by then. How long requests in flight last
        is not known.
        """
        numbers = self.numbers
        if numbers is None or numbers.failed_credit or _blocked(self.plan, numbers):
            return None
        instants = []
        for take in self._over():
            if not take.hard:
                continue
            instant = _room_at(take, numbers)
            if instant is None:
                return None
            instants.append(instant)
        return seconds_until(max(instants), numbers) if instants else None

    def _limit_headers(self) -> None:
        """The tightest limit's state, in the x-ratelimit style that clients already read."""
        numbers, enforced = self.numbers, self.plan.enforced
        if numbers is None or not enforced:
            return
        shown = [
            take
            for take in enforced
            if take.counter.measure != MONEY and take.counter.kind is not CounterKind.IN_FLIGHT
        ]
        if not shown:
            return
        take = min(shown, key=lambda take: remaining(take, numbers))
        self.headers["x-ratelimit-limit"] = str(limit_of(take))
        self.headers["x-ratelimit-remaining"] = str(remaining(take, numbers))
        self.headers["x-ratelimit-reset"] = str(reset_seconds(take, numbers))

    def _add_headers(self, matched: MatchedRule, headers: Mapping[str, Template]) -> None:
        if not headers:
            return
        values = self._values(matched)
        for name, template in headers.items():
            self.headers.setdefault(name, template.render(values))

    def _values(self, matched: MatchedRule) -> TemplateValues:
        return TemplateValues(self.plan, matched, self.customer, self.numbers)


def _blocked(plan: CheckPlan, numbers: StoreNumbers) -> bool:
    """Whether something refuses that does not pass with time."""
    return any(
        matched.enforces
        and matched.rule.denies
        and matched.rule.template not in COUNTING
        and would_deny(plan, matched, numbers)
        and condition_holds(plan, matched, numbers) is not False
        for matched in plan.rules
    )


def _room_at(take: CounterTake, numbers: StoreNumbers) -> int | None:
    """Epoch milliseconds from which on the take would fit; None where that is not known."""
    if take.counter.kind is CounterKind.WINDOW:
        return take.end_ms if take.quantity <= take.counter.limit else None
    return numbers.retry_at_ms.get(take.name)


def _fill(value: Any, values: TemplateValues) -> Any:
    """Fill the templates inside a body; checked when the policy was loaded."""
    if isinstance(value, str):
        return Template(value).render(values)
    if isinstance(value, Mapping):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, values) for item in value]
    return value
