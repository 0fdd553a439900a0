"""What rules select on, whom they are for, and what they say."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network

import pytest
import re2
from fixtures.policy_parts import (
    AI,
    CREDITS,
    CUSTOMER,
    FULL,
    NOW,
    POLICY,
    UNPAID,
    judged,
    plan_of,
    plan_or_refusal,
    request,
    view_of,
    with_rules,
)

from sidecar.domain.counters import IN_FLIGHT, MONEY, REQUESTS, Counter, CounterKind, Level, Rate
from sidecar.domain.customers import NOBODY, CustomerMatch, UserMatch
from sidecar.domain.decisions import DenyReason, Dialect
from sidecar.domain.expressions import RULE_VARIABLES, ResultKind, compile_expression
from sidecar.domain.judging import judge
from sidecar.domain.matching import Match, fits_any
from sidecar.domain.planning import Ask, CheckPlan, Refusal, plan_check, plan_unidentified
from sidecar.domain.requests import PATH_BYTES_MAX, AccessRequest, RequestFacts
from sidecar.domain.rules import (
    DenyAnswer,
    DialectRule,
    Members,
    Membership,
    Mode,
    OnStoreFailure,
    Rule,
    RuleTemplate,
    Unidentified,
)
from sidecar.domain.standing import Standing
from sidecar.domain.store_numbers import InvoiceDemand, StoreNumbers
from sidecar.domain.templates import Template

BLOCK = Rule(
    name="block", template=RuleTemplate.BLOCK, match=(AI,), unidentified=Unidentified.APPLY
)
HEADERS = Rule(
    name="headers",
    template=RuleTemplate.HEADERS,
    warn={"deprecation": Template("true")},
    unidentified=Unidentified.APPLY,
)
RATE = Counter(
    name="rps",
    kind=CounterKind.RATE,
    measure=REQUESTS,
    limit=10,
    rate=Rate(per_ms=1_000, burst=20),
)
RPS = Rule(name="rps", template=RuleTemplate.RATE_LIMIT, counter=RATE)
PARALLEL = Rule(
    name="parallel",
    template=RuleTemplate.IN_FLIGHT_LIMIT,
    counter=Counter(name="parallel", kind=CounterKind.IN_FLIGHT, measure=IN_FLIGHT, limit=2),
)
CAP = Rule(
    name="cap",
    template=RuleTemplate.SPEND_CAP,
    currency="USD",
    counter=replace(FULL.counter, name="cap", measure=MONEY, limit=5_000_000_000),
)
TEN = ip_network("10.0.0.0/8")
ADA = replace(CUSTOMER, user_id="ada", team_id="red", credential_id="crd_1")


def with_body(body: bytes, content_type: str = "application/json", **more: object) -> AccessRequest:
    return replace(request(content_type=content_type), body=body, **more)


@pytest.mark.parametrize(
    ("match", "asked", "accepted"),
    [
        (Match(hosts=(re2.compile("^api[.]"),)), replace(request(), host="API.example:443"), True),
        (Match(hosts=(re2.compile("^api[.]"),)), replace(request(), host="www.example"), False),
        (Match(hosts=(re2.compile("^.*:"),)), replace(request(), host="[::1]:80"), True),
        (Match(query=(("a", re2.compile("^2$")),)), request("/ai/chat?a=1&a=2"), True),
        (Match(query=(("a", re2.compile("^2$")),)), request("/ai/chat?b=2"), False),
        (Match(query=(("a", re2.compile("^x y$")),)), request("/ai/chat?a=x%20y#a=z"), True),
        (Match(sources=(TEN,)), replace(request(), source="10.1.2.3"), True),
        (Match(sources=(TEN,)), replace(request(), source="::ffff:10.0.0.1"), True),
        (Match(sources=(TEN,)), replace(request(), source="11.0.0.1"), False),
        (Match(sources=(TEN,)), replace(request(), source="2001:db8::1"), False),
        (Match(sources=(ip_network("::/0"),)), replace(request(), source=""), False),
        (Match(context=(("t", re2.compile("^a$")),)), replace(request(), context={"t": "a"}), True),
        (Match(context=(("tier", re2.compile("")),)), request(), False),
    ],
)  # fmt: skip
def test_a_match_reads_what_the_gateway_tells(match, asked, accepted) -> None:
    assert match.accepts(view_of(asked)) is accepted


@pytest.mark.parametrize(
    ("body", "content_type", "accepted"),
    [
        (b'{"model": "gpt-4o"}', "application/json", True),
        (b'{"model": "llama"}', "application/json", False),
        (b'{"other": {"model": "gpt"}}', "application/json", False),
        (b'["gpt"]', "application/json", False),
        (b'{"model": null}', "application/json", False),
        (b'{"model": "llama", "model": "gpt"}', "application/vnd.x+json", True),
        (b'{"model": "llama"', "application/json; charset=utf-8", True),
        (b"[" * 100_000, "application/json", True),
        (b"model=gpt", "application/x-www-form-urlencoded", False),
    ],
)
def test_a_body_that_can_be_read_in_two_ways_is_not_spared(body, content_type, accepted) -> None:
    match = Match(body=(("model", re2.compile("^gpt")),))
    assert match.accepts(view_of(with_body(body, content_type))) is accepted


def test_a_body_that_is_cut_or_compressed_is_not_spared_and_an_absent_one_has_no_fields() -> None:
    match = Match(body=(("a.b", re2.compile("^1$")),))
    assert match.accepts(view_of(with_body(b'{"a": {"b": 1}}')))
    assert match.accepts(view_of(with_body(b'{"a": {"b": 2}}', body_complete=False)))
    packed = replace(request(content_encoding="gzip"), body=b"x")
    assert match.accepts(view_of(packed))
    assert not match.accepts(view_of(request()))
    assert not match.accepts(view_of(replace(request(), body_complete=False)))


def test_alternatives_of_a_match_are_any_of_them() -> None:
    ways = (Match(methods=frozenset({"PUT"})), Match(hosts=(re2.compile("^b$"),)))
    assert fits_any(ways, view_of(request(method="PUT")))
    assert fits_any(ways, view_of(replace(request(), host="b")))
    assert not fits_any(ways, view_of(request()))
    assert fits_any((), view_of(request()))


@pytest.mark.parametrize(
    ("users", "who", "names"),
    [
        (UserMatch(ids=frozenset({"ada"})), ADA, ["rule"]),
        (UserMatch(teams=frozenset({"red"})), ADA, ["rule"]),
        (UserMatch(teams=frozenset({"red"}), exclude=frozenset({"ada"})), ADA, []),
        (UserMatch(ids=frozenset({"bob"})), ADA, []),
        (UserMatch(ids=frozenset({"ada"})), CUSTOMER, []),
    ],
)
def test_users_are_selected_and_a_key_without_a_user_is_none_of_them(users, who, names) -> None:
    rule = replace(UNPAID, name="rule", users=users, unidentified=Unidentified.SKIP)
    found = with_rules(rule).rules_for(view_of(request()), who)
    assert [one.name for one, _ in found] == names


def test_a_rule_that_must_know_the_user_asks_for_one() -> None:
    users = UserMatch(ids=frozenset({"ada"}))
    refusal = plan_or_refusal(with_rules(replace(UNPAID, users=users)))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.rule) == (DenyReason.UNIDENTIFIED, "unpaid")
    assert isinstance(
        plan_or_refusal(with_rules(replace(UNPAID, users=users)), customer=ADA), CheckPlan
    )


def listed(name: str) -> Rule:
    return replace(BLOCK, name=name, customer_members=Members.LISTED)


def test_a_members_rules_stand_in_the_order_of_its_list_and_bring_its_values() -> None:
    policy = replace(
        with_rules(listed("a"), replace(BLOCK, name="open"), listed("b"), listed("c")),
        customer_members={
            "cus_1": (
                Membership(rule="c", values={"0": "Pro"}),
                Membership(rule="a"),
            )
        },
    )
    found = policy.rules_for(view_of(request()), CUSTOMER)
    assert [(rule.name, dict(values)) for rule, values in found] == [
        ("c", {"0": "Pro"}),
        ("open", {}),
        ("a", {}),
    ]
    stranger = policy.rules_for(view_of(request()), replace(CUSTOMER, customer_id="cus_2"))
    assert [rule.name for rule, _ in stranger] == ["open"]


def test_a_rule_for_the_unlisted_is_for_all_others() -> None:
    rule = replace(BLOCK, customer_members=Members.UNLISTED, unidentified=Unidentified.SKIP)
    policy = replace(with_rules(rule), customer_members={"cus_2": (Membership(rule="block"),)})
    assert policy.rules_for(view_of(request()), CUSTOMER)
    assert not policy.rules_for(view_of(request()), replace(CUSTOMER, customer_id="cus_2"))
    assert not policy.rules_for(view_of(request()), NOBODY)


def test_a_percentage_is_sticky_and_about_as_large_as_it_says() -> None:
    rule = replace(BLOCK, mode=Mode.PERCENT, percent=30)
    people = [replace(CUSTOMER, customer_id=f"cus_{n}") for n in range(2_000)]
    bitten = [one for one in people if rule.enforces_for(one)]
    assert bitten == [one for one in people if rule.enforces_for(one)]
    assert 500 < len(bitten) < 700
    wider = replace(rule, percent=60)
    assert all(wider.enforces_for(one) for one in bitten)
    # Another rule draws other customers, so that nobody is first in every experiment.
    other = replace(rule, name="other")
    assert 100 < sum(other.enforces_for(one) for one in bitten) < 300


def test_a_plain_block_needs_no_store_unless_an_earlier_rule_may_have_the_word() -> None:
    alone = plan_of(BLOCK, CREDITS)
    assert alone.ask is Ask.NOTHING
    assert judge(alone, None, CUSTOMER).denial.rule == "block"
    second = plan_of(CREDITS, BLOCK)
    assert second.ask is Ask.PROBE
    assert judged(second, denied=True, failed_credit=True).denial.rule == "credits"
    assert judged(second, denied=True).denial.rule == "block"
    told = replace(HEADERS, warn={"x-left": Template("{{credits.available}}")})
    assert plan_of(BLOCK, told).ask is Ask.PROBE
    assert plan_of(BLOCK, HEADERS).ask is Ask.NOTHING
    assert plan_of(replace(BLOCK, mode=Mode.SHADOW), CREDITS).ask is Ask.HOLD


def test_a_block_in_shadow_is_told_and_lets_pass() -> None:
    judgement = judged(plan_of(replace(BLOCK, mode=Mode.SHADOW)))
    assert judgement.denial is None
    assert judgement.shadow_denials == ("block",)


def test_header_rules_speak_on_allow_and_on_deny() -> None:
    assert judged(plan_of(HEADERS)).headers == {"deprecation": "true"}
    denied = judge(plan_of(BLOCK, HEADERS), None, CUSTOMER)
    assert denied.denial is not None
    assert denied.headers == {"deprecation": "true"}


@pytest.mark.parametrize(
    ("plans", "features", "denied"),
    [
        (frozenset({"pro"}), frozenset(), False),
        (frozenset({"max"}), frozenset(), True),
        (frozenset(), frozenset({"chat"}), False),
        (frozenset(), frozenset({"chat", "images"}), True),
        (frozenset({"pro"}), frozenset({"images"}), True),
    ],
)
def test_a_plan_entitles_by_its_name_and_its_features(plans, features, *, denied) -> None:
    rule = Rule(name="pro-only", template=RuleTemplate.REQUIRE_PLAN, plans=plans, features=features)
    plan = plan_of(rule, features={"pro": frozenset({"chat"})})
    judgement = judged(plan) if plan.ask is Ask.HOLD else judge(plan, None, CUSTOMER)
    assert (judgement.denial is not None) is denied
    if denied:
        assert judgement.denial.reason is DenyReason.NOT_ENTITLED


def test_an_entitlement_that_is_missing_comes_before_an_unknown_price() -> None:
    rule = Rule(name="chat", template=RuleTemplate.REQUIRE_PLAN, features=frozenset({"chat"}))
    plan = plan_or_refusal(replace(with_rules(CREDITS, rule), estimates=()))
    assert isinstance(plan, CheckPlan)
    assert plan.ask is Ask.NOTHING
    assert judge(plan, None, CUSTOMER).denial.rule == "chat"


@pytest.mark.parametrize(
    ("demand", "facts", "denied"),
    [
        (InvoiceDemand(), {"standing": "delinquent"}, True),
        (InvoiceDemand(), {"standing": "grace", "due_since_ms": 0}, False),
        (InvoiceDemand(grace_ms=1_000), {"standing": "grace", "due_since_ms": -1_000}, True),
        (InvoiceDemand(grace_ms=1_000), {"standing": "grace", "due_since_ms": -999}, False),
        (InvoiceDemand(grace_ms=1_000), {"standing": "delinquent"}, True),
        (InvoiceDemand(minimum_nano=5), {"standing": "delinquent", "due_nano": 4}, False),
        (InvoiceDemand(minimum_nano=5), {"standing": "delinquent", "due_nano": 5}, True),
        (InvoiceDemand(minimum_nano=5), {"standing": "delinquent"}, True),
        (InvoiceDemand(except_disputed=True), {"standing": "delinquent", "disputed": True}, False),
        (InvoiceDemand(), {"standing": "delinquent", "disputed": True}, True),
    ],
)
def test_unpaid_invoices_refuse_by_age_amount_and_dispute(demand, facts, *, denied) -> None:
    plan = plan_of(replace(UNPAID, invoices=demand))
    seen = judged_numbers(**{**facts, "denied": denied})
    denial = judge(plan, seen, CUSTOMER).denial
    assert (denial is not None and denial.rule == "unpaid") is denied


def judged_numbers(**facts: object) -> StoreNumbers:
    """Numbers whose instants are relative to the decision's."""
    instant = 1_000_000_000
    since = facts.pop("due_since_ms", None)
    standing = Standing(facts.pop("standing", "good"))
    return StoreNumbers(
        instant_ms=instant,
        available_nano=10**12,
        due_since_ms=None if since is None else instant + int(since),
        standing=standing,
        **facts,
    )


