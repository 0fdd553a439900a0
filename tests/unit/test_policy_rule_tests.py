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


LIMITS = """
identity: [{api_key: {headers: [x-api-key]}}]
estimates: [{default: {input: 100, output: 100}}]
meters: [{name: tokens, match: {routes: ['^/ai$']}, value: usage.total}]
plans:
  - name: pro
    billing: postpaid
    currency: USD
    prices: [{meter: tokens, model: per_unit, amount: "0.01"}]
quotas:
  - {name: team-tokens, unit: tokens, limit: 1000, window: {rolling: 24h}, each: team}
  - {name: soft, unit: requests, limit: 5, window: {calendar: day}, hard: false, each: key}
rules:
  - name: no-debug
    template: block
    match: {routes: ['^/debug'], sources: [10.0.0.0/8], body: {user.id: '^x'}}
    deny: {status: 404, body: {error: gone, who: '{{customer.id|nobody}}'}}
  - name: quiet
    template: block
    match: {hosts: ['^old[.]'], query: {v: '^1$'}, context: {tier: gold}}
    deny: {body: null}
  - name: credit-watch
    template: block-when-no-available-credits
    mode: shadow
  - {name: late, template: block-on-unpaid-invoices, grace: 3d, minimum: "5", except_disputed: true}
  - {name: cap, template: spend-cap, limit: "10", currency: USD, window: {calendar: month}}
  - {name: rps, template: rate-limit, limit: 10, per: 20s, burst: 20, each: key}
  - {name: parallel, template: in-flight-limit, limit: 2, each: user}
  - {name: team, template: quota, quota: team-tokens}
  - name: near
    template: quota
    quota: soft
    at: 80%%
    warn: {headers: {x-near: '{{limit.used}}'}}
  - name: large
    template: block
    match: {routes: ['^/ai$']}
    when: request.bytes > 1000 || (has(request.body.n) && request.body.n == 7)
    tests:
      - given: {%s}
        request: {%s}
        expect: {%s}
"""
PRO = "customer: {plan: pro}"


@pytest.mark.parametrize(
    ("given", "request_", "expect"),
    [
        (PRO, "path: /ai", "allow: true, shadow: [], over: []"),
        # Each kind of limit.
        (
            f"{PRO}, limits: {{cap: {{used: '8.01'}}}}, at: '2026-01-31T23:59:50Z'",
            "path: /ai",
            "allow: false, rule: cap, code: spend_cap_exceeded, retry_after: 10",
        ),
        (f"{PRO}, limits: {{cap: {{used: '8.00'}}}}", "path: /ai", "allow: true"),
        (
            f"{PRO}, limits: {{rps: {{used: 20}}}}",
            "path: /ai",
            "allow: false, rule: rps, code: rate_limited, retry_after: 2",
        ),
        (f"{PRO}, limits: {{rps: {{used: 19}}}}", "path: /ai", "allow: true"),
        (
            "customer: {plan: pro, user: u}, limits: {parallel: {used: 2}}",
            "path: /ai",
            "allow: false, rule: parallel, code: in_flight_limit, retry_after: null",
        ),
        (f"{PRO}, limits: {{parallel: {{used: 2}}}}", "path: /ai", "allow: true"),
        (
            "customer: {plan: pro, team: t}, quotas: {team-tokens: {used: 801}}",
            "path: /ai",
            "allow: false, rule: team, code: quota_exceeded, retry_after: 90000",
        ),
        (
            f"{PRO}, quotas: {{soft: {{used: 5}}}}",
            "path: /ai",
            "allow: true, over: [soft], headers: {x-near: '5', x-limit-exceeded: soft}",
        ),
        # Credit in shadow, invoices.
        (
            f"{PRO}, credits: {{available: '1.00'}}",
            "path: /ai",
            "allow: true, shadow: [credit-watch]",
        ),
        (
            f"{PRO}, invoices: {{overdue_days: 3, amount: '5.00'}}",
            "path: /ai",
            "allow: false, rule: late, code: invoice_overdue",
        ),
        (f"{PRO}, invoices: {{overdue_days: 2, amount: '5.00'}}", "path: /ai", "allow: true"),
        (f"{PRO}, invoices: {{overdue_days: 9, amount: '4.99'}}", "path: /ai", "allow: true"),
        (f"{PRO}, invoices: {{overdue_days: 9, disputed: true}}", "path: /ai", "allow: true"),
        # Parts of the request, with and without a caller.
        (
            "identified: false",
            "path: /debug, source_ip: 10.1.2.3, body: {user: {id: x1}}",
            "allow: false, rule: no-debug, status: 404, body: {error: gone, who: nobody}",
        ),
        (
            f"{PRO}",
            "path: /debug, source_ip: 10.1.2.3, body: {user: {id: x1}}",
            "allow: false, body: {error: gone, who: cus_test}",
        ),
        ("identified: false", "path: /ai", "allow: false, code: unidentified"),
        (
            PRO,
            "path: '/ai?v=1', host: 'old.example:443', context: {tier: gold}",
            "allow: false, rule: quiet, body: null",
        ),
        # Conditions.
        (PRO, "path: /ai, bytes: 1001", "allow: false, rule: large"),
        (PRO, "path: /ai, bytes: 1000", "allow: true"),
        (PRO, "path: /ai, body: {n: 7}", "allow: false, rule: large"),
    ],
)
def test_every_kind_of_rule_can_be_tested(tmp_path, given, request_, expect) -> None:
    (tmp_path / "policy.yaml").write_text(LIMITS % (given, request_, expect))
    loaded = load_policy(tmp_path)
    (result,) = run_rule_tests(loaded.policy, loaded.tests)
    assert result.differences == ()


def test_what_differs_of_bodies_and_lists_is_told(tmp_path: Path) -> None:
    expect = "allow: false, body: {a: 1}, shadow: [late], over: [soft], retry_after: 5"
    (tmp_path / "policy.yaml").write_text(LIMITS % (PRO, "path: /ai, body: {n: 7}", expect))
    loaded = load_policy(tmp_path)
    (result,) = run_rule_tests(loaded.policy, loaded.tests)
    assert result.differences == (
        'expected body {"a": 1}, got the edge\'s own',
        "expected shadow late, got none",
        "expected over soft, got none",
        "expected retry_after 5, got None",
    )
