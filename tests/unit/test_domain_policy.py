"""A check's plan, and the judgement of the store's numbers."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import re2
from fixtures.policy_parts import (
    CARD,
    CREDITS,
    CUSTOMER,
    FULL,
    HEALTH,
    NEARLY,
    POLICY,
    UNPAID,
    judged,
    plan_of,
    plan_or_refusal,
    request,
    view_of,
    with_rules,
)

from sidecar.domain.customers import CustomerMatch
from sidecar.domain.decisions import DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound
from sidecar.domain.matching import Match, RequestView, RouteSet
from sidecar.domain.periods import to_epoch_ms
from sidecar.domain.planning import CheckPlan, Refusal
from sidecar.domain.pricing import PerUnit, PriceLine
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.rules import DenyAnswer, Mode, OnStoreFailure
from sidecar.domain.standing import Standing
from sidecar.domain.templates import Template


def test_a_path_that_no_pattern_matches_has_no_numbers() -> None:
    assert POLICY.routes.match("/other") == frozenset()
    assert RouteSet([]).match("/any") == frozenset()


def test_a_thousand_demanding_patterns_fit_into_a_policy() -> None:
    routes = RouteSet([f"/x.{{0,20}}{number}y.*z" for number in range(1_000)])
    assert 7 in routes.match("/xab7yz")


def test_patterns_that_are_too_complex_together_are_refused() -> None:
    with pytest.raises(InvalidInput, match="too complex together"):
        RouteSet([rf"^/{number}/\pL{{1,50}}/[^/]+" for number in range(100)])


@pytest.mark.parametrize("path", ["/a/7/b", "/a/1234/c", "/a/1299/b/c", "/b", "/a/77/b?x"])
def test_groups_of_patterns_find_what_each_pattern_finds(path: str) -> None:
    patterns = [f"^/a/{number}/[b-c]+" for number in range(1_300)] + ["/b", "c$", "/a/.*7"]
    routes = RouteSet(patterns)
    assert len(routes.groups) > 2
    assert routes.patterns == tuple(patterns)
    assert routes.match(path) == {
        number for number, pattern in enumerate(patterns) if re2.search(pattern, path)
    }


def test_a_match_is_or_inside_a_list_and_and_across_kinds() -> None:
    match = Match(
        routes=frozenset({0, 1}),
        methods=frozenset({"POST", "PUT"}),
        headers=(("x-tier", re2.compile("^gold$")),),
    )

    def accepts(asked: AccessRequest, *routes: int) -> bool:
        return match.accepts(RequestView(asked, asked.path, frozenset(routes)))

    assert accepts(request(x_tier="gold"), 1)
    assert not accepts(request(x_tier="gold"), 2)
    assert not accepts(request(x_tier="gold", method="GET"), 1)
    assert not accepts(request(x_tier="golden"), 1)
    assert not accepts(request(), 1)
    assert Match().accepts(view_of(request()))


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
    assert POLICY.is_free(view_of(request("/healthz", "GET")))
    assert not POLICY.is_free(view_of(request("/healthz")))
    open_policy = replace(POLICY, allow_unmatched=True)
    assert open_policy.passes_unmatched(view_of(request("/other")))
    assert not open_policy.passes_unmatched(view_of(request()))
    assert not POLICY.passes_unmatched(view_of(request("/other")))


def test_what_no_rule_and_no_price_covers_is_blocked() -> None:
    refusal = plan_or_refusal(asked=request("/other"))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.rule) == (DenyReason.BLOCKED, "unmatched")


def test_a_rule_that_names_the_route_covers_it() -> None:
    policy = with_rules(replace(UNPAID, match=(HEALTH,)))
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
    assert [demand.hard for demand in plan_of(UNPAID).invoices] == [True]
    shadowed = replace(UNPAID, mode=Mode.SHADOW)
    assert [demand.hard for demand in plan_of(shadowed).invoices] == [False]
    assert plan_of().invoices == ()


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
    plan = plan_of(*(replace(rule, hard=quota_is_hard) for rule in rules))
    (take,) = plan.counters
    assert (take.quantity, take.hard) == (1_500, hard)
    assert take.line.field == f"q:monthly:{take.start_ms}"
    assert take.end_ms == to_epoch_ms(datetime(2026, 2, 1, tzinfo=UTC))


def test_a_quota_that_no_matching_rule_names_is_not_taken() -> None:
    assert plan_of().counters == ()
    others = CustomerMatch(plans=frozenset({"free"}))
    assert plan_of(replace(FULL, customers=others)).counters == ()
    assert plan_of(replace(FULL, mode=Mode.DRAFT)).counters == ()


def test_a_store_failure_allows_only_if_every_enforcing_denial_says_so() -> None:
    lenient = replace(CREDITS, on_store_failure=OnStoreFailure.ALLOW)
    assert plan_of().on_store_failure == (OnStoreFailure.DENY, 0)
    assert plan_of(lenient).on_store_failure == (OnStoreFailure.ALLOW, 0)
    assert plan_of(lenient, UNPAID).on_store_failure == (OnStoreFailure.DENY, 0)
    shadowed = replace(UNPAID, mode=Mode.SHADOW)
    assert plan_of(lenient, shadowed, NEARLY).on_store_failure == (OnStoreFailure.ALLOW, 0)


def test_a_placed_hold_is_allowed() -> None:
    judgement = judged(plan_of(CREDITS, UNPAID, FULL))
    assert judgement.denial is None
    assert judgement.shadow_denials == ()


@pytest.mark.parametrize(
    ("seen", "rule", "reason"),
    [
        ({"failed_credit": True, "denied": True}, "credits", DenyReason.NO_AVAILABLE_CREDITS),
        (
            {"standing": Standing.DELINQUENT, "denied": True},
            "unpaid",
            DenyReason.INVOICE_OVERDUE,
        ),
        ({"over": frozenset({"monthly"}), "denied": True}, "full", DenyReason.QUOTA_EXCEEDED),
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
        over=frozenset({"monthly"}),
        used={"monthly": 9_000},
        denied=True,
    )
    assert judgement.denial is not None
    assert (judgement.denial.rule, judgement.denial.answer.status) == ("first", 402)
    headers = {name: judgement.headers[name] for name in ("x-who", "x-left", "x-used")}
    assert headers == {"x-who": "first", "x-left": "1.00", "x-used": "90"}


def test_a_plans_own_guard_denies_where_no_rule_speaks() -> None:
    credit = judged(plan_of(), failed_credit=True, denied=True).denial
    assert credit is not None
    assert (credit.rule, credit.reason) == ("prepaid-credit", DenyReason.NO_AVAILABLE_CREDITS)
    hard = plan_of(replace(NEARLY, hard=True))
    quota = judged(hard, over=frozenset({"monthly"}), denied=True).denial
    assert quota is not None
    assert (quota.rule, quota.reason) == ("quota:monthly", DenyReason.QUOTA_EXCEEDED)


def test_shadow_rules_are_told_and_deny_nothing() -> None:
    rules = [replace(rule, mode=Mode.SHADOW) for rule in (CREDITS, UNPAID, FULL)]
    judgement = judged(
        plan_of(*rules),
        available_nano=-1,
        standing=Standing.DELINQUENT,
        used={"monthly": 10_001},
        over=frozenset({"monthly"}),
    )
    assert judgement.denial is None
    assert judgement.shadow_denials == ("credits", "unpaid", "full")


@pytest.mark.parametrize(("used", "warned"), [(7_999, False), (8_000, True), (10_000, True)])
def test_a_warning_begins_at_its_percentage(used: int, *, warned: bool) -> None:
    judgement = judged(plan_of(NEARLY), used={"monthly": used})
    assert ("x-used" in judgement.headers) is warned


def test_quota_headers_tell_limit_remaining_and_reset() -> None:
    headers = judged(plan_of(FULL), used={"monthly": 4_000}).headers
    assert headers == {
        "x-ratelimit-limit": "10000",
        "x-ratelimit-remaining": "6000",
        "x-ratelimit-reset": "30",
    }


def test_retry_after_is_told_only_where_waiting_helps() -> None:
    refused = {"over": frozenset({"monthly"}), "used": {"monthly": 9_900}, "denied": True}
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
    denial = judged(plan_of(rule), failed_credit=True, denied=True).denial
    assert denial is not None
    assert denial.body == {"left": "1.00", "list": ["cus_1", 1, None], "n": {"a": True}}


def test_templates_take_defaults_and_refuse_unknown_variables() -> None:
    assert Template("{{ quota.used | none }}/{{quota.limit}}").render({}) == "none/"
    with pytest.raises(InvalidInput, match=r"'quota\.use' does not exist") as refusal:
        Template("{{quota.use}}")
    assert refusal.value.field == "quota.use"