def test_each_level_has_its_own_counter_and_a_caller_without_the_level_none() -> None:
    per_user = replace(RPS, counter=replace(RATE, level=Level.USER), unidentified=Unidentified.SKIP)
    policy = with_rules(per_user)
    (take,) = plan_or_refusal(policy, customer=ADA).counters
    assert (take.name, take.field) == ("rps@user=ada", "l:rps@user=ada")
    assert plan_or_refusal(policy).counters == ()


def test_a_cap_counts_money_of_its_own_currency_only() -> None:
    (take,) = plan_of(CAP).counters
    assert take.quantity == plan_of(CAP).amount_nano == 500_000
    assert plan_of(replace(CAP, currency="EUR")).counters == ()


def test_more_counters_than_a_script_takes_are_refused() -> None:
    rules = [replace(RPS, name=f"r{n}", counter=replace(RATE, name=f"r{n}")) for n in range(17)]
    refusal = plan_or_refusal(with_rules(*rules))
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "counters"


def over(*names: str, **changes: object) -> Mapping[str, object]:
    return {"over": frozenset(names), "denied": True, **changes}


def test_retry_after_waits_for_every_limit_that_refuses() -> None:
    plan = plan_of(RPS, FULL)
    at = {"rps": judged_at(2_400)}
    assert judged(plan, **over("rps", retry_at_ms=at)).denial.retry_after_seconds == 3
    assert judged(plan, **over("rps", "monthly", retry_at_ms=at)).denial.retry_after_seconds == 30


