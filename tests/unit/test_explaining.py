"""Explanations: each reason why a rule does not match, and what they never show."""

import json
from dataclasses import replace
from ipaddress import ip_network

import pytest
import re2
from fixtures.http_edges import ADMIN_TOKEN, calling
from fixtures.http_edges import World as Edges
from fixtures.policy_parts import (
    AI,
    CREDITS,
    CUSTOMER,
    FULL,
    NEARLY,
    NOW,
    POLICY,
    request,
    with_rules,
)
from fixtures.replay_world import World

from sidecar.domain.counters import Counter, CounterKind, Level, Rate
from sidecar.domain.customers import NOBODY, CustomerFacts, CustomerMatch, UserMatch
from sidecar.domain.decision_records import DecisionRecord
from sidecar.domain.expressions import RULE_VARIABLES, ResultKind, compile_expression
from sidecar.domain.matching import Match
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.rules import (
    DenyAnswer,
    Members,
    Membership,
    Mode,
    Rule,
    RuleTemplate,
    Unidentified,
)
from sidecar.inbound.denials import word_denial
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.services.explaining import Explainer, Question
from sidecar.services.explanation import Explanation, RuleOutcome, RuleTrace, as_data
from sidecar.services.given_numbers import GivenNumbers

ANY = re2.compile("^gold$")
BLOCK = Rule(name="r", template=RuleTemplate.BLOCK, unidentified=Unidentified.APPLY, place="f:1")
MEMBERS = {"cus_2": (Membership(rule="r"),)}


def explained(
    policy: Policy,
    asked: AccessRequest | None = None,
    customer: CustomerFacts = CUSTOMER,
    facts: RequestFacts | None = None,
    **numbers: object,
) -> Explanation:
    explainer = Explainer(policy, read_facts=read_request_facts, word=word_denial)
    question = Question(request=asked or request(), at=NOW, customer=customer, facts=facts)
    return explainer.explain_given(question, GivenNumbers(at=NOW, **numbers))


def trace_of(rule: Rule, asked: AccessRequest | None = None, **changes: object) -> RuleTrace:
    policy = with_rules(rule)
    customer = changes.pop("customer", CUSTOMER)
    return explained(replace(policy, **changes), asked, customer).rules[0]


def matching(**match: object) -> Rule:
    return replace(BLOCK, match=(Match(**match),))


def selecting(**selection: object) -> Rule:
    return replace(BLOCK, customers=CustomerMatch(**selection))


USERS = replace(BLOCK, users=UserMatch(ids=frozenset({"u1"})), unidentified=Unidentified.SKIP)
KNOWN_USER = replace(CUSTOMER, user_id="u2", team_id="t2", labels={"tier": "free"})
SENT = replace(
    request("/ai/chat?tier=silver", x_tier="silver"),
    host="api.example:8443",
    source="192.0.2.1",
    body=b'{"tier": "silver"}',
    headers={"x-tier": ("silver",), "content-type": ("application/json",)},
    context={"tier": "silver"},
)
REASONS = {
    "match.routes": (matching(routes=frozenset({1})), "'/ai/chat'", "^/healthz$"),
    "match.methods": (matching(methods=frozenset({"GET"})), "POST", "GET"),
    "match.hosts": (matching(hosts=(ANY,)), "'api.example'", "^gold$"),
    "match.headers": (matching(headers=(("x-tier", ANY),)), "x-tier: 'silver'", "^gold$"),
    "match.query": (matching(query=(("tier", ANY),)), "tier: 'silver'", "^gold$"),
    "match.sources": (
        matching(sources=(ip_network("10.0.0.0/8"),)),
        "192.0.2.1",
        "10.0.0.0/8",
    ),
    "match.body": (matching(body=(("tier", ANY),)), "tier: 'silver'", "^gold$"),
    "match.context": (matching(context=(("tier", ANY),)), "tier: 'silver'", "^gold$"),
    "customers.plans": (selecting(plans=frozenset({"free"})), "plan 'pro'", "free"),
    "customers.ids": (selecting(ids=frozenset({"cus_2"})), "cus_1", "cus_2"),
    "customers.except": (
        selecting(exclude=frozenset({"cus_1"})),
        "cus_1, which is excepted",
        None,
    ),
    "customers.labels": (selecting(labels={"tier": "gold"}), "tier: 'free'", "gold"),
    "customers.members": (
        replace(BLOCK, customer_members=Members.LISTED),
        "cus_1",
        "one that is listed",
    ),
    "users.ids": (USERS, "u2", "u1"),
    "users.teams": (replace(USERS, users=UserMatch(teams=frozenset({"t1"}))), "t2", "t1"),
    "users.except": (
        replace(USERS, users=UserMatch(exclude=frozenset({"u2"}))),
        "u2, who is excepted",
        None,
    ),
    "users.members": (replace(USERS, users=None, user_members=Members.LISTED), "u2", None),
    "unidentified.only": (
        replace(BLOCK, unidentified=Unidentified.ONLY),
        "a known customer",
        "callers that are not known",
    ),
}


