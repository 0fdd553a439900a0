"""What the tests beside rules show of each rule: whether one has seen it speak."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sidecar.domain.policy import Policy
from sidecar.domain.rules import Mode
from sidecar.services.explaining import Explainer, Question
from sidecar.services.explanation import Explanation, RuleOutcome, RuleTrace
from sidecar.services.given_numbers import play_place
from sidecar.services.rule_test_cases import RuleTest
from sidecar.services.tracing import JudgedNumbers

_UNMET = (RuleOutcome.NOT_JUDGED, RuleOutcome.OTHER_CURRENCY, RuleOutcome.CONDITION_FALSE)
_DENIALS = (RuleOutcome.DECIDES, RuleOutcome.DENIES, RuleOutcome.WOULD_DENY)


@dataclass(slots=True, kw_only=True)
class RuleCoverage:
    """In how many tests a rule was for the request, its condition was true, and it spoke."""

    rule: str
    place: str
    draft: bool
    denies: bool
    considered: int = 0
    condition_true: int = 0
    denied: int = 0
    warned: int = 0

    @property
    def shown(self) -> bool:
        """Whether a test has seen it do what it is for."""
        return bool(self.denied if self.denies else self.warned)


@dataclass(slots=True, kw_only=True)
class Coverage:
    """Coverage by rule, and the limits that some test has reached."""

    rules: dict[str, RuleCoverage] = field(default_factory=dict)
    limits_reached: set[str] = field(default_factory=set)

    @property
    def shown(self) -> int:
        """How many rules tests have seen speak."""
        return sum(one.shown for one in self.rules.values() if not one.draft)

    @property
    def total(self) -> int:
        """How many there are, drafts aside."""
        return sum(not one.draft for one in self.rules.values())


def cover(policy: Policy, explainer: Explainer, tests: Sequence[RuleTest]) -> Coverage:
    """Run the tests through explanations and count what each rule did."""
    coverage = Coverage(
        rules={
            rule.name: RuleCoverage(
                rule=rule.name,
                place=rule.place,
                draft=rule.mode is Mode.DRAFT,
                denies=rule.denies,
            )
            for rule in policy.rules
        }
    )
    for test in tests:
        for trace in _explain(explainer, test).rules:
            _count(coverage, trace)
    return coverage


def _explain(explainer: Explainer, test: RuleTest) -> Explanation:
    question = Question(
        request=test.access_request(), at=test.at, customer=test.customer, facts=test.facts
    )
    prepared = explainer.prepare(question)
    numbers = None
    if prepared.needs_numbers:
        assert prepared.plan is not None
        seen = play_place(prepared.plan, test)
        numbers = JudgedNumbers(seen=seen, after_hold=False)  # As a test's expectations see them.
    return explainer.explain(prepared, numbers, source="test")


def _count(coverage: Coverage, trace: RuleTrace) -> None:
    if not trace.matched:
        return
    rule = coverage.rules[trace.rule]
    rule.considered += 1
    rule.condition_true += trace.outcome not in _UNMET
    rule.denied += trace.outcome in _DENIALS
    rule.warned += trace.outcome is RuleOutcome.WARNS
    if trace.counter is not None and trace.counter.over:
        coverage.limits_reached.add(trace.counter.name.partition("@")[0])


def unshown(coverage: Coverage) -> Iterable[RuleCoverage]:
    """The rules that no test has seen speak, drafts aside."""
    return (one for one in coverage.rules.values() if not one.draft and not one.shown)