def test_retry_after_is_left_out_where_time_alone_does_not_help() -> None:
    plan = plan_of(RPS, PARALLEL, UNPAID, CREDITS)
    at = {"rps": judged_at(1_000)}
    assert judged(plan, **over("rps", retry_at_ms=at)).denial.retry_after_seconds == 1
    for more in (
        over("rps", "parallel", retry_at_ms=at),
        over("rps", retry_at_ms={}),
        over("rps", retry_at_ms=at, failed_credit=True),
        over("rps", retry_at_ms=at, standing=Standing.DELINQUENT),
    ):
        assert judged(plan, **more).denial.retry_after_seconds is None
    assert judged(plan, **over("parallel")).denial.reason is DenyReason.IN_FLIGHT_LIMIT


def judged_at(milliseconds: int) -> int:
    """An instant so long after the decision's."""
    return round(NOW.timestamp() * 1_000) + milliseconds


def test_a_soft_limit_admits_and_flags() -> None:
    soft = replace(FULL, at_percent=80, warn={"x-used": Template("{{quota.used_percent}}")})
    judgement = judged(plan_of(soft), over=frozenset({"monthly"}), used={"monthly": 12_000})
    assert judgement.denial is None
    assert judgement.over_limits == ("monthly",)
    assert judgement.headers["x-limit-exceeded"] == "monthly"
    assert judgement.headers["x-used"] == "120"