@pytest.mark.parametrize("condition", REASONS)
def test_why_a_rule_does_not_match(condition: str):
    rule, found, wanted = REASONS[condition]
    trace = trace_of(rule, SENT, customer=KNOWN_USER, customer_members=MEMBERS)
    assert trace.outcome is RuleOutcome.NOT_MATCHED
    (mismatch,) = trace.mismatches
    assert (mismatch.condition, mismatch.found) == (condition, found)
    assert wanted is None or wanted in mismatch.wanted


def test_a_rule_for_users_is_not_for_a_caller_without_one():
    (mismatch,) = trace_of(USERS).mismatches
    assert mismatch.condition == "unidentified.skip"
    assert mismatch.found == "a caller whose user is not known"


def test_each_alternative_of_a_match_is_explained():
    rule = replace(BLOCK, match=(Match(methods=frozenset({"GET"})), Match(routes=frozenset({1}))))
    found = [mismatch.condition for mismatch in trace_of(rule).mismatches]
    assert found == ["match.methods", "match.routes"]


def test_credentials_are_never_shown():
    secret = "sk_live_4242"
    asked = replace(
        request(f"/ai/chat?api_key={secret}&page=1"),
        headers={
            "authorization": (f"Bearer {secret}",),
            "x-api-key": (secret,),
            "cookie": (f"session={secret}",),
        },
        context={"upstream_token": secret},
    )
    text = (
        'request.headers.authorization == "a" || request.headers["x-api-key"] == "b" || '
        'request.query.api_key == "c" || request.url == "d" || '
        'request.context.upstream_token == "e"'
    )
    when = compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)
    rules = [
        matching(headers=(("authorization", ANY),)),
        matching(headers=(("x-api-key", ANY),)),
        matching(headers=(("cookie", ANY),)),
        matching(query=(("api_key", ANY),)),
        matching(context=(("upstream_token", ANY),)),
        replace(BLOCK, when=when),
    ]
    named = [replace(rule, name=f"r{n}") for n, rule in enumerate(rules)]
    found = explained(with_rules(*named), asked)
    assert secret not in json.dumps(as_data(found))
    assert [one.outcome for one in found.rules] == [
        *[RuleOutcome.NOT_MATCHED] * 5,
        RuleOutcome.CONDITION_FALSE,
    ]
    assert found.rules[0].mismatches[0].found == "authorization: (not shown)"


def test_a_condition_is_shown_with_what_it_read():
    text = 'customer.labels.tier == "gold" && credits.available_nano < 5'
    when = compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)
    found = explained(with_rules(replace(BLOCK, when=when)), available_nano=700)
    (trace,) = found.rules
    assert trace.outcome is RuleOutcome.CONDITION_FALSE
    assert trace.condition is not None
    assert trace.condition.holds is False
    assert trace.condition.values == {
        "customer.labels.tier": "''",
        "credits.available_nano": "700",
    }


def test_a_condition_without_an_answer_says_why():
    when = compile_expression(
        "request.body.n > 1", variables=RULE_VARIABLES, result=ResultKind.BOOLEAN
    )
    found = explained(with_rules(replace(BLOCK, when=when)))
    condition = found.rules[0].condition
    assert found.rules[0].outcome is RuleOutcome.DECIDES
    assert condition is not None
    assert condition.holds is None
    assert "request.body.n is not there" in condition.failure


def test_counters_are_shown_before_and_after():
    policy = with_rules(FULL, NEARLY)
    full, nearly = explained(policy, used={"monthly": 8_500}).rules
    assert full.counter is not None
    assert (full.counter.before, full.counter.after) == (8_500, 10_000)
    assert (full.outcome, nearly.outcome) == (RuleOutcome.PASSES, RuleOutcome.WARNS)
    found = explained(policy, used={"monthly": 8_501})
    full, nearly = found.rules
    assert full.counter is not None
    assert (full.counter.before, full.counter.after, full.counter.over) == (8_501, 8_501, True)
    assert full.outcome is RuleOutcome.DECIDES
    assert (found.answer.status, found.answer.code) == (429, "quota_exceeded")
    assert found.hold is not None
    assert not found.hold.placed


