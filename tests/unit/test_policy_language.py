"""What the files of a policy say, as the domain has it: each template and each selection."""

from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from sidecar.domain.counters import IN_FLIGHT, MONEY, REQUESTS, TOKENS, CounterKind, Level, Rate
from sidecar.domain.decisions import Dialect
from sidecar.domain.errors import ConfigError
from sidecar.domain.periods import CalendarUnit, CalendarWindow
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Members, Mode, OnStoreFailure, Rule, Unidentified
from sidecar.domain.store_numbers import InvoiceDemand
from sidecar.domain.windows import AnchoredWindow, FixedWindow, RollingWindow
from sidecar.inbound.envoy.policy_routes import policy_routes
from sidecar.outbound.policy_files import load_policy

PLANS = """
plans:
  - {name: pro, billing: postpaid, currency: USD, features: [chat, images], prices: []}
  - {name: free, billing: postpaid, currency: USD, prices: []}
"""
ANCHOR = datetime(2026, 1, 31, tzinfo=UTC)


def policy_of(folder: Path, text: str) -> Policy:
    (folder / "policy.yaml").write_text(PLANS + text)
    return load_policy(folder).policy


def rule_of(folder: Path, text: str, more: str = "") -> Rule:
    (rule,) = policy_of(folder, f"{more}\nrules:\n  - {{name: r, {text}}}\n").rules
    return rule


def test_a_match_asks_for_every_part_of_a_request(tmp_path: Path) -> None:
    rule = rule_of(
        tmp_path,
        "template: block, match: {hosts: ['^api'], query: {v: '^2$'}, sources: [10.0.0.0/8, '::1'],"
        " body: {user.id: '^x'}, context: {tier: gold}, headers: {X-A: b}, methods: [GET]}",
    )
    (match,) = rule.match
    assert match.sources == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert [name for name, _ in match.body] == ["user.id"]
    assert [name for name, _ in match.headers] == ["x-a"]
    assert match.query[0][1].search("2")
    assert match.hosts[0].search("api.example.com")
    assert match.context[0][1].search("gold")


def test_a_list_of_matches_is_alternatives(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, "template: block, match: [{routes: ['^/a']}, {methods: [PUT]}]")
    assert [bool(match.routes) for match in rule.match] == [True, False]
    assert not rule.names_routes


def test_customers_users_and_members_are_selected(tmp_path: Path) -> None:
    rule = rule_of(
        tmp_path,
        "template: block, customers: {ids: [a], members: unlisted},"
        " users: {ids: [u], teams: [t], except: [w], members: listed}",
    )
    assert rule.customer_members is Members.UNLISTED
    assert rule.user_members is Members.LISTED
    assert rule.users is not None
    assert (rule.users.ids, rule.users.teams, rule.users.exclude) == ({"u"}, {"t"}, {"w"})


def test_members_keep_the_order_of_their_list_and_their_values(tmp_path: Path) -> None:
    (tmp_path / "members.yaml").write_text(
        "members: {customers: {cus_1: [b, {rule: a, values: {0: Pro, tier: x}}]}}\n"
    )
    listed = "customers: {members: listed}, warn: {headers: {x-t: '{{0}} {{values.tier}}'}}"
    policy = policy_of(
        tmp_path,
        f"rules:\n  - {{name: a, template: headers, {listed}}}\n"
        f"  - {{name: b, template: headers, {listed}}}\n",
    )
    (first, second) = policy.customer_members["cus_1"]
    assert (first.rule, second.rule) == ("b", "a")
    assert second.values == {"0": "Pro", "values.tier": "x"}


def test_a_member_in_two_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("members: {users: {u: [r]}}\n")
    (tmp_path / "b.yaml").write_text("members: {users: {u: [r]}}\n")
    with pytest.raises(ConfigError, match=r"b\.yaml:1:\d+: user 'u' stands twice; it is at .*a\.y"):
        rule_of(tmp_path, "template: block, users: {members: listed}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("template: block", Unidentified.APPLY),
        ("template: block, unidentified: only", Unidentified.ONLY),
        ("template: block, customers: {ids: [a]}", Unidentified.DENY),
        ("template: block, users: {ids: [a]}", Unidentified.SKIP),
        ("template: block-on-unpaid-invoices", Unidentified.DENY),
        ("template: block-on-unpaid-invoices, unidentified: skip", Unidentified.SKIP),
        ("template: rate-limit, limit: 1, per: 1s", Unidentified.DENY),
        ("template: rate-limit, limit: 1, per: 1s, each: key", Unidentified.SKIP),
    ],
)
def test_what_a_rule_means_for_whom_it_cannot_tell(tmp_path, text: str, expected) -> None:
    assert rule_of(tmp_path, text).unidentified is expected