def test_amounts_and_requests_in_flight_stay_out_of_the_limit_headers() -> None:
    assert judged(plan_of(CAP, PARALLEL), used={"cap": 1, "parallel": 1}).headers == {}
    headers = judged(plan_of(RPS), used={"rps": 15}).headers
    assert headers == {
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "5",
        "x-ratelimit-reset": "2",
    }


def test_a_caps_template_variables_are_amounts() -> None:
    deny = DenyAnswer(body={"left": "{{limit.remaining}} of {{limit.limit}}"})
    denial = judged(
        plan_of(replace(CAP, deny=deny)), **over("cap", used={"cap": 4_500_000_000})
    ).denial
    assert denial.body == {"left": "0.50 of 5.00"}


def test_literals_and_members_values_fill_templates() -> None:
    text = Template('{{"{{0}}"}} {{0|UNKNOWN}} {{values.name|x}}')
    assert text.render({}) == "{{0}} UNKNOWN x"
    assert text.render({"0": "Pro", "values.name": "Ada"}) == "{{0}} Pro Ada"
    assert not text.needs_store
    assert Template("{{quota.used}}").needs_store


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((BLOCK,), "block"),
        ((replace(BLOCK, unidentified=Unidentified.ONLY),), "block"),
        ((replace(BLOCK, unidentified=Unidentified.SKIP),), "unidentified"),
        ((replace(BLOCK, unidentified=Unidentified.DENY),), "unidentified"),
        ((replace(HEADERS, match=(AI,)),), "unidentified"),  # The route has a price.
    ],
)
def test_a_caller_whom_nobody_can_tell(rules, expected) -> None:
    policy = replace(with_rules(*rules), meters=POLICY.meters if expected != "block" else ())
    plan = plan_unidentified(policy, view_of(request(), policy), NOW)
    if expected == "block":
        assert judge(plan, None, NOBODY).denial.rule == "block"
    else:
        assert isinstance(plan, Refusal)
        assert plan.reason is DenyReason.UNIDENTIFIED


