import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.commands import app
from sidecar.domain.customers import NOBODY
from sidecar.domain.errors import ConfigError
from sidecar.domain.expressions import (
    RULE_VARIABLES,
    ExpressionFailed,
    ResultKind,
    compile_expression,
)
from sidecar.domain.planning import plan_unidentified
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.value_texts import value_text
from sidecar.domain.variables import request_variables
from sidecar.outbound.moesif.findings import CONSTRUCTS
from sidecar.outbound.moesif.importing import import_rules
from sidecar.outbound.moesif.lookahead import without_lookahead
from sidecar.outbound.moesif.patterns import PatternInvalid, PatternUnsupported, translate
from sidecar.outbound.moesif.writing import file_texts, report_text, write_import
from sidecar.outbound.policy_files.loader import load_policy

NOW = datetime(2026, 1, 15, tzinfo=UTC)


def rule(**more):
    base = {"_id": "r", "name": "A rule", "type": "regex", "block": True}
    return {**base, "response": {"status": 429, "body": "no"}, **more}


def conditioned(path, value):
    return rule(regex_config=[{"conditions": [{"path": path, "value": value}]}])


def codes(*rules, **config):
    return {finding.code for finding in import_rules(rules, config).findings}


def entries(*ids, **values):
    return {"u": [{"rules": one, "values": values} for one in ids]}


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        (r"^\/ai\/chat$", "^/ai/chat$"),
        ("a{,2}", r"a\{,2\}"),
        ("[]", r"[^\x00-\x{10FFFF}]"),
        ("[^]", r"[\x00-\x{10FFFF}]"),
        (r"[\w-.]", r"[\w\-.]"),
        ("[[a]", r"[\[a]"),
        (r"\u0041\x42\0", r"\x{0041}\x{42}\x{0}"),
        (r"\A\_", "A_"),
        ("(?<name>a)", "(a)"),
        ("a+?b{2,3}", "a+?b{2,3}"),
    ],
)
def test_a_pattern_of_javascript_becomes_one_of_re2(source, pattern):
    assert translate(source) == pattern


@pytest.mark.parametrize("source", ["(", ")", "*", "a**", "^*", "[a", "(?i)a", "[z-a]", "a{2,1}"])
def test_a_pattern_that_javascript_refuses_is_refused(source):
    with pytest.raises(PatternInvalid):
        translate(source)


@pytest.mark.parametrize("source", ["(?=a)", "(?<!a)b", r"(a)\1", "a{2000}", "a" * 1_001])
def test_a_pattern_that_re2_cannot_do_is_refused(source):
    with pytest.raises(PatternUnsupported):
        translate(source)


def test_look_ahead_at_a_fixed_place_becomes_several_patterns():
    assert without_lookahead("^/(?!a|b)(?=c).*") == [
        (True, "^/.*"),
        (False, "^/(?:a|b)"),
        (True, "^/(?:c)"),
    ]
    for source in ("a(?!b)", "^a+(?!b)", "^(?!a)b|c", "^(?!a)*b", "^(?!a", "^ab"):
        assert without_lookahead(source) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e21, "1e+21"),
        (1e16, "10000000000000000"),
        (1.5e-7, "1.5e-7"),
        (0.000001, "0.000001"),
        (-12.5, "-12.5"),
        (12345678901234567890, "12345678901234567000"),
        (10**400, "Infinity"),
        (-0.0, "0"),
        ([1, None, [2, {}]], "1,,2,[object Object]"),
    ],
)
def test_the_text_of_a_value_is_javascripts(value, text):
    assert value_text(value) == text


def _variables(tmp_path, body):
    policy = _load(tmp_path, rule())
    request = AccessRequest(
        edge="t",
        gateway_id="t",
        hold_id="0" * 40,
        method="POST",
        path="/",
        headers={},
        received_at=NOW,
        deadline=NOW,
        body=body,
    )
    return policy, policy.view(request, "/"), request_variables


