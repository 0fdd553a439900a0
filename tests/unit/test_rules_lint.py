"""Each finding of lint: a policy that has exactly it, and one that only nearly has."""

from pathlib import Path

import pytest
from fixtures.linting import ABOUT_TESTS, BASE, codes, findings

from sidecar.cli.policies import explainer_of
from sidecar.outbound.policy_files.loader import load_policy
from sidecar.services.linting.findings import Linted, SeenRequest, Severity
from sidecar.services.linting.patterns import covers_pattern, sample_path, shape_of
from sidecar.services.linting.routes import never_matches
from sidecar.services.linting.run import fails, lint_policy
from sidecar.services.rule_coverage import cover

BLOCK = "rules: [{name: first, template: block, match: {routes: ['^/ai/']}}, "
QUOTAS = """quotas:
  - {name: daily, unit: requests, limit: 10, window: {calendar: day}}
"""
EURO = """
  - name: euro
    billing: postpaid
    currency: EUR
    prices: [{meter: input, models: [gpt], model: per_unit, amount: "0.50", per: 1000000}]
"""
CAPS = "\n".join(
    f"  - {{name: cap{n}, template: rate-limit, limit: 1, per: 1s}}" for n in range(17)
)
CASES = {
    "unreachable-rule: a block before it": (
        (
            f"{BLOCK}{{name: second, template: require-plan, plans: [paid], "
            "match: {routes: ['^/ai/chat$']}, unidentified: skip}]"
        ),
        (
            f"{BLOCK}{{name: second, template: require-plan, plans: [paid], "
            "match: {routes: ['^/other']}, unidentified: skip}]"
        ),
    ),
    "unreachable-rule: the same condition over fewer customers": (
        (
            "rules: [{name: a, template: block-when-no-available-credits}, "
            "{name: b, template: block-when-no-available-credits, customers: {plans: [paid]}}]"
        ),
        (
            "rules: [{name: a, template: block-when-no-available-credits, "
            "customers: {plans: [paid]}}, {name: b, template: block-when-no-available-credits}]"
        ),
    ),
    "unreachable-rule: a tighter count of the same": (
        (
            f"{QUOTAS}rules: [{{name: a, template: in-flight-limit, limit: 5}}, "
            "{name: b, template: in-flight-limit, limit: 9}, "
            "{name: c, template: quota, quota: daily}]"
        ),
        (
            f"{QUOTAS}rules: [{{name: a, template: in-flight-limit, limit: 9}}, "
            "{name: b, template: in-flight-limit, limit: 5}, "
            "{name: c, template: quota, quota: daily}]"
        ),
    ),
    "unreachable-rule: no grace beside a later one": (
        (
            "rules: [{name: a, template: block-on-unpaid-invoices, grace: 1d}, "
            "{name: b, template: block-on-unpaid-invoices, grace: 2d}]"
        ),
        (
            "rules: [{name: a, template: block-on-unpaid-invoices, grace: 2d}, "
            "{name: b, template: block-on-unpaid-invoices, grace: 1d}]"
        ),
    ),
    "unreachable-rule: a free route": (
        "rules: [{name: a, template: block, match: {routes: ['^/healthz$']}}]",
        "rules: [{name: a, template: block, match: {routes: ['^/healthz']}}]",
    ),
    "empty-selection: everybody is excepted": (
        "rules: [{name: a, template: block, customers: {ids: [c1], except: [c1, c2]}}]",
        "rules: [{name: a, template: block, customers: {ids: [c1, c3], except: [c1, c2]}}]",
    ),
    "empty-selection: nobody lists it": (
        "rules: [{name: a, template: block, customers: {members: listed}}]",
        (
            "members: {customers: {c1: [a]}}\n"
            "rules: [{name: a, template: block, customers: {members: listed}}]"
        ),
    ),
    "never-denies: each plan has it": (
        "rules: [{name: a, template: require-plan, features: [chat], customers: {plans: [paid]}}]",
        "rules: [{name: a, template: require-plan, features: [chat]}]",
    ),
    "shadowed-header: a lower threshold first": (
        (
            f"{QUOTAS}rules: [{{name: a, template: quota, quota: daily, at: 80%, "
            "warn: {headers: {x-w: a}}}, {name: b, template: quota, quota: daily, at: 95%, "
            "warn: {headers: {x-w: b}}}]"
        ),
        (
            f"{QUOTAS}rules: [{{name: a, template: quota, quota: daily, at: 95%, "
            "warn: {headers: {x-w: a}}}, {name: b, template: quota, quota: daily, at: 80%, "
            "warn: {headers: {x-w: b}}}]"
        ),
    ),
    "pattern-never-matches: a query": (
        r"rules: [{name: a, template: block, match: {routes: ['^/v1\?debug=1$']}}]",
        r"rules: [{name: a, template: block, match: {routes: ['^/v1$'], query: {debug: '1'}}}]",
    ),
    "pattern-never-matches: a host in capitals": (
        r"rules: [{name: a, template: block, match: {hosts: ['^API\.example$']}}]",
        r"rules: [{name: a, template: block, match: {hosts: ['^api\.example$']}}]",
    ),
    "trailing-question-mark: an optional last letter": (
        "rules: [{name: a, template: block, match: {routes: ['^/v1/chat?']}}]",
        "rules: [{name: a, template: block, match: {routes: ['^/v1/chat/?$']}}]",
    ),
    "unanchored-route: the middle of a priced path": (
        "rules: [{name: a, template: block, match: {routes: ['i/']}}]",
        "rules: [{name: a, template: block, match: {routes: ['^/i/']}}]",
    ),
    "host-dot: any character": (
        "rules: [{name: a, template: block, match: {hosts: ['^api.example$']}}]",
        r"rules: [{name: a, template: block, match: {hosts: ['^api\.example$']}}]",
    ),
    "client-header-guard: a header decides": (
        "rules: [{name: a, template: block, match: {headers: {x-beta: '^no$'}}}]",
        "rules: [{name: a, template: block, match: {context: {beta: '^no$'}}}]",
    ),
    "client-header-guard: a condition reads one": (
        'rules: [{name: a, template: block, when: \'request.headers["x-beta"] == "no"\'}]',
        (
            "rules: [{name: a, template: headers, warn: {headers: {x-a: b}}, "
            'when: \'request.headers["x-beta"] == "no"\'}]'
        ),
    ),
    "success-status: clients take it for success": (
        "rules: [{name: a, template: block, deny: {status: 203}}]",
        "rules: [{name: a, template: block, deny: {status: 451}}]",
    ),
    "body-limit: a body condition": (
        "rules: [{name: a, template: block, match: {body: {model: '^gpt'}}}]",
        "rules: [{name: a, template: block, match: {query: {model: '^gpt'}}}]",
    ),
    "level-without-identity: no source names a team": (
        "rules: [{name: a, template: rate-limit, limit: 1, per: 1s, each: team}]",
        "rules: [{name: a, template: rate-limit, limit: 1, per: 1s, each: user}]",
    ),
    "allow-without-store: on a prepaid plan": (
        "rules: [{name: a, template: block-when-no-available-credits, on_store_failure: allow}]",
        (
            "rules: [{name: a, template: block-when-no-available-credits, on_store_failure: allow, "
            "customers: {plans: [invoiced]}}]"
        ),
    ),
    "draft-rule: ignored": (
        "rules: [{name: a, template: block, mode: draft}]",
        "rules: [{name: a, template: block, mode: shadow}]",
    ),
    "too-many-counters: of one request": (
        f"rules:\n{CAPS}",
        f"rules:\n{CAPS}".replace("per: 1s}", "per: 1s, match: {routes: ['^/b']}}", 1).replace(
            "per: 1s}", "per: 1s, match: {routes: ['^/c']}}", 1
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_finding_is_found_and_its_near_miss_is_not(case: str, tmp_path: Path):
    code = case.partition(":")[0]
    mistaken, right = CASES[case]
    found = [one for one in findings(tmp_path, mistaken) if one.code not in ABOUT_TESTS]
    assert {one.code for one in found} == {code}
    assert all(one.place and one.message and one.mend for one in found)
    file, line = found[0].place.rsplit(":", 1)
    assert Path(file).parent == tmp_path
    assert int(line) > 0
    assert code not in codes(findings(tmp_path, right))


PLANS = {
    "unpriced-model": (
        ("models: {gpt: ", "models: {other: {max_input: 1}, gpt: "),
        Severity.WARNING,
    ),
    "unlisted-model": (("models: [gpt]", "models: [gpt, new]"), Severity.NOTE),
    "meter-without-estimate": (
        ("match: {routes: ['^/ai/']}, from", "match: {routes: ['^/b/']}, from"),
        Severity.WARNING,
    ),
    "overshoot": (
        ("from: body, default: {input: 10,", "from: none, default: {input: 1,"),
        Severity.WARNING,
    ),
    "free-priced-route": (("['^/healthz$']", "['^/']"), Severity.WARNING),
}


@pytest.mark.parametrize("code", PLANS)
def test_prices_and_estimates_that_do_not_hold_together(code: str, tmp_path: Path):
    (old, new), severity = PLANS[code]
    assert BASE.count(old) == 1
    found = findings(tmp_path, "", BASE.replace(old, new))
    assert severity in {one.severity for one in found if one.code == code}
    assert code not in codes(findings(tmp_path, ""))


def test_the_base_of_these_tests_has_nothing_to_find(tmp_path: Path):
    assert findings(tmp_path, "") == []


def test_what_ships_has_no_error_and_no_warning():
    loaded = load_policy(Path(__file__).parents[2] / "config" / "policy")
    coverage = cover(loaded.policy, explainer_of(loaded.policy), loaded.tests)
    found = lint_policy(Linted(policy=loaded.policy, places=loaded.places, coverage=coverage))
    assert not fails(found, strict=True)


def test_an_overshoot_states_its_bound(tmp_path: Path):
    base = BASE.replace("from: body, default: {input: 10,", "from: none, default: {input: 1,")
    found = [one for one in findings(tmp_path, "", base) if one.code == "overshoot"]
    assert [one.message for one in found] == [
        (
            "on plan 'invoiced', each request is held by its default: 0.0000005 USD is held, "
            "at most 0.000005 can be used: 0.0000045 beyond the hold"
        )
    ]


def test_a_cap_of_one_currency_bounds_no_plan_of_another(tmp_path: Path):
    cap = (
        "rules: [{name: a, template: spend-cap, limit: '5', currency: USD, window: {calendar: day}"
    )
    assert codes(findings(tmp_path, f"{cap}}}]", BASE + EURO)) == ["currency-mix"]
    other = cap.replace("rules: [", ", ").replace("name: a", "name: b").replace("USD", "EUR")
    assert codes(findings(tmp_path, f"{cap}}}{other}}}]", BASE + EURO)) == []
    minimum = "rules: [{name: a, template: block-on-unpaid-invoices, minimum: '5.00'}]"
    assert codes(findings(tmp_path, minimum, BASE + EURO)) == ["currency-mix"]
    assert codes(findings(tmp_path, minimum)) == []


def test_routes_are_compared_with_recorded_traffic(tmp_path: Path):
    rules = "rules: [{name: a, template: block, match: {routes: ['^/old$', '^/new$']}}]"
    traffic = [
        SeenRequest(method="GET", path="/x/../new?a=b"),
        SeenRequest(method="GET", path="/ai/chat", count=4),
        SeenRequest(method="GET", path="/healthz"),
        SeenRequest(method="GET", path="/a%2fb"),
    ]
    found = findings(tmp_path, rules, traffic=traffic)
    assert [one.message for one in found if one.code == "route-without-traffic"] == [
        "pattern '^/old$' matches none of 7 recorded requests"
    ]
    assert "route-without-traffic" not in codes(findings(tmp_path, rules))


def test_a_rule_that_no_test_has_seen_speak_is_found(tmp_path: Path):
    test = (
        "tests: [{given: {customer: {plan: invoiced}, quotas: {daily: {used: %d}}}, "
        "request: {method: GET, path: /ai/a}, expect: {allow: %s}}]"
    )
    rule = QUOTAS + "rules: [{name: a, template: quota, quota: daily, %s}]"
    base = BASE.replace("models: [gpt], ", "")
    missed = findings(tmp_path, rule % test % (9, "true"), base)
    assert [one.code for one in missed if one.code in ABOUT_TESTS] == [
        "limit-not-reached",
        "missing-test",
    ]
    seen = findings(tmp_path, rule % test % (10, "false"), base)
    assert [one.code for one in seen if one.code in ABOUT_TESTS] == []
    wrong = findings(tmp_path, rule % test % (10, "true"), base)
    assert [one.code for one in wrong if one.severity is Severity.ERROR] == ["failing-test"]


def test_a_rule_whose_headers_still_show_is_a_warning(tmp_path: Path):
    found = findings(
        tmp_path,
        f"{BLOCK}{{name: second, template: require-plan, plans: [paid], unidentified: skip, "
        "match: {routes: ['^/ai/chat$']}, deny: {headers: {x-why: plan}}}]",
    )
    about = [one for one in found if one.code == "unreachable-rule"]
    assert [(one.rule, one.severity) for one in about] == [("second", Severity.WARNING)]


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        (r"^/a\?b", "query"),
        ("^/a//b", "slash"),
        ("/caf%c3%a9", "%C3"),
        ("/%41", "'A'"),
        ("/a%2Fb", "refused"),
        ("^ai/", "no slash"),
        ("/a/../b", None),
        (r"/a/\.\./b", "normalisation"),
        ("^/caf%C3%A9$", None),
        ("(/a//b)?", None),
        ("^/a|^b", None),
        ("^/x[?]", "query"),
        ("^/a?", None),
    ],
)
def test_patterns_that_no_normalised_path_has(pattern: str, word: str | None):
    why = never_matches(pattern)
    assert why is None if word is None else why is not None and word in why[0]


@pytest.mark.parametrize(
    ("outer", "inner", "covers"),
    [
        ("^/ai/", "^/ai/chat$", True),
        ("^/ai/", "^/ai/.*", True),
        ("^/ai/", "/ai/chat", False),
        ("/ai/", "^/v1/ai/chat", True),
        ("^/ai/$", "^/ai/chat$", False),
        ("^/ai/[a-z]+$", "^/ai/chat$", True),
        ("^/ai/[a-z]+$", "^/ai/chat", False),
        ("^/ab", "^/abc?", True),
        ("^/abc", "^/abc?", False),
        ("^/a", "^/b|^/a", False),
        ("^/(?:a|b)", "^/(?:a|b)", True),
        (r"^/v1\.0", "^/v1.0", False),
        ("^/v1.0$", r"^/v1\.0$", True),
    ],
)
def test_patterns_that_cover_others(outer: str, inner: str, *, covers: bool):
    assert covers_pattern(outer, inner) is covers


def test_the_shape_of_a_pattern_and_a_path_that_it_has():
    assert shape_of("^/a/[0-9]+/b$").runs == ("/a/", "/b")
    assert not shape_of("(?i)/a").plain
    assert sample_path("^/a/[a-z]+$") == "/a/x"
    assert sample_path("/a") is None
    assert sample_path("^/a$") == "/a"
