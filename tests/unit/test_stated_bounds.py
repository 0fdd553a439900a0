"""Bounds from headers: what they are worth, by whose word they are, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.policy_parts import AI, NOW, POLICY, plan_or_refusal, request, view_of
from fixtures.use_cases import UseCases
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.policies import explainer_of, run_tests
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import Allow, Deny, DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound
from sidecar.domain.planning import CheckPlan, Refusal
from sidecar.domain.policy import Policy
from sidecar.domain.policy_reads import reads_of
from sidecar.domain.recorded_view import Unrecorded, rebuild_facts, rebuild_view
from sidecar.domain.recording import make_record
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.rules import EstimateFrom, EstimateRule, StatedBound, TokenSide
from sidecar.domain.stated_bounds import read_stated
from sidecar.outbound.policy_files.loader import LoadedPolicy, load_policy
from sidecar.services.explaining import Question
from sidecar.services.given_numbers import GivenNumbers
from sidecar.services.linting.findings import Finding, Linted, Severity
from sidecar.services.linting.run import lint_policy
from sidecar.services.rule_coverage import cover

STATED = (
    StatedBound(side=TokenSide.INPUT, header="x-input-tokens", most=50_000),
    StatedBound(side=TokenSide.OUTPUT, header="x-max-tokens", most=9_000),
)
ESTIMATE = EstimateRule(
    match=(AI,),
    source=EstimateFrom.HEADER,
    default_input=1_000,
    default_output=500,
    stated=STATED,
)
TRUSTED = replace(ESTIMATE, trusted=True)


def policy_with(rule: EstimateRule) -> Policy:
    return replace(POLICY, estimates=(rule,))


def asked(**headers: str) -> AccessRequest:
    return request("/ai/chat", **headers)


def planned(rule: EstimateRule, sent: AccessRequest) -> CheckPlan:
    plan = plan_or_refusal(policy_with(rule), sent)
    assert isinstance(plan, CheckPlan), plan
    return plan


@pytest.mark.parametrize(
    ("rule", "headers", "quantities", "bound"),
    [
        (TRUSTED, {"x_input_tokens": "7", "x_max_tokens": "20"}, (7, 27), Bound.PROVEN),
        (TRUSTED, {"x_input_tokens": "0", "x_max_tokens": "0"}, (0, 0), Bound.PROVEN),
        (
            TRUSTED,
            {"x_input_tokens": "50000", "x_max_tokens": "0009"},
            (50_000, 50_009),
            Bound.PROVEN,
        ),
        (TRUSTED, {"x_input_tokens": "7"}, (7, 507), Bound.ESTIMATED),
        (TRUSTED, {}, (1_000, 1_500), Bound.ESTIMATED),
        (ESTIMATE, {"x_input_tokens": "7", "x_max_tokens": "0"}, (1_000, 1_500), Bound.ESTIMATED),
        (ESTIMATE, {"x_input_tokens": "4000"}, (4_000, 4_500), Bound.ESTIMATED),
        (ESTIMATE, {}, (1_000, 1_500), Bound.ESTIMATED),
    ],
)
def test_a_stated_bound_counts_as_far_as_its_word_goes(
    rule: EstimateRule, headers: dict[str, str], quantities: tuple[int, int], bound: Bound
):
    plan = planned(rule, asked(**headers))
    assert (plan.quantities["input"], plan.quantities["total"]) == quantities
    assert (plan.bound, plan.amount_nano) == (bound, quantities[0] * 500)


WRONG = [
    "",
    "-1",
    "+5",
    "1.0",
    "1e3",
    " 7",
    "7 ",
    "0x10",
    "7,8",
    "seven",
    "\u0667",
    "50001",
    "9" * 400,
]


@pytest.mark.parametrize("rule", [TRUSTED, ESTIMATE])
@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_count_is_refused_and_never_free(rule: EstimateRule, value: str):
    refusal = plan_or_refusal(policy_with(rule), asked(x_input_tokens=value))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.rule) == (DenyReason.INVALID_REQUEST, "estimate")
    assert "x-input-tokens" in refusal.detail


def test_a_header_that_stands_twice_is_refused():
    twice = replace(asked(), headers={"x-max-tokens": ("5", "5")})
    refusal = plan_or_refusal(policy_with(TRUSTED), twice)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is DenyReason.INVALID_REQUEST


@given(st.text(max_size=30), st.booleans())
def test_no_header_holds_less_than_the_default_unless_it_is_trusted(value: str, trusted):
    view = view_of(replace(asked(), headers={"x-input-tokens": (value,)}))
    try:
        bounded = read_stated(replace(ESTIMATE, trusted=trusted), view, RequestFacts())
    except InvalidInput:
        return
    assert bounded.rule is not None
    assert value.isdigit()
    assert bounded.rule.default_input >= ESTIMATE.default_input
    assert bounded.facts.input_bound == (int(value) if trusted else None)


async def test_a_check_answers_400_for_a_bad_header_and_holds_nothing():
    cases = UseCases()
    (estimate,) = cases.policy.estimates
    stated = replace(estimate, source=EstimateFrom.HEADER, stated=STATED[:1], trusted=True)
    cases.policies.policy = replace(cases.policy, estimates=(stated,))
    await cases.customer()
    bad = cases.request()
    bad = replace(bad, headers={**bad.headers, "x-input-tokens": ("-5",)})
    denied = await cases.checks.check(bad)
    assert isinstance(denied, Deny)
    assert (denied.reason, cases.account.held) == (DenyReason.INVALID_REQUEST, 0)
    allowed = await cases.checks.check(
        replace(bad, headers={**bad.headers, "x-input-tokens": ("30",)})
    )
    assert isinstance(allowed, Allow)
    assert allowed.hold is not None
    terms = (await cases.balances.read_hold("cus_1", bad.hold_id)).terms
    assert terms.estimate["input-tokens"] == 30
    assert cases.account.held == terms.amount_nano > 0


YAML = """
identity: [{api_key: {headers: [x-api-key]}}]
estimates:
  - match: {routes: ['^/batch/']}
    from: header
    headers: {input: X-Input-Tokens, output: x-max-tokens}
    max: {input: 20}
    trusted: TRUST
    default: {input: 10, output: 10}
