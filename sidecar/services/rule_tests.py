"""
The tests that stand beside a rule: given numbers, a request, what should come of it.

A test needs no store. It plays the place script on the given numbers: a hard quota refuses
what does not fit on top of `used`, credit refuses what is dearer than `available`. Headers
are worded with the numbers as given, without the request's own hold, so that a change of an
estimate does not change what a test expects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.judging import Judgement, judge
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.planning import Ask, CheckPlan, Refusal, plan_check
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts, normalise_path
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import StoreNumbers

TEST_INSTANT = datetime(2026, 1, 15, 12, tzinfo=UTC)
"""When every test happens: inside each calendar window, so that none is at its edge."""


_NO_FACTS = RequestFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What should come of a test; None is not compared. A header of None must be absent."""

    allow: bool
    code: str | None = None
    rule: str | None = None
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTest:
    """One test; `rule` is the rule it stands at and `place` its file and line."""

    rule: str
    place: str
    customer: CustomerFacts
    expect: Expectation
    method: str
    path: str
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: RequestFacts = _NO_FACTS
    available_nano: int = AMOUNT_NANO_MAX
    standing: Standing = Standing.GOOD
    quota_used: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTestResult:
    """A test and what differed from its expectation; nothing if it passed."""

    test: RuleTest
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.differences


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    allow: bool
    code: str | None = None
    rule: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def run_rule_tests(
    policy: Policy,
    tests: Sequence[RuleTest],
    *,
    statuses: Mapping[DenyReason, int] | None = None,
) -> list[RuleTestResult]:
    """
    Run tests against a policy, in order.

    Args:
        policy: The policy that they came with.
        tests: What to run.
        statuses: The edges' HTTP status per deny reason, for denials whose rule sets none.

    Returns:
        One result per test.
    """
    return [
        RuleTestResult(
            test=test, differences=_differences(test.expect, _play(policy, test, statuses or {}))
        )
        for test in tests
    ]


def _play(policy: Policy, test: RuleTest, statuses: Mapping[DenyReason, int]) -> _Outcome:
    request = AccessRequest(
        edge="test",
        gateway_id="test",
        hold_id="0" * 40,
        method=test.method,
        path=test.path,
        headers=test.headers,
        received_at=TEST_INSTANT,
        deadline=TEST_INSTANT,
    )
    try:
        view = policy.view(request, normalise_path(test.path))
    except InvalidInput:
        return _refused(DenyReason.INVALID_REQUEST, "path", statuses)
    if policy.is_free(view) or policy.passes_unmatched(view):
        return _Outcome(allow=True)
    facts = test.facts if policy.reads_body(view) else RequestFacts()
    plan = plan_check(policy, view, test.customer, facts, TEST_INSTANT)
    if isinstance(plan, Refusal):
        return _refused(plan.reason, plan.rule, statuses)
    numbers = None if plan.ask is Ask.NOTHING else _numbers(plan, test)
    return _judged(judge(plan, numbers, test.customer), statuses)


def _numbers(plan: CheckPlan, test: RuleTest) -> StoreNumbers:
    """What the place script would answer."""
    used = {take.name: test.quota_used.get(take.counter.name, 0) for take in plan.counters}
    over = {
        take.name for take in plan.counters if used[take.name] + take.quantity > take.counter.limit
    }
    numbers = StoreNumbers(
        instant_ms=to_epoch_ms(TEST_INSTANT),
        available_nano=test.available_nano,
        standing=test.standing,
        used=used,
        over=frozenset(over),
        failed_credit=plan.credit_required and plan.amount_nano > test.available_nano,
    )
    denied = (
        plan.ask is Ask.PROBE
        or numbers.failed_credit
        or any(take.hard and take.name in over for take in plan.counters)
        or any(demand.hard and demand.fails(numbers) for demand in plan.invoices)
    )
    return replace(numbers, denied=denied)


def _refused(reason: DenyReason, rule: str, statuses: Mapping[DenyReason, int]) -> _Outcome:
    return _Outcome(allow=False, code=reason.value, rule=rule, status=statuses.get(reason))


def _judged(judgement: Judgement, statuses: Mapping[DenyReason, int]) -> _Outcome:
    denial = judgement.denial
    if denial is None:
        return _Outcome(allow=True, headers=judgement.headers)
    return _Outcome(
        allow=False,
        code=denial.reason.value,
        rule=denial.rule,
        status=denial.answer.status or statuses.get(denial.reason),
        headers=judgement.headers,
    )


def _differences(expect: Expectation, actual: _Outcome) -> tuple[str, ...]:
    found: list[str] = []
    if expect.allow != actual.allow:
        why = f" by {actual.rule} ({actual.code})" if actual.rule else ""
        found.append(f"expected {_word(allow=expect.allow)}, got {_word(allow=actual.allow)}{why}")
    for name in ("code", "rule", "status"):
        wanted, got = getattr(expect, name), getattr(actual, name)
        if wanted is not None and wanted != got:
            found.append(f"expected {name} {wanted}, got {got}")
    for name, value in expect.headers.items():
        got = actual.headers.get(name)
        if value != got:
            found.append(f"expected header {name} {_quoted(value)}, got {_quoted(got)}")
    return tuple(found)


def _word(*, allow: bool) -> str:
    return "allow" if allow else "deny"


def _quoted(value: str | None) -> str:
    return "absent" if value is None else repr(value)