def test_the_first_of_a_block_and_a_rule_that_asks_decides_for_nobody() -> None:
    asked = plan_unidentified(with_rules(UNPAID, BLOCK), view_of(request()), NOW)
    assert isinstance(asked, Refusal)
    assert asked.rule == "unpaid"
    plan = plan_unidentified(with_rules(BLOCK, UNPAID), view_of(request()), NOW)
    assert judge(plan, None, NOBODY).denial.rule == "block"


def test_a_caller_whom_nobody_can_tell_passes_where_nothing_asks() -> None:
    policy = replace(with_rules(HEADERS), meters=(), allow_unmatched=True)
    view = view_of(request(), policy)
    assert not policy.passes_unmatched(view)
    judgement = judge(plan_unidentified(policy, view, NOW), None, NOBODY)
    assert judgement.denial is None
    assert judgement.headers == {"deprecation": "true"}
    assert isinstance(plan_unidentified(replace(policy, allow_unmatched=False), view, NOW), Refusal)


def test_a_rule_only_for_the_unidentified_is_for_nobody_else() -> None:
    rule = replace(BLOCK, unidentified=Unidentified.ONLY)
    assert with_rules(rule).rules_for(view_of(request()), CUSTOMER) == []


def test_stale_is_the_strictest_wish_short_of_denying() -> None:
    stale = replace(CREDITS, on_store_failure=OnStoreFailure.STALE, stale_seconds=30)
    brief = replace(stale, name="brief", stale_seconds=5)
    lenient = replace(UNPAID, on_store_failure=OnStoreFailure.ALLOW)
    assert plan_of(stale, brief, lenient).on_store_failure == (OnStoreFailure.STALE, 5)
    assert plan_of(stale, UNPAID).on_store_failure == (OnStoreFailure.DENY, 0)
    freely = replace(CREDITS, on_store_failure=OnStoreFailure.ALLOW)
    assert plan_of(BLOCK, freely, lenient).on_store_failure == (OnStoreFailure.ALLOW, 0)