def test_fields_of_a_body_are_texts_and_unknown_where_it_is_unreadable(tmp_path):
    text = 'request.fields["n"].matches("^4$")'
    when = compile_expression(text, variables=RULE_VARIABLES, result=ResultKind.BOOLEAN)
    for body, answer in ((b'{"n": 4}', True), (b"{}", False), (b"[4]", False)):
        _, view, variables = _variables(tmp_path, body)
        assert when.evaluate(variables(view, NOBODY, RequestFacts(), NOW)) is answer
    _, view, variables = _variables(tmp_path, b'{"n": 4, "n": 5}')
    with pytest.raises(ExpressionFailed):
        when.evaluate(variables(view, NOBODY, RequestFacts(), NOW))


def test_a_body_that_says_one_thing_twice_is_not_spared_a_blocking_rule(tmp_path):
    request_body = b'{"model": "cheap", "model": "gpt-4"}'
    write_import(import_rules([conditioned("request.body.model", "gpt")], {}), tmp_path)
    policy = load_policy(tmp_path).policy
    _, view, _ = _variables(tmp_path / "other", request_body)
    view = policy.view(view.request, "/")
    plan = plan_unidentified(policy, view, NOW)
    assert [matched.blocks for matched in plan.rules] == [True]


def _load(directory, *rules, **config):
    write_import(import_rules(rules, config), directory)
    return load_policy(directory).policy