def test_who_decides_who_would_and_who_comes_too_late():
    rules = (
        replace(CREDITS, name="shadow", mode=Mode.SHADOW),
        replace(CREDITS, name="first", deny=DenyAnswer(status=451)),
        replace(CREDITS, name="second"),
        replace(BLOCK, name="draft", mode=Mode.DRAFT),
    )
    found = explained(with_rules(*rules), available_nano=1)
    assert [one.outcome for one in found.rules] == [
        RuleOutcome.WOULD_DENY,
        RuleOutcome.DECIDES,
        RuleOutcome.DENIES,
        RuleOutcome.DRAFT,
    ]
    assert found.answer.status == 451
    assert found.answer.shadow == ("shadow",)
    assert found.rules[1].detail == "0.000000001 is available, the hold needs 0.0005"


def test_rules_are_not_judged_on_free_routes_and_unreadable_paths():
    policy = with_rules(BLOCK)
    free = explained(policy, request("/healthz", "GET"), NOBODY)
    assert free.answer.allow
    assert free.rules[0].outcome is RuleOutcome.NOT_JUDGED
    broken = explained(policy, request("/a%2fb"), NOBODY)
    assert (broken.answer.status, broken.answer.rule) == (400, "path")
    assert broken.rules[0].outcome is RuleOutcome.NOT_JUDGED


def test_the_overshoot_is_stated_where_the_bound_is_no_proof():
    policy = with_rules(CREDITS)
    unknown = explained(policy, facts=RequestFacts(model="new"))
    assert unknown.hold is not None
    assert unknown.hold.overshoot == (
        "0.0005 USD is held; no bound, since nothing limits the input tokens of model 'new'"
    )
    known = explained(policy, facts=RequestFacts(model="gpt"))
    assert known.hold is not None
    assert (known.hold.bound[:6], known.hold.overshoot) == ("proven", "none")


def test_a_limit_in_another_currency_is_named():
    cap = Rule(
        name="cap",
        template=RuleTemplate.RATE_LIMIT,
        currency="EUR",
        counter=Counter(
            name="cap",
            kind=CounterKind.RATE,
            measure="@requests",
            limit=1,
            level=Level.CUSTOMER,
            rate=Rate(per_ms=1, burst=1),
        ),
    )
    trace = trace_of(cap)
    assert (trace.outcome, trace.detail) == (
        RuleOutcome.OTHER_CURRENCY,
        "the limit is in EUR, the plan in USD",
    )


def test_recorded_decisions_come_out_as_they_were():
    world = World(3)
    explainer = Explainer(world.policy, read_facts=read_request_facts, word=word_denial)
    records = [one for one in world.events(400) if isinstance(one, DecisionRecord)]
    judged = [
        explainer.explain_record(one)
        for one in records
        if one.stage == "rules" and one.numbers_from in ("store", "")
    ]
    assert len(judged) > 100
    assert [one.recorded for one in judged if not one.agrees] == []
    assert {one.answer.allow for one in judged} == {True, False}


async def test_the_admin_api_explains_by_given_and_by_live_numbers():
    edges = Edges()
    await edges.customer("cus_1")
    body = {"method": "POST", "path": "/ai/chat", "customer_id": "cus_1"}
    async with calling(edges.admin(), token=ADMIN_TOKEN) as call:
        given = await call(
            "POST", "/api/v1/rules/explain", json={**body, "plan": "prepaid", "credit": "0.00"}
        )
        live = await call("POST", "/api/v1/rules/explain", json={**body, "live": True})
        nobody = await call("POST", "/api/v1/rules/explain", json={**body, "plan": "gone"})
        unknown = await call(
            "POST", "/api/v1/rules/explain", json={"decision_id": "dec_" + "0" * 32}
        )
    assert (given.status, given.body["answer"]["code"]) == (200, "no_available_credits")
    assert live.status == 200
    assert live.body["answer"]["allow"] is True
    assert live.body["numbers"]["source"] == "live"
    assert live.body["numbers"]["available_nano"] == 1_000_000
    assert "confirmed by the store" in live.body["numbers"]["ages"]["customer facts"]
    assert edges.held() == 0
    assert (nobody.status, unknown.status) == (404, 404)


def test_the_policy_of_these_tests_matches_ai_routes():
    assert AI.routes == frozenset({0})
    assert POLICY.routes.patterns[0] == "^/ai/"