def test_modes_and_wishes_have_longer_forms(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, "template: block, mode: {percent: 10}, on_store_failure: {stale: 90s}")
    assert (rule.mode, rule.percent) == (Mode.PERCENT, 10)
    assert (rule.on_store_failure, rule.stale_seconds) == (OnStoreFailure.STALE, 90)


def test_an_invoice_rule_says_when(tmp_path: Path) -> None:
    rule = rule_of(
        tmp_path,
        "template: block-on-unpaid-invoices, grace: 3d, minimum: '5.00', except_disputed: true",
    )
    assert rule.invoices == InvoiceDemand(
        grace_ms=3 * 86_400_000, minimum_nano=5_000_000_000, except_disputed=True
    )


def test_a_cap_counts_money_under_its_own_name(tmp_path: Path) -> None:
    text = "template: spend-cap, limit: '2.50', currency: USD, window: {calendar: month}"
    rule = rule_of(tmp_path, text)
    assert rule.counter is not None
    assert (rule.counter.name, rule.counter.measure, rule.counter.limit) == ("r", MONEY, 2500000000)
    assert rule.counter.kind is CounterKind.WINDOW
    assert (rule.hard, rule.currency) == (True, "USD")
    warning = rule_of(tmp_path, f"{text}, at: 80%, warn: {{headers: {{x-a: b}}}}")
    assert (warning.hard, warning.denies) == (False, False)


def test_rates_and_flights_are_counters(tmp_path: Path) -> None:
    rate = rule_of(tmp_path, "template: rate-limit, unit: tokens, limit: 9, per: 1m, each: user")
    assert rate.counter is not None
    assert (rate.counter.kind, rate.counter.measure) == (CounterKind.RATE, TOKENS)
    assert (rate.counter.rate, rate.counter.level) == (Rate(per_ms=60_000, burst=9), Level.USER)
    burst = rule_of(tmp_path, "template: rate-limit, limit: 9, per: 1m, burst: 30")
    assert burst.counter is not None
    assert (burst.counter.rate, burst.counter.measure) == (Rate(per_ms=60_000, burst=30), REQUESTS)
    flight = rule_of(tmp_path, "template: in-flight-limit, limit: 5, each: team")
    assert flight.counter is not None
    assert (flight.counter.kind, flight.counter.measure) == (CounterKind.IN_FLIGHT, IN_FLIGHT)


@pytest.mark.parametrize(
    ("window", "expected", "kind"),
    [
        ("{calendar: week}", CalendarWindow(unit=CalendarUnit.WEEK), CounterKind.WINDOW),
        ("{rolling: 24h}", RollingWindow(seconds=86_400, slices=24), CounterKind.ROLLING),
        ("{rolling: 1h, slices: 6}", RollingWindow(seconds=3_600, slices=6), CounterKind.ROLLING),
        ("{fixed: 5h}", FixedWindow(seconds=18_000), CounterKind.WINDOW),
        (
            "{fixed: 5h, anchor: '2026-01-31T00:00:00Z'}",
            FixedWindow(seconds=18_000, anchor=ANCHOR),
            CounterKind.WINDOW,
        ),
        (
            "{anchor: '2026-01-31T01:00:00+01:00', every: 3, unit: month, tz: Europe/Berlin}",
            AnchoredWindow(anchor=ANCHOR, every=3, unit=CalendarUnit.MONTH, tz="Europe/Berlin"),
            CounterKind.WINDOW,
        ),
    ],
)
def test_a_quota_has_any_window(tmp_path, window: str, expected, kind: CounterKind) -> None:
    policy = policy_of(
        tmp_path,
        "quotas: [{name: q, unit: requests, limit: 5, each: key, thresholds: [50%, 100%],"
        f" window: {window}}}]\nrules: [{{name: r, template: quota, quota: q}}]\n",
    )
    quota = policy.quotas["q"]
    assert (quota.counter.window, quota.counter.kind) == (expected, kind)
    assert (quota.counter.measure, quota.counter.level) == (REQUESTS, Level.KEY)
    assert quota.thresholds == (50, 100)
    (rule,) = policy.rules
    assert rule.counter is quota.counter
    assert rule.unidentified is Unidentified.SKIP