def test_a_plans_own_guard_of_its_credit_is_not_off_because_another_rule_allows() -> None:
    lenient = replace(UNPAID, on_store_failure=OnStoreFailure.ALLOW)
    assert plan_of(lenient).credit_required
    assert plan_of(lenient).on_store_failure == (OnStoreFailure.DENY, 0)


def test_a_block_on_the_stores_numbers_is_asked_when_there_are_none() -> None:
    freely = replace(CREDITS, on_store_failure=OnStoreFailure.ALLOW)
    poor = compile_expression(
        "credits.available_nano < 5", variables=RULE_VARIABLES, result=ResultKind.BOOLEAN
    )
    block = replace(BLOCK, when=poor)
    assert plan_of(freely, block).on_store_failure == (OnStoreFailure.DENY, 0)
    block = replace(block, on_store_failure=OnStoreFailure.ALLOW)
    assert plan_of(freely, block).on_store_failure == (OnStoreFailure.ALLOW, 0)


def test_a_routes_callers_are_answered_in_their_providers_format() -> None:
    policy = replace(POLICY, dialects=(DialectRule(match=(AI,), dialect=Dialect.OPENAI),))
    assert policy.dialect_for(view_of(request(), policy)) is Dialect.OPENAI
    assert policy.dialect_for(view_of(request("/other"), policy)) is Dialect.PROBLEM


def test_a_customer_selection_is_not_asked_of_nobody() -> None:
    chosen = replace(BLOCK, customers=CustomerMatch(ids=frozenset({"cus_9"})))
    assert with_rules(chosen).rules_for(view_of(request()), CUSTOMER) == []
    assert with_rules(chosen).rules_for(view_of(request()), NOBODY) != []


def test_a_parameter_is_found_behind_any_number_of_others() -> None:
    match = Match(query=(("debug", re2.compile("^1$")),))
    path = "/ai/chat?" + "a&" * 4_000 + "debug=0&debug=1"
    assert len(path) <= PATH_BYTES_MAX
    assert match.accepts(view_of(request(path)))


@pytest.mark.parametrize(
    "host", ["api.example.com", "API.example.com:8443", "api.example.com.", "api.example.com.:80"]
)
def test_a_host_is_the_same_however_it_is_written(host: str) -> None:
    match = Match(hosts=(re2.compile(r"^api\.example\.com$"),))
    assert match.accepts(view_of(replace(request(), host=host)))


def test_a_shadow_rule_opens_no_route_that_nothing_else_covers() -> None:
    unpriced = replace(POLICY, meters=(), estimates=())
    shadow = replace(BLOCK, mode=Mode.SHADOW)
    policy = with_rules(shadow, policy=unpriced)
    refusal = plan_or_refusal(policy)
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "unmatched"
    nobody = plan_unidentified(policy, view_of(request(), policy), NOW)
    assert isinstance(nobody, Refusal)
    headers = replace(HEADERS, match=(AI,))
    assert isinstance(plan_or_refusal(with_rules(headers, policy=unpriced)), CheckPlan)


def test_clients_are_told_nothing_of_a_shadow_rules_limit() -> None:
    plan = plan_of(replace(FULL, mode=Mode.SHADOW))
    judgement = judged(plan, used={"monthly": 10_500}, over=frozenset({"monthly"}))
    assert judgement.shadow_denials == ("full",)
    assert (judgement.headers, judgement.over_limits) == ({}, ())


