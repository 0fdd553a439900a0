"""
Runs the tests that stand beside rules.

A test needs no store. It plays the place script on the given numbers: a hard limit refuses
what does not fit on top of `used`, credit refuses what is dearer than `available`. Headers
are worded with the numbers as given, without the request's own hold, so that a change of an
estimate does not change what a test expects.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.domain.decisions import DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.judging import Judgement, judge
from sidecar.domain.planning import Ask, CheckPlan, Refusal, plan_check, plan_unidentified
from sidecar.domain.policy import Policy
from sidecar.domain.requests import RequestFacts, normalise_path
from sidecar.services.given_numbers import play_place
from sidecar.services.rule_test_cases import (
    UNSAID,
    Expectation,
    RuleTest,
    RuleTestResult,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    allow: bool
    code: str | None = None
    rule: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = UNSAID
    shadow: frozenset[str] = frozenset()
    over: frozenset[str] = frozenset()
    retry_after: int | None = None


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
    try:
        view = policy.view(test.access_request(), normalise_path(test.request.path))
    except InvalidInput:
        return _refused(DenyReason.INVALID_REQUEST, "path", statuses)
    if policy.passes_unasked(view):
        return _Outcome(allow=True)
    if test.customer.customer_id:
        facts = test.facts if policy.reads_body(view) else RequestFacts()
        plan = plan_check(policy, view, test.customer, facts, test.at)
    else:
        plan = plan_unidentified(policy, view, test.at, test.customer)
    if isinstance(plan, Refusal):
        return _refused(plan.reason, plan.rule, statuses)
    numbers = None if plan.ask is Ask.NOTHING else play_place(plan, test)
    return _judged(plan, judge(plan, numbers, test.customer), statuses)


def _refused(reason: DenyReason, rule: str, statuses: Mapping[DenyReason, int]) -> _Outcome:
    return _Outcome(allow=False, code=reason.value, rule=rule, status=statuses.get(reason))


def _judged(plan: CheckPlan, judgement: Judgement, statuses: Mapping[DenyReason, int]) -> _Outcome:
    denial, shadow = judgement.denial, frozenset(judgement.shadow_denials)
    # Named as in the policy, whosever count it is.
    over = frozenset(
        take.counter.name for take in plan.counters if take.name in judgement.over_limits
    )
    if denial is None:
        return _Outcome(allow=True, headers=judgement.headers, shadow=shadow, over=over)
    answer = denial.answer
    return _Outcome(
        allow=False,
        code=denial.reason.value,
        rule=denial.rule,
        status=answer.status or statuses.get(denial.reason),
        headers=judgement.headers,
        body=denial.body if answer.empty or denial.body is not None else UNSAID,
        shadow=shadow,
        over=over,
        retry_after=denial.retry_after_seconds,
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
    if expect.body is not UNSAID and expect.body != actual.body:
        found.append(f"expected body {_shown(expect.body)}, got {_shown(actual.body)}")
    for name in ("shadow", "over"):
        wanted, got = getattr(expect, name), getattr(actual, name)
        if wanted is not None and wanted != got:
            found.append(f"expected {name} {_names(wanted)}, got {_names(got)}")
    if expect.retry_after is not UNSAID and expect.retry_after != actual.retry_after:
        found.append(f"expected retry_after {expect.retry_after}, got {actual.retry_after}")
    return tuple(found)


def _word(*, allow: bool) -> str:
    return "allow" if allow else "deny"


def _quoted(value: str | None) -> str:
    return "absent" if value is None else repr(value)


def _shown(body: object) -> str:
    return "the edge's own" if body is UNSAID else json.dumps(body, sort_keys=True)


def _names(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"
