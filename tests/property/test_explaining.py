"""Explanations say what the check does: the same rules match, and the same decision comes out."""

from dataclasses import replace

from fixtures.policy_parts import AI, COUNTER, NOW, POLICY, TOTAL, request, view_of
from fixtures.random_policies import NAMES, callers, policies
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.counters import MONEY, CounterKind
from sidecar.domain.expressions import RULE_VARIABLES, ResultKind, compile_expression
from sidecar.domain.judging import judge
from sidecar.domain.planning import Ask, Refusal, plan_check, plan_unidentified
from sidecar.domain.policy import Policy
from sidecar.domain.pricing import Billing
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import MeterRule, Mode, Rule, RuleTemplate
from sidecar.domain.standing import Standing
from sidecar.domain.templates import Template
from sidecar.inbound.denials import word_denial
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.services.explaining import Explainer, Question
from sidecar.services.explanation import RuleOutcome
from sidecar.services.given_numbers import GivenNumbers, after_place, play_place

CONDITIONS = (
    "",
    'customer.labels.x == "a"',
    "credits.available_nano < 1000000",
    'invoices.standing == "grace"',
    "request.body.missing > 1",
)
TEMPLATES = (
    RuleTemplate.NO_CREDITS,
    RuleTemplate.UNPAID_INVOICES,
    RuleTemplate.QUOTA,
    RuleTemplate.RATE_LIMIT,
    RuleTemplate.REQUIRE_PLAN,
    RuleTemplate.BLOCK,
    RuleTemplate.HEADERS,
)


def expression(text: str):
    if not text:
        return None
    return compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)


COMPILED = {text: expression(text) for text in CONDITIONS}


@st.composite
def speaking(draw: st.DrawFn) -> Policy:
    """Random policies whose rules watch numbers, have conditions, and are priced or not."""
    policy = draw(policies())
    rules = tuple(draw(spoken(rule)) for rule in policy.rules)
    return replace(
        policy,
        rules=rules,
        meters=draw(st.sampled_from(((), (MeterRule(meter=TOTAL, match=(AI,)),)))),
        cards={
            name: replace(POLICY.cards["pro"], plan=name, billing=draw(st.sampled_from(Billing)))
            for name in NAMES
        },
        features={"a": frozenset({"chat"})},
        allow_unmatched=draw(st.booleans()),
        free=draw(st.sampled_from(((), (AI,)))),
    )


@st.composite
def spoken(draw: st.DrawFn, rule: Rule) -> Rule:
    template = draw(st.sampled_from(TEMPLATES))
    level = rule.counter.level if rule.counter else COUNTER.level
    counter = None
    if template is RuleTemplate.QUOTA:
        counter = replace(COUNTER, measure=draw(st.sampled_from(("total", MONEY))), level=level)
    elif template is RuleTemplate.RATE_LIMIT:
        counter = None if rule.counter is None else replace(rule.counter, name=rule.name)
    at = draw(st.sampled_from((None, 80))) if template is RuleTemplate.QUOTA else None
    return replace(
        rule,
        template=template,
        counter=counter,
        when=COMPILED[draw(st.sampled_from(CONDITIONS))],
        at_percent=at,
        percent=draw(st.integers(1, 99)),
        warn={"x-said": Template(rule.name)} if at or template is RuleTemplate.HEADERS else {},
        quota="monthly" if template is RuleTemplate.QUOTA else "",
        plans=frozenset({"a"}),
    )


givens = st.builds(
    GivenNumbers,
    at=st.just(NOW),
    available_nano=st.sampled_from((0, 10**6, 10**12)),
    standing=st.sampled_from(Standing),
    used=st.dictionaries(
        st.sampled_from(("monthly", "r0", "r1")), st.sampled_from((0, 1, 9_000, 20_000))
    ),
)


@given(policy=speaking(), caller=callers, path=st.sampled_from(("/a", "/b/c", "/abcd")), of=givens)
def test_an_explanation_agrees_with_the_check(policy, caller, path, of) -> None:
    asked = request(path)
    view = view_of(asked, policy)
    explainer = Explainer(policy, read_facts=read_request_facts, word=word_denial)
    found = explainer.explain_given(Question(request=asked, at=NOW, customer=caller), of)

    selected = policy.rules_for(view, caller)
    assert [one.rule for one in found.rules if one.matched] == [rule.name for rule, _ in selected]
    assert all(one.mismatches for one in found.rules if one.outcome is RuleOutcome.NOT_MATCHED)
    drafts = {rule.name for rule in policy.rules if rule.mode is Mode.DRAFT}
    assert {one.rule for one in found.rules if one.outcome is RuleOutcome.DRAFT} == drafts

    if policy.is_free(view) or policy.passes_unmatched(view):
        assert found.answer.allow
        return
    if caller.customer_id:
        plan = plan_check(policy, view, caller, RequestFacts(), NOW)
    else:
        plan = plan_unidentified(policy, view, NOW, caller)
    if isinstance(plan, Refusal):
        assert (found.answer.code, found.answer.rule) == (plan.reason.value, plan.rule)
        return
    conditions_met = {one.rule.name for one in plan.rules}
    unmet = (RuleOutcome.OTHER_CURRENCY, RuleOutcome.CONDITION_FALSE)
    assert {o.rule for o in found.rules if o.matched and o.outcome not in unmet} <= conditions_met
    numbers = None if plan.ask is Ask.NOTHING else after_place(plan, play_place(plan, of))
    judgement = judge(plan, numbers, caller)
    assert found.answer.allow is (judgement.denial is None)
    assert judgement.headers.items() <= {**found.answer.headers}.items()
    deciding = [one.rule for one in found.rules if one.outcome is RuleOutcome.DECIDES]
    if judgement.denial is not None:
        assert found.answer.rule == judgement.denial.rule
        names = {rule.name for rule in policy.rules}
        assert deciding == [judgement.denial.rule] * (judgement.denial.rule in names)
    else:
        assert deciding == []
    shadow = [one.rule for one in found.rules if one.outcome is RuleOutcome.WOULD_DENY]
    assert tuple(shadow) == judgement.shadow_denials
    for one in found.rules:
        if one.counter is not None:
            took = found.hold is not None and found.hold.placed
            full = one.counter.over and one.rule in {
                r.name for r in policy.rules if r.counter and r.counter.kind is CounterKind.RATE
            }
            assert one.counter.after - one.counter.before == (
                one.counter.wanted if took and not full else 0
            )