meters:
  - {name: input, match: {routes: ['^/batch/']}, value: usage.input}
plans:
  - name: paid
    billing: prepaid
    currency: USD
    prices: [{meter: input, model: per_unit, amount: "1", per: 1000}]
rules:
  - name: broke
    template: block-when-no-available-credits
    match: {routes: ['^/batch/']}
    tests:
      - given: {customer: {plan: paid}, credits: {available: "0.005"}}
        request: {method: POST, path: /batch/1, headers: {x-input-tokens: '5', x-max-tokens: '0'}}
        expect: {allow: FEW}
      - given: {customer: {plan: paid}, credits: {available: "0.005"}}
        request: {method: POST, path: /batch/1, headers: {x-input-tokens: '6'}}
        expect: {allow: false, code: no_available_credits}
      - given: {customer: {plan: paid}}
        request: {method: POST, path: /batch/1, headers: {x-input-tokens: '21'}}
        expect: {allow: false, code: invalid_request, rule: estimate, status: 400}
"""


def loaded(folder: Path, *, trusted: bool) -> LoadedPolicy:
    word = str(trusted).lower()
    (folder / "policy.yaml").write_text(YAML.replace("TRUST", word).replace("FEW", word))
    return load_policy(folder)


def lint(policy: LoadedPolicy) -> list[Finding]:
    coverage = cover(policy.policy, explainer_of(policy.policy), policy.tests)
    return lint_policy(Linted(policy=policy.policy, places=policy.places, coverage=coverage))


@pytest.mark.parametrize("trusted", [True, False])
def test_tests_beside_rules_send_the_headers(trusted, tmp_path: Path):
    policy = loaded(tmp_path, trusted=trusted)
    (estimate,) = policy.policy.estimates
    assert (estimate.source, estimate.trusted) == (EstimateFrom.HEADER, trusted)
    assert [(one.header, one.most) for one in estimate.stated] == [
        ("x-input-tokens", 20),
        ("x-max-tokens", 1_000_000_000),
    ]
    assert [one.differences for one in run_tests(policy)] == [(), (), ()]


@pytest.mark.parametrize(
    ("trusted", "severity", "words"),
    [(True, Severity.NOTE, "is believed"), (False, Severity.WARNING, "not proven")],
)
def test_lint_says_who_can_set_the_header(trusted, severity: Severity, words: str, tmp_path: Path):
    found = lint(loaded(tmp_path, trusted=trusted))
    (stated,) = [one for one in found if one.code == "stated-bound"]
    assert (stated.severity, words in stated.message) == (severity, True)
    assert stated.place.endswith("policy.yaml:4")
    (overshoot,) = [one for one in found if one.code == "overshoot"]
    assert overshoot.severity is severity


@pytest.mark.parametrize(
    ("trusted", "words", "overshoot"),
    [
        (True, "proven: no response can exceed it", "none"),
        (
            False,
            "estimated: headers that the caller can set prove nothing",
            (
                "0.012 USD is held; no bound, since nothing limits the input tokens of a model "
                "that the policy does not know"
            ),
        ),
    ],
)
def test_an_explanation_states_the_overshoot(trusted, words: str, overshoot: str, tmp_path: Path):
    policy = loaded(tmp_path, trusted=trusted).policy
    sent = request("/batch/1", x_input_tokens="12", x_max_tokens="3")
    customer = CustomerFacts(customer_id="c", plan="paid", currency="USD", revision=1)
    question = Question(request=sent, at=NOW, customer=customer)
    hold = explainer_of(policy).explain_given(question, GivenNumbers(at=NOW)).hold
    assert hold is not None
    assert (hold.bound, hold.overshoot, hold.amount_nano) == (words, overshoot, 12_000_000)


def test_the_counts_are_recorded_though_their_names_speak_of_tokens():
    policy = policy_with(TRUSTED)
    reads = reads_of(policy)
    customer = CustomerFacts(customer_id="c", plan="pro", currency="USD", revision=1)

    def kept(value: str) -> AccessRequest:
        sent = asked(x_input_tokens=value)
        record = make_record(
            reads,
            policy,
            sent,
            Deny(
                reason=DenyReason.BLOCKED,
                rule="r",
                decision_id="d",
                policy_version="v",
                detail="",
            ),
            0,
            view=view_of(sent, policy),
            customer=customer,
            facts=RequestFacts(),
        )
        view = rebuild_view(record, policy, reads)
        return read_stated(TRUSTED, view, rebuild_facts(record, policy, view)).facts

    assert kept("12") == RequestFacts(input_bound=12)
    with pytest.raises(Unrecorded):
        kept("sk-not-a-count")
