"""A check's plan, and the judgement of the store's numbers."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import re2

from sidecar.domain.customers import CustomerFacts, CustomerMatch
from sidecar.domain.decisions import DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound
from sidecar.domain.identity import ApiKeySource
from sidecar.domain.judging import Judgement, StoreNumbers, judge
from sidecar.domain.matching import Match, RouteSet
from sidecar.domain.periods import CalendarUnit, CalendarWindow, to_epoch_ms
from sidecar.domain.policy import CheckPlan, Policy, Refusal
from sidecar.domain.pricing import Billing, Meter, PerUnit, PriceLine, RateCard
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.rules import (
    DenyAnswer,
    EstimateFrom,
    EstimateRule,
    MeterRule,
    Mode,
    ModelLimits,
    OnStoreFailure,
    Quota,
    Rule,
    RuleTemplate,
)
from sidecar.domain.standing import Standing
from sidecar.domain.templates import Template

NOW = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)
AI = Match(routes=frozenset({0}))
HEALTH = Match(routes=frozenset({1}), methods=frozenset({"GET"}))
INPUT = Meter(name="input", value="usage.input", statuses=frozenset({200}))
TOTAL = Meter(name="total", value="usage.total")
CARD = RateCard(
    plan="pro",
    billing=Billing.PREPAID,
    currency="USD",
    lines=(PriceLine(meter="input", price=PerUnit(amount_nano=500)),),
    meters={"input": INPUT, "total": TOTAL},
)
QUOTA = Quota(
    name="monthly",
    meter="total",
    limit=10_000,
    window=CalendarWindow(unit=CalendarUnit.MONTH),
    hard=False,
)
POLICY = Policy(
    version="v1",
    routes=RouteSet(["^/ai/", "^/healthz$"]),
    identity=(ApiKeySource(headers=("x-api-key",)),),
    cards={"pro": CARD, "invoiced": replace(CARD, plan="invoiced", billing=Billing.POSTPAID)},
    meters=(MeterRule(meter=INPUT, match=AI), MeterRule(meter=TOTAL, match=AI)),
    quotas={"monthly": QUOTA},
    estimates=(
        EstimateRule(match=AI, source=EstimateFrom.BODY, default_input=1_000, default_output=500),
    ),
    models={"gpt": ModelLimits(max_output=4_000, max_input=8_000)},
    free=(HEALTH,),
)
CUSTOMER = CustomerFacts(customer_id="cus_1", plan="pro", currency="USD", revision=1)
CREDITS = Rule(name="credits", template=RuleTemplate.NO_CREDITS)
UNPAID = Rule(name="unpaid", template=RuleTemplate.UNPAID_INVOICES)
FULL = Rule(name="full", template=RuleTemplate.QUOTA, quota="monthly")
NEARLY = Rule(
    name="nearly",
    template=RuleTemplate.QUOTA,
    quota="monthly",
    at_percent=80,
    warn={"x-used": Template("{{quota.used_percent}}")},
)


def request(path: str = "/ai/chat", method: str = "POST", **headers: str) -> AccessRequest:
    return AccessRequest(
        edge="test",
        gateway_id="gw",
        hold_id="0" * 40,
        method=method,
        path=path,
        headers={name.replace("_", "-"): (value,) for name, value in headers.items()},
        received_at=NOW,
        deadline=NOW,
    )


def with_rules(*rules: Rule, policy: Policy = POLICY) -> Policy:
    return replace(policy, rules=rules)


def plan_or_refusal(
    policy: Policy = POLICY,
    asked: AccessRequest | None = None,
    customer: CustomerFacts = CUSTOMER,
    facts: RequestFacts = RequestFacts(),  # noqa: B008  Frozen.
) -> CheckPlan | Refusal:
    asked = asked or request()
    return policy.plan(asked, policy.routes.match(asked.path), customer, facts, NOW)


def plan_of(*rules: Rule, facts: RequestFacts = RequestFacts(), **changes: object) -> CheckPlan:  # noqa: B008  Frozen.
    plan = plan_or_refusal(replace(with_rules(*rules), **changes), facts=facts)
    assert isinstance(plan, CheckPlan)
    return plan


def numbers(**changes: object) -> StoreNumbers:
    seen = StoreNumbers(
        instant_ms=to_epoch_ms(NOW),
        available_nano=1_000_000_000,
        standing=Standing.GOOD,
        quota_used={"monthly": 0},
    )
    return replace(seen, **changes)


def judged(plan: CheckPlan, **changes: object) -> Judgement:
    return judge(plan, numbers(**changes), CUSTOMER)


def test_a_path_that_no_pattern_matches_has_no_numbers() -> None:
    assert POLICY.routes.match("/other") == frozenset()
    assert RouteSet([]).match("/any") == frozenset()


def test_a_thousand_demanding_patterns_fit_into_one_set() -> None:
    routes = RouteSet([f"/x.{{0,20}}{number}y.*z" for number in range(1_000)])
    assert 7 in routes.match("/xab7yz")


def test_a_match_is_or_inside_a_list_and_and_across_kinds() -> None:
    match = Match(
        routes=frozenset({0, 1}),
        methods=frozenset({"POST", "PUT"}),
        headers=(("x-tier", re2.compile("^gold$")),),
    )
    assert match.accepts(request(x_tier="gold"), frozenset({1}))
    assert not match.accepts(request(x_tier="gold"), frozenset({2}))
    assert not match.accepts(request(x_tier="gold", method="GET"), frozenset({1}))
    assert not match.accepts(request(x_tier="golden"), frozenset({1}))
    assert not match.accepts(request(), frozenset({1}))
    assert Match().accepts(request(), frozenset())


@pytest.mark.parametrize(
    ("match", "accepted"),
    [
        (CustomerMatch(), True),
        (CustomerMatch(plans=frozenset({"pro"}), labels={"region": "eu"}), True),
        (CustomerMatch(plans=frozenset({"free"})), False),
        (CustomerMatch(labels={"region": "us"}), False),
        (CustomerMatch(ids=frozenset({"cus_2"})), False),
        (CustomerMatch(ids=frozenset({"cus_1"}), exclude=frozenset({"cus_1"})), False),
    ],
)
def test_customers_are_selected_and_exclusion_wins(match: CustomerMatch, *, accepted: bool) -> None:
    assert match.accepts(replace(CUSTOMER, labels={"region": "eu"})) is accepted


def test_free_and_unmatched_requests() -> None:
    health = request("/healthz", "GET")
    assert POLICY.is_free(health, POLICY.routes.match("/healthz"))
    assert not POLICY.is_free(request("/healthz"), POLICY.routes.match("/healthz"))
    open_policy = replace(POLICY, allow_unmatched=True)
    assert open_policy.passes_unmatched(request("/other"), frozenset())
    assert not open_policy.passes_unmatched(request(), frozenset({0}))
    assert not POLICY.passes_unmatched(request("/other"), frozenset())


def test_what_no_rule_and_no_price_covers_is_blocked() -> None:
    refusal = plan_or_refusal(asked=request("/other"))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.rule) == (DenyReason.BLOCKED, "unmatched")


def test_a_rule_that_names_the_route_covers_it() -> None:
    policy = with_rules(replace(UNPAID, match=HEALTH))
    covered = plan_or_refusal(policy, request("/healthz", "GET"))
    assert isinstance(covered, CheckPlan)
    assert covered.amount_nano == 0
    everywhere = plan_or_refusal(with_rules(UNPAID), request("/other"))
    assert isinstance(everywhere, Refusal)


def test_a_plan_outside_the_policy_is_not_entitled() -> None:
    refusal = plan_or_refusal(customer=replace(CUSTOMER, plan="gone"))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is DenyReason.NOT_ENTITLED


def test_a_model_without_a_price_is_refused() -> None:
    line = PriceLine(meter="input", price=PerUnit(amount_nano=1), models=("gpt",))
    policy = replace(POLICY, cards={"pro": replace(CARD, lines=(line,))})
    refusal = plan_or_refusal(policy, facts=RequestFacts(model="other"))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is DenyReason.UNKNOWN_MODEL
    assert isinstance(plan_or_refusal(policy, facts=RequestFacts(model="gpt")), CheckPlan)


def test_an_amount_beyond_any_balance_is_refused() -> None:
    line = PriceLine(meter="input", price=PerUnit(amount_nano=4 * 10**18))
    policy = replace(POLICY, cards={"pro": replace(CARD, lines=(line,))})
    refusal = plan_or_refusal(policy, facts=RequestFacts(input_bound=2, output_bound=2))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is DenyReason.INVALID_REQUEST


@pytest.mark.parametrize(
    ("facts", "quantities", "bound"),
    [
        (RequestFacts(), (1_000, 1_500), Bound.ESTIMATED),
        (RequestFacts(input_bound=10), (10, 510), Bound.ESTIMATED),
        (RequestFacts(input_bound=10, output_bound=20), (10, 30), Bound.PROVEN),
        (RequestFacts(model="gpt"), (8_000, 12_000), Bound.PROVEN),
        (RequestFacts(model="gpt", choices=3), (8_000, 20_000), Bound.PROVEN),
        (RequestFacts(unread=True), (8_000, 12_000), Bound.ESTIMATED),
        (RequestFacts(model="gpt", input_bound=10, output_bound=90_000), (10, 4_010), Bound.PROVEN),
    ],
)
def test_the_hold_covers_what_the_request_or_the_model_bounds(facts, quantities, bound) -> None:
    plan = plan_of(facts=facts)
    assert (plan.quantities["input"], plan.quantities["total"]) == quantities
    assert plan.amount_nano == quantities[0] * 500
    assert plan.bound is bound


def test_credit_is_required_where_rules_say_so_or_the_plan_burns_it() -> None:
    assert plan_of().credit_required
    assert plan_of(CREDITS).credit_required
    assert not plan_of(replace(CREDITS, mode=Mode.SHADOW)).credit_required
    assert plan_of(replace(CREDITS, mode=Mode.DRAFT)).credit_required
    assert plan_of(CREDITS, replace(CREDITS, name="b", mode=Mode.SHADOW)).credit_required
    invoiced = replace(CUSTOMER, plan="invoiced")
    plan = plan_or_refusal(customer=invoiced)
    assert isinstance(plan, CheckPlan)
    assert not plan.credit_required


def test_only_an_enforcing_rule_refuses_the_delinquent() -> None:
    assert plan_of(UNPAID).refuse_delinquent
    assert not plan_of(replace(UNPAID, mode=Mode.SHADOW)).refuse_delinquent
    assert not plan_of().refuse_delinquent


@pytest.mark.parametrize(
    ("rules", "quota_is_hard", "hard"),
    [
        ((FULL,), False, True),
        ((NEARLY,), False, False),
        ((NEARLY,), True, True),
        ((NEARLY, FULL), False, True),
        ((FULL, NEARLY), False, True),
        ((replace(FULL, mode=Mode.SHADOW),), True, False),
    ],
)
def test_a_quota_is_taken_once_and_hard_if_a_rule_or_itself_says_so(
    rules, quota_is_hard, hard
) -> None:
    plan = plan_of(*rules, quotas={"monthly": replace(QUOTA, hard=quota_is_hard)})
    (take,) = plan.quotas
    assert (take.quantity, take.hard) == (1_500, hard)
    assert take.line.field == f"q:monthly:{take.start_ms}"
    assert take.end_ms == to_epoch_ms(datetime(2026, 2, 1, tzinfo=UTC))


def test_a_quota_that_no_matching_rule_names_is_not_taken() -> None:
    assert plan_of().quotas == ()
    others = CustomerMatch(plans=frozenset({"free"}))
    assert plan_of(replace(FULL, customers=others)).quotas == ()
    assert plan_of(replace(FULL, mode=Mode.DRAFT)).quotas == ()


def test_a_store_failure_allows_only_if_every_enforcing_denial_says_so() -> None:
    lenient = replace(CREDITS, on_store_failure=OnStoreFailure.ALLOW)
    assert plan_of().on_store_failure is OnStoreFailure.DENY
    assert plan_of(lenient).on_store_failure is OnStoreFailure.ALLOW
    assert plan_of(lenient, UNPAID).on_store_failure is OnStoreFailure.DENY
    shadowed = replace(UNPAID, mode=Mode.SHADOW)
    assert plan_of(lenient, shadowed, NEARLY).on_store_failure is OnStoreFailure.ALLOW


def test_a_placed_hold_is_allowed() -> None:
    judgement = judged(plan_of(CREDITS, UNPAID, FULL))
    assert judgement.denial is None
    assert judgement.shadow_denials == ()


@pytest.mark.parametrize(
    ("seen", "rule", "reason"),
    [
        ({"failed_credit": True}, "credits", DenyReason.NO_AVAILABLE_CREDITS),
        (
            {"failed_standing": True, "standing": Standing.DELINQUENT},
            "unpaid",
            DenyReason.INVOICE_OVERDUE,
        ),
        ({"failed_quotas": frozenset({"monthly"})}, "full", DenyReason.QUOTA_EXCEEDED),
    ],
)
def test_the_rule_whose_demand_failed_denies(seen, rule, reason) -> None:
    denial = judged(plan_of(CREDITS, UNPAID, FULL), **seen).denial
    assert denial is not None
    assert (denial.rule, denial.reason) == (rule, reason)


def test_the_first_enforcing_denial_decides_and_all_headers_accumulate() -> None:
    first = replace(
        FULL,
        name="first",
        deny=DenyAnswer(status=402, headers={"x-who": Template("{{rule.name}}")}),
    )
    second = replace(
        CREDITS,
        deny=DenyAnswer(
            headers={"x-who": Template("second"), "x-left": Template("{{credits.available}}")}
        ),
    )
    judgement = judged(
        plan_of(first, second, NEARLY),
        failed_credit=True,
        failed_quotas=frozenset({"monthly"}),
        quota_used={"monthly": 9_000},
    )
    assert judgement.denial is not None
    assert (judgement.denial.rule, judgement.denial.answer.status) == ("first", 402)
    headers = {name: judgement.headers[name] for name in ("x-who", "x-left", "x-used")}
    assert headers == {"x-who": "first", "x-left": "1.00", "x-used": "90"}


def test_a_plans_own_guard_denies_where_no_rule_speaks() -> None:
    credit = judged(plan_of(), failed_credit=True).denial
    assert credit is not None
    assert (credit.rule, credit.reason) == ("prepaid-credit", DenyReason.NO_AVAILABLE_CREDITS)
    hard = plan_of(NEARLY, quotas={"monthly": replace(QUOTA, hard=True)})
    quota = judged(hard, failed_quotas=frozenset({"monthly"})).denial
    assert quota is not None
    assert (quota.rule, quota.reason) == ("quota:monthly", DenyReason.QUOTA_EXCEEDED)


def test_shadow_rules_are_told_and_deny_nothing() -> None:
    rules = [replace(rule, mode=Mode.SHADOW) for rule in (CREDITS, UNPAID, FULL)]
    judgement = judged(
        plan_of(*rules),
        available_nano=-1,
        standing=Standing.DELINQUENT,
        quota_used={"monthly": 10_001},
    )
    assert judgement.denial is None
    assert judgement.shadow_denials == ("credits", "unpaid", "full")


@pytest.mark.parametrize(("used", "warned"), [(7_999, False), (8_000, True), (10_000, True)])
def test_a_warning_begins_at_its_percentage(used: int, *, warned: bool) -> None:
    judgement = judged(plan_of(NEARLY), quota_used={"monthly": used})
    assert ("x-used" in judgement.headers) is warned


def test_quota_headers_tell_limit_remaining_and_reset() -> None:
    headers = judged(plan_of(FULL), quota_used={"monthly": 4_000}).headers
    assert headers == {
        "x-ratelimit-limit": "10000",
        "x-ratelimit-remaining": "6000",
        "x-ratelimit-reset": "30",
    }


def test_retry_after_is_told_only_where_waiting_helps() -> None:
    refused = {"failed_quotas": frozenset({"monthly"}), "quota_used": {"monthly": 9_900}}
    fits = judged(plan_of(FULL), **refused).denial
    assert fits is not None
    assert fits.retry_after_seconds == 30
    never = judged(
        plan_of(FULL, facts=RequestFacts(input_bound=10_001, output_bound=0)), **refused
    ).denial
    assert never is not None
    assert never.retry_after_seconds is None


def test_bodies_are_filled_at_any_depth() -> None:
    body = {"left": "{{credits.available}}", "list": ["{{customer.id}}", 1, None], "n": {"a": True}}
    rule = replace(CREDITS, deny=DenyAnswer(body=body))
    denial = judged(plan_of(rule), failed_credit=True).denial
    assert denial is not None
    assert denial.body == {"left": "1.00", "list": ["cus_1", 1, None], "n": {"a": True}}


def test_templates_take_defaults_and_refuse_unknown_variables() -> None:
    assert Template("{{ quota.used | none }}/{{quota.limit}}").render({}) == "none/"
    with pytest.raises(InvalidInput, match=r"'quota\.use' does not exist") as refusal:
        Template("{{quota.use}}")
    assert refusal.value.field == "quota.use"