def test_a_block_whose_condition_is_false_does_not_hide_when_to_come_again() -> None:
    poor = compile_expression(
        "credits.available_nano < 5", variables=RULE_VARIABLES, result=ResultKind.BOOLEAN
    )
    plan = plan_of(replace(BLOCK, when=poor), replace(FULL, hard=True))
    full = {"used": {"monthly": 10_000}, "over": frozenset({"monthly"}), "denied": True}
    denial = judged(plan, **full).denial
    assert denial is not None
    assert (denial.rule, denial.retry_after_seconds) == ("full", 30)
    denial = judged(plan, available_nano=4, **full).denial
    assert denial is not None
    assert denial.retry_after_seconds is None


@pytest.mark.parametrize(
    "text", ["has(request.body.tools)", "request.body.tools.size() > 0", "size(request.body) > 1"]
)
def test_a_body_that_cannot_be_read_spares_nobody_a_condition_on_it(text: str) -> None:
    when = compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)
    policy = with_rules(replace(BLOCK, when=when))
    for body in (b'{"tools": [1], "tools": [1]}', b'{"tools": [1]'):
        plan = plan_or_refusal(policy, replace(request(), body=body))
        assert isinstance(plan, CheckPlan)
        denial = judge(plan, None, CUSTOMER).denial
        assert denial is not None
        assert denial.rule == "block"
        for read in when.values_read(plan.variables):
            assert read.value is None


def test_a_condition_that_reads_no_body_does_not_have_it_read() -> None:
    when = compile_expression(
        'request.method == "POST"', variables=RULE_VARIABLES, result=ResultKind.BOOLEAN
    )
    policy = with_rules(replace(BLOCK, when=when))
    view = view_of(replace(request(), body=b'{"model": "m"}'), policy)
    assert isinstance(plan_check(policy, view, CUSTOMER, RequestFacts(), NOW), CheckPlan)
    assert "body" not in vars(view)


@pytest.mark.parametrize("level", [Level.KEY, Level.TEAM])
def test_a_rule_for_users_that_counts_each_key_or_team_asks_for_both(level: Level) -> None:
    users = UserMatch(ids=frozenset({"ada"}))
    rule = replace(RPS, counter=replace(RATE, level=level), users=users)
    named = replace(CUSTOMER, user_id="ada")
    refusal = plan_or_refusal(with_rules(rule), customer=named)
    assert isinstance(refusal, Refusal)
    assert refusal.detail == f"the credential names no {level.value}"
    both = replace(named, credential_id="key_1", team_id="red")
    plan = plan_or_refusal(with_rules(rule), customer=both)
    assert isinstance(plan, CheckPlan)
    assert len(plan.counters) == 1


def test_a_team_is_selected_even_where_the_credential_names_no_user() -> None:
    red = UserMatch(teams=frozenset({"red"}))
    rule = replace(BLOCK, users=red, unidentified=Unidentified.SKIP)
    team = replace(CUSTOMER, team_id="red")
    assert [one.name for one, _ in with_rules(rule).rules_for(view_of(request()), team)] == [
        "block"
    ]
    spared = replace(rule, users=replace(red, exclude=frozenset({"ada"})))
    assert with_rules(spared).rules_for(view_of(request()), team) == []


@pytest.mark.parametrize(
    ("facts", "blocked"),
    [
        ({"standing": Standing.GOOD}, False),
        ({"standing": Standing.GRACE}, True),
        ({"standing": Standing.GRACE, "due_nano": 4_000, "due_since_ms": 0}, False),
        ({"standing": Standing.DELINQUENT, "due_nano": 4_000}, True),
        ({"standing": Standing.GOOD, "due_nano": 6_000, "due_since_ms": 0}, True),
    ],
)
def test_what_nobody_stated_of_overdue_invoices_is_not_zero(facts, *, blocked) -> None:
    when = compile_expression(
        "invoices.overdue_nano > 5000 || invoices.overdue_seconds < 0",
        variables=RULE_VARIABLES,
        result=ResultKind.BOOLEAN,
    )
    denial = judged(plan_of(replace(BLOCK, when=when)), **facts).denial
    assert (denial is not None) is blocked