def test_a_quota_of_money_is_in_a_currency(tmp_path: Path) -> None:
    policy = policy_of(
        tmp_path,
        "quotas: [{name: q, unit: money, currency: USD, limit: '5.00', window: {calendar: day}}]\n"
        "rules: [{name: r, template: quota, quota: q}]\n",
    )
    assert policy.quotas["q"].counter.limit == 5_000_000_000
    assert policy.rules[0].currency == "USD"


def test_plans_entitle_to_features_and_rules_ask_for_them(tmp_path: Path) -> None:
    policy = policy_of(
        tmp_path, "rules: [{name: r, template: require-plan, plans: [pro], features: [chat]}]\n"
    )
    assert policy.features == {"pro": {"chat", "images"}, "free": frozenset()}
    assert (policy.rules[0].plans, policy.rules[0].features) == ({"pro"}, {"chat"})


def test_a_denial_has_any_body_or_none_or_a_dialect(tmp_path: Path) -> None:
    def deny(text: str):
        return rule_of(tmp_path, f"template: block, deny: {text}").deny

    assert deny("{status: 203, body: 'no, {{customer.id}}'}").body == "no, {{customer.id}}"
    assert deny("{body: [1, 0.5, null]}").body == [1, 0.5, None]
    assert (deny("{body: null}").body, deny("{body: null}").empty) == (None, True)
    assert (deny("{status: 403}").body, deny("{status: 403}").empty) == (None, False)
    assert deny("{dialect: anthropic}").dialect is Dialect.ANTHROPIC


def test_two_braces_can_be_said(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, """template: block, deny: {body: '{{"{{"}}x{{"}}"}}'}""")
    assert rule.deny.body == '{{"{{"}}x{{"}}"}}'


def test_a_rule_knows_its_place_and_its_condition(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, """template: block, when: 'customer.labels.trial == "yes"'""")
    assert rule.place == f"{tmp_path}/policy.yaml:7"
    assert rule.when is not None
    assert rule.when.evaluate({"customer": {"labels": {"trial": "yes"}}}) is True


def test_errors_are_written_in_the_format_of_their_route(tmp_path: Path) -> None:
    policy = policy_of(
        tmp_path, "errors: [{match: {routes: ['^/v1/']}, dialect: openai}, {dialect: problem}]\n"
    )
    assert [entry.dialect for entry in policy.dialects] == [Dialect.OPENAI, Dialect.PROBLEM]
    assert policy.dialects[1].match == ()


def sends_body(folder: Path, text: str) -> dict[str, bool]:
    return {route.name: route.priced for route in policy_routes(policy_of(folder, text))}


@pytest.mark.parametrize(
    "rule",
    [
        "match: {routes: ['^/x$'], body: {user: '^a$'}}",
        "match: {routes: ['^/x$']}, when: 'request.body.user == \"a\"'",
        "match: {routes: ['^/x$']}, when: 'request.fields.user == \"a\"'",
        "match: {routes: ['^/x$']}, when: 'request.bytes > 10'",
        "match: {routes: ['^/x$']}, when: 'request.model == \"gpt\"'",
    ],
)
def test_a_route_whose_rule_reads_the_body_gets_it(tmp_path: Path, rule: str) -> None:
    text = f"rules: [{{name: r, template: block, {rule}}}]\n"
    assert sends_body(tmp_path, text) == {"body-1": True, "other": False}


def test_bodies_are_sent_where_meters_watch_and_where_any_request_is_meant(tmp_path: Path) -> None:
    meter = "meters: [{name: m, match: [{routes: ['^/a$']}, {routes: ['^/b$']}], value: requests}]"
    assert sends_body(tmp_path, meter) == {"priced-1": True, "priced-2": True, "other": False}
    rule = "rules: [{name: r, template: block, match: {body: {user: a}}}]"
    assert sends_body(tmp_path, f"{meter}\n{rule}") == {
        "priced-1": True,
        "priced-2": True,
        "other": True,
    }
    draft = "rules: [{name: r, template: block, mode: draft, match: {body: {user: a}}}]"
    assert sends_body(tmp_path, draft) == {"other": False}
    plain = (
        "rules: [{name: r, template: block, match: {routes: ['^/x$']}, when: 'user.id == \"\"'}]"
    )
    assert sends_body(tmp_path, plain) == {"other": False}