@pytest.mark.parametrize(
    ("code", "rules", "config"),
    [
        ("pattern-case", [conditioned("request.verb", "GET")], {}),
        ("pattern-lua", [conditioned("request.route", "/ai-chat")], {}),
        ("pattern-part", [conditioned("request.route", "/ai")], {}),
        ("pattern-invalid", [conditioned("request.route", "(?i)/ai")], {}),
        ("pattern-unsupported", [conditioned("request.route", r"(a)\1")], {}),
        ("pattern-rewritten", [conditioned("request.route", r"\/ai")], {}),
        ("pattern-value", [conditioned("request.route", 5)], {}),
        ("route-query", [conditioned("request.route", r"\?x=1")], {}),
        ("route-query", [conditioned("request.route", "api.example.com")], {}),
        ("route-query", [conditioned("request.route", "^/ai")], {}),
        ("ip-path", [conditioned("request.ip", "10")], {}),
        ("uri-path", [conditioned("request.uri", "x")], {}),
        ("header-path", [conditioned("request.headers.a", "x")], {}),
        ("body-path", [conditioned("request.body.a", "x")], {}),
        ("unknown-path", [conditioned("request.nosuch", "x")], {}),
        ("unknown-path", [conditioned("request.headers.a b", "x")], {}),
        ("response-path", [conditioned("response.status", "2")], {}),
        ("missing-value", [conditioned("request.body.a", ".*")], {}),
        ("empty-conditions", [rule(regex_config=[{"conditions": []}])], {}),
        ("or-groups", [rule(regex_config=[{"conditions": []}, {"conditions": []}])], {}),
        ("several-rules", [rule(), rule(_id="s")], {}),
        (
            "several-rules",
            [rule(type="user"), rule(_id="s", type="user")],
            {"user_rules": entries("r", "s")},
        ),
        ("headers-only", [rule(block=False)], {}),
        ("not-matching", [rule(type="user", applied_to="not_matching")], {}),
        ("unidentified", [rule(type="user", applied_to_unidentified=True)], {}),
        ("kong-company", [rule(type="company")], {}),
        ("unknown-rule", [rule()], {"user_rules": entries("x")}),
        ("unknown-rule", [rule(type="company")], {"user_rules": entries("r")}),
        (
            "cohort-order",
            [{**conditioned("request.verb", "G"), "type": "user"}, rule(_id="s", type="user")],
            {"user_rules": entries("r", "s")},
        ),
        ("repeated-entry", [rule(type="user")], {"user_rules": entries("r", "r")}),
        ("repeated-id", [rule(type="user"), rule(type="user")], {}),
        ("array-template", [rule(variables=[{"name": "0"}], response={"body": ["{{0}}"]})], {}),
        (
            "number-value",
            [rule(type="user", variables=[{"name": "0"}], response={"body": "{{0}}"})],
            {"user_rules": entries("r", **{"0": 5})},
        ),
        (
            "empty-value",
            [rule(type="user", variables=[{"name": "0"}], response={"body": "{{0}}"})],
            {"user_rules": entries("r", **{"0": 0})},
        ),
        (
            "missing-template-value",
            [rule(type="user", variables=[{"name": "0"}], response={"body": "{{0}}"})],
            {"user_rules": entries("r")},
        ),
        ("template-default", [rule(variables=[{"name": "0"}], response={"body": "{{0|x}}"})], {}),
        (
            "header-template",
            [rule(variables=[{"name": "0"}], response={"headers": {"a": "{{0}}"}})],
            {},
        ),
        ("content-type", [rule(response={"headers": {"Content-Type": "text/plain"}})], {}),
        ("status", [rule(response={"status": "429"})], {}),
        ("state", [rule(state=1)], {}),
        ("priority", [rule(priority=1)], {}),
        ("plans", [rule(plans=[{"plan_id": "p"}])], {}),
        ("empty-id", [rule(type="user")], {"user_rules": {"": [{"rules": "r"}]}}),
        ("rule-type", [rule(type="graphql")], {}),
        ("never", [conditioned("request.nosuch", "x")], {}),
        ("configuration", [], {"block_bot_traffic": True}),
        ("not-imported", ["x"], {}),
        ("not-imported", [rule(_id=None)], {}),
        ("not-imported", [rule(regex_config="x")], {}),
        ("not-imported", [rule(regex_config=[{"conditions": ["x"]}])], {}),
        ("not-imported", [rule(variables={})], {}),
        ("not-imported", [rule(response="x")], {}),
        ("not-imported", [rule(response={"headers": "x"})], {}),
        ("not-imported", [rule(response={"headers": {"a b": "x"}})], {}),
        ("not-imported", [rule(response={"headers": {"connection": "x"}})], {}),
        ("not-imported", [rule(response={"headers": {"a": "\u00e9"}})], {}),
        ("not-imported", [rule(response={"headers": {"a": None}})], {}),
        ("not-imported", [rule(response={"status": 204})], {}),
        ("not-imported", [rule(response={"status": 99})], {}),
        ("not-imported", [rule(response={"status": 400, "body": "x" * 20_000})], {}),
        ("not-imported", [rule(response={"status": 400, "body": 10**16})], {}),
        ("not-imported", [rule(response={"status": 400, "body": [1e22]})], {}),
        ("not-imported", [rule(response={"status": 400, "body": {"a": 1e-7}})], {}),
        ("not-imported", [rule(type="user")], {"user_rules": []}),
        ("not-imported", [rule(type="user")], {"user_rules": {"u": "r"}}),
        ("not-imported", [rule(type="user")], {"user_rules": {"u": ["r"]}}),
        ("not-imported", [rule(type="user")], {"user_rules": {"u" * 201: [{"rules": "r"}]}}),
    ],
)
def test_a_construct_that_agents_differ_on_is_told(code, rules, config, tmp_path):
    imported = import_rules(rules, config)
    assert code in {finding.code for finding in imported.findings}
    write_import(imported, tmp_path)
    load_policy(tmp_path)


def test_a_plain_rule_needs_no_warning_but_those_of_its_pattern():
    assert codes(rule(state=2)) == set()
    assert codes(conditioned("request.verb", "^GET$")) == {"pattern-case"}


def test_every_construct_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "moesif.md").read_text()
    assert [code for code in CONSTRUCTS if f"`{code}`" not in text] == []


