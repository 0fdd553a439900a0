"""The runner of the tests that stand beside rules: it tells a wrong expectation."""

from pathlib import Path

import pytest

from sidecar.domain.decisions import DenyReason
from sidecar.outbound.policy_files import load_policy
from sidecar.services.rule_tests import run_rule_tests

POLICY = """
identity: [{api_key: {headers: [x-api-key]}}]
unmatched: allow
free: [{routes: ['^/free$']}]
estimates: [{default: {input: 100, output: 100}}]
meters: [{name: tokens, match: {routes: ['^/ai$']}, value: usage.total}]
quotas: [{name: daily, meter: tokens, limit: 1000, window: {calendar: day}}]
plans:
  - name: pro
    billing: prepaid
    currency: USD
    prices: [{meter: tokens, model: per_unit, amount: "0.01"}]
rules:
  - {name: unpaid, template: block-on-unpaid-invoices, customers: {ids: [cus_late]}}
  - name: full
    template: quota
    quota: daily
    deny: {status: 418, headers: {x-q: '{{quota.used}}'}}
  - name: credits
    template: block-when-no-available-credits
    match: {headers: {x-tier: '^paid$'}}
    tests:
      - given: {customer: {plan: pro%(given)s}%(more)s}
        request: {%(request)s}
        expect: {%(expect)s}
"""
LINE = POLICY[: POLICY.index("- given")].count("\n") + 1


def differences(
    folder: Path,
    expect: str,
    *,
    given: str = "",
    more: str = "",
    request: str = "path: /ai",
    statuses: dict[DenyReason, int] | None = None,
) -> tuple[str, ...]:
    parts = {"given": given, "more": more, "request": request, "expect": expect}
    (folder / "policy.yaml").write_text(POLICY % parts)
    loaded = load_policy(folder)
    (result,) = run_rule_tests(loaded.policy, loaded.tests, statuses=statuses)
    assert result.passed is (result.differences == ())
    assert result.test.rule == "credits"
    assert result.test.place == f"{folder}/policy.yaml:{LINE}"
    return result.differences


@pytest.mark.parametrize(
    ("given", "more", "request_", "expect"),
    [
        ("", "", "path: /ai", "allow: true"),
        ("", "", "path: /free", "allow: true"),
        ("", "", "path: /elsewhere", "allow: true"),
        ("", "", "path: /a%2fi", "allow: false, code: invalid_request, rule: path"),
        ("", ", credits: {available: '2.00'}", "path: /ai", "allow: true"),
        (
            "",
            ", credits: {available: '1.99'}",
            "path: /ai",
            "allow: false, code: no_available_credits, rule: prepaid-credit",
        ),
        (
            "",
            ", credits: {available: '1.99'}",
            "path: /ai, headers: {X-Tier: paid}",
            "allow: false, rule: credits",
        ),
        ("", ", credits: {available: '0.03'}", "path: /ai, input: 1, output: 2", "allow: true"),
        (
            ", id: cus_late",
            ", standing: delinquent",
            "path: /ai",
            "allow: false, rule: unpaid",
        ),
        ("", ", standing: delinquent", "path: /ai", "allow: true"),
        (
            "",
            ", quotas: {daily: {used: 801}}",
            "path: /ai",
            "allow: false, rule: full, status: 418, headers: {x-q: '801'}",
        ),
        ("", ", quotas: {daily: {used: 800}}", "path: /ai", "allow: true, headers: {x-q: null}"),
    ],
)
def test_what_a_test_describes_comes_about(tmp_path, given, more, request_, expect) -> None:
    assert differences(tmp_path, expect, given=given, more=more, request=request_) == ()


def test_a_wrong_expectation_is_told_in_full(tmp_path: Path) -> None:
    assert differences(
        tmp_path,
        "allow: false, code: blocked, rule: full, status: 403, headers: {x-q: '1'}",
        more=", credits: {available: '0.00'}",
    ) == (
        "expected code blocked, got no_available_credits",
        "expected rule full, got prepaid-credit",
        "expected status 403, got None",
        "expected header x-q '1', got absent",
    )
    assert differences(tmp_path, "allow: true", more=", credits: {available: '0.00'}") == (
        "expected allow, got deny by prepaid-credit (no_available_credits)",
    )
    assert differences(tmp_path, "allow: false") == ("expected deny, got allow",)


def test_the_edges_statuses_stand_in_where_the_rule_sets_none(tmp_path: Path) -> None:
    expect = "allow: false, status: 402"
    more = ", credits: {available: '0.00'}"
    statuses = {DenyReason.NO_AVAILABLE_CREDITS: 402}
    assert differences(tmp_path, expect, more=more, statuses=statuses) == ()
