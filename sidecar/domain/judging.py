"""From a check's plan and the store's numbers to what the rules say of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import DenyReason
from sidecar.domain.money import format_amount
from sidecar.domain.policy import PLAN_CREDIT_RULE, CheckPlan, QuotaTake
from sidecar.domain.rules import DenyAnswer, Mode, Rule, RuleTemplate
from sidecar.domain.standing import Standing
from sidecar.domain.templates import Template

_PERCENT = 100
_MS_PER_SECOND = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreNumbers:
    """
    What the place script saw: amounts in nano, counters in the quota's unit.

    On a placed hold the numbers are those after it, on a denial those that refused it.
    `failed_*` say which demands were not met; `quota_used` is by quota name.
    """

    instant_ms: int
    available_nano: int
    standing: Standing
    quota_used: Mapping[str, int]
    failed_credit: bool = False
    failed_standing: bool = False
    failed_quotas: frozenset[str] = frozenset()

    @property
    def failed(self) -> bool:
        """Whether the hold was refused."""
        return self.failed_credit or self.failed_standing or bool(self.failed_quotas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """The rule that refuses, and its words."""

    rule: str
    reason: DenyReason
    answer: DenyAnswer
    body: Mapping[str, object] | None
    retry_after_seconds: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the rules say: the first enforcing denial, all headers, shadow rules that would deny."""

    denial: Denial | None
    headers: Mapping[str, str]
    shadow_denials: tuple[str, ...] = ()


@dataclass(slots=True)
class _Judge:
    plan: CheckPlan
    numbers: StoreNumbers
    customer: CustomerFacts
    headers: dict[str, str] = field(default_factory=dict)
    shadow: list[str] = field(default_factory=list)
    denial: Denial | None = None

    def run(self) -> Judgement:
        self._limit_headers()
        for rule in self.plan.rules:
            self._judge_rule(rule)
        if self.numbers.failed and self.denial is None:
            self.denial = self._built_in_denial()
        return Judgement(
            denial=self.denial, headers=self.headers, shadow_denials=tuple(self.shadow)
        )

    def _judge_rule(self, rule: Rule) -> None:
        if not rule.denies:
            if rule.mode is Mode.ENFORCE and self._warns(rule):
                self._add_headers(rule, rule.warn)
            return
        if not self._would_deny(rule):
            return
        if rule.mode is Mode.SHADOW:
            self.shadow.append(rule.name)
            return
        self._add_headers(rule, rule.deny.headers)
        if self.denial is None:
            values = self._values(rule)
            self.denial = Denial(
                rule=rule.name,
                reason=rule.reason,
                answer=rule.deny,
                body=None if rule.deny.body is None else _fill(rule.deny.body, values),
                retry_after_seconds=self._retry_after(rule.quota),
            )

    def _would_deny(self, rule: Rule) -> bool:
        """Whether the rule's condition holds; in shadow the script let the hold through."""
        numbers = self.numbers
        match rule.template:
            case RuleTemplate.NO_CREDITS:
                return numbers.failed_credit or (
                    not self.plan.credit_required and numbers.available_nano < 0
                )
            case RuleTemplate.UNPAID_INVOICES:
                return numbers.standing is Standing.DELINQUENT
            case RuleTemplate.QUOTA:
                take = self._take(rule.quota)
                over = numbers.quota_used.get(rule.quota, 0) > take.quota.limit
                return rule.quota in numbers.failed_quotas or (not numbers.failed and over)

    def _warns(self, rule: Rule) -> bool:
        take = self._take(rule.quota)
        used = self.numbers.quota_used.get(rule.quota, 0)
        return used * _PERCENT >= (rule.at_percent or 0) * take.quota.limit

    def _built_in_denial(self) -> Denial:
        """The script refused, yet no rule of the policy owns the demand: a plan's own guard."""
        quota = next(iter(sorted(self.numbers.failed_quotas)), "")
        if self.numbers.failed_credit or not quota:
            rule, reason = PLAN_CREDIT_RULE, DenyReason.NO_AVAILABLE_CREDITS
        else:
            rule, reason = f"quota:{quota}", DenyReason.QUOTA_EXCEEDED
        return Denial(
            rule=rule,
            reason=reason,
            answer=DenyAnswer(),
            body=None,
            retry_after_seconds=self._retry_after(quota),
        )

    def _retry_after(self, quota: str) -> int | None:
        """Seconds to the window's end, only where the request could pass then."""
        if not quota or self._take(quota).quantity > self._take(quota).quota.limit:
            return None
        return self._reset_seconds(self._take(quota))

    def _reset_seconds(self, take: QuotaTake) -> int:
        return max(1, -(-(take.end_ms - self.numbers.instant_ms) // _MS_PER_SECOND))

    def _take(self, quota: str) -> QuotaTake:
        return next(take for take in self.plan.quotas if take.quota.name == quota)

    def _limit_headers(self) -> None:
        """The tightest quota's state, in the x-ratelimit style that clients already read."""
        if not self.plan.quotas:
            return
        used = self.numbers.quota_used
        take = min(
            self.plan.quotas, key=lambda t: max(0, t.quota.limit - used.get(t.quota.name, 0))
        )
        remaining = max(0, take.quota.limit - used.get(take.quota.name, 0))
        self.headers["x-ratelimit-limit"] = str(take.quota.limit)
        self.headers["x-ratelimit-remaining"] = str(remaining)
        self.headers["x-ratelimit-reset"] = str(self._reset_seconds(take))

    def _add_headers(self, rule: Rule, headers: Mapping[str, Template]) -> None:
        if not headers:
            return
        values = self._values(rule)
        for name, template in headers.items():
            self.headers.setdefault(name, template.render(values))

    def _values(self, rule: Rule) -> dict[str, str]:
        values = {
            "credits.available": format_amount(self.numbers.available_nano),
            "credits.currency": self.customer.currency,
            "customer.id": self.customer.customer_id,
            "customer.plan": self.customer.plan,
            "rule.name": rule.name,
            "standing": self.numbers.standing.value,
        }
        if rule.quota:
            take = self._take(rule.quota)
            used = self.numbers.quota_used.get(rule.quota, 0)
            limit = take.quota.limit
            values |= {
                "quota.name": rule.quota,
                "quota.used": str(used),
                "quota.limit": str(limit),
                "quota.remaining": str(max(0, limit - used)),
                "quota.used_percent": str(used * _PERCENT // limit if limit else _PERCENT),
                "quota.reset_seconds": str(self._reset_seconds(take)),
            }
        return values


def judge(plan: CheckPlan, numbers: StoreNumbers, customer: CustomerFacts) -> Judgement:
    """
    Let the rules speak, in order.

    The first enforcing denial decides status and body; headers of every rule that speaks
    accumulate, the earlier rule winning a shared name.
    """
    return _Judge(plan=plan, numbers=numbers, customer=customer).run()


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    """Fill the templates inside a body; checked when the policy was loaded."""
    if isinstance(value, str):
        return Template(value).render(values)
    if isinstance(value, Mapping):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_fill(item, values) for item in value]
    return value