def test_the_files_are_the_same_each_time_and_say_where_they_come_from(tmp_path):
    rules = [rule(type="user", name="Quota\nover"), rule(_id="s", type="company")]
    config = {"user_rules": {"b": [{"rules": "r"}], "a": [{"rules": "r"}]}}
    first, second = (import_rules(rules, config) for _ in range(2))
    texts = file_texts(first)
    assert texts == file_texts(second)
    assert report_text(first) == report_text(second)
    assert "# Quota over (_id r)" in texts["moesif-20-rules.yaml"]
    assert all(text.startswith("# yaml-language-server: $schema=") for text in texts.values())
    members = texts["moesif-30-members-001.yaml"]
    assert members.index("    a:") < members.index("    b:")


def test_an_import_replaces_the_one_before(tmp_path):
    old = tmp_path / "moesif-30-members-007.yaml"
    old.parent.mkdir(exist_ok=True)
    old.write_text("members: {users: {u: [gone]}}\n")
    _load(tmp_path, rule())
    assert not old.exists()


def test_many_members_are_spread_over_files(tmp_path):
    config = {"user_rules": {f"u{n}": [{"rules": "r"}] for n in range(5_001)}}
    policy = _load(tmp_path, rule(type="user"), **config)
    assert len(list(tmp_path.glob("moesif-30-members-*.yaml"))) == 2
    assert len(policy.user_members) == 5_001


def _run(*arguments):
    return CliRunner().invoke(app, ["rules", *map(str, arguments)])


def _file(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_command_writes_a_policy_that_loads(tmp_path):
    rules = _file(tmp_path / "rules.json", [rule(type="user")])
    config = _file(tmp_path / "config.json", {"user_rules": {"u": [{"rules": "r"}]}})
    result = _run("import", "moesif", rules, config, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 rules in 3 files" in result.output
    assert (tmp_path / "out" / "IMPORT-WARNINGS.md").exists()


def test_the_command_exits_with_1_where_something_was_lost(tmp_path):
    rules = _file(tmp_path / "rules.json", [rule(response={"status": 204})])
    result = _run("import", "moesif", rules, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "NOT IMPORTED: rule r (A rule)" in result.output
    assert "## Not imported" in (tmp_path / "out" / "IMPORT-WARNINGS.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "found an object; allowed: a list of rules"),
        ("[1,", "rules.json:1:4: found expecting value"),
        ("[NaN]", "found NaN"),
        ('["\\ud800"]', "surrogate"),
        ("[" * 5_000 + "]" * 5_000, "nested"),
        ("[" * 150 + "]" * 150, "nested deeper than 100"),
    ],
)
def test_input_that_cannot_be_read_is_named(text, message, tmp_path):
    rules = _file(tmp_path / "rules.json", text)
    result = _run("import", "moesif", rules, "-o", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_a_file_that_is_none_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent.json"):
        result = _run("conformance", path)
        assert isinstance(result.exception, ConfigError)
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    assert isinstance(_run("conformance", tmp_path / "bytes.json").exception, ConfigError)


def test_conformance_prints_totals_and_exits_by_them(tmp_path):
    event = {"verb": "GET", "uri": "http://h/", "headers": {}, "body": None, "ip": None}
    case = {"name": "a", "rules": [], "config": {}, "event": event}
    good = {**case, "expected": {"blocked": False, "headers": {}}}
    bad = {**case, "name": "b", "expected": {"blocked": True}}
    result = _run("conformance", _file(tmp_path / "good.json", {"cases": [good]}))
    assert (result.exit_code, result.output) == (0, "passed a\n1 of 1 cases passed\n")
    result = _run("conformance", _file(tmp_path / "both.json", {"cases": [good, bad]}), "--json")
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert {key: report[key] for key in ("total", "passed", "failed")} == {
        "total": 2,
        "passed": 1,
        "failed": 1,
    }
    assert [case["passed"] for case in report["cases"]] == [True, False]
    result = _run("conformance", _file(tmp_path / "bad.json", {"cases": 1}))
    assert "found a number; allowed: an object with a list of `cases`" in str(result.exception)
