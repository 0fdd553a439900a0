"""Decisions of imported rules: the published cases, and combinations that they leave out."""

import json
from pathlib import Path

import pytest
from fixtures.moesif_cases import CASES, OUT, U, rule, said, user, users
from fixtures.moesif_reference import govern

from sidecar.inbound.denials import word_denial
from sidecar.outbound.moesif.conformance import read_cases, run_cases

DATA = Path(__file__).parent.parent / "data" / "moesif" / "governance_cases.json"


def _case(rules, config, event):
    base = {"verb": "GET", "uri": "http://h.example/x", "headers": {}, "body": None}
    event = {**base, "ip": "10.0.0.9", "user_id": None, "company_id": None, **event}
    config = {"user_rules": {}, "company_rules": {}, **config}
    return {"name": "case", "rules": rules, "config": config, "event": event}


@pytest.mark.parametrize("case", read_cases(DATA), ids=lambda case: case["name"].replace(" ", "-"))
def test_published_cases_pass(case):
    (result,) = run_cases([case], word_denial)
    assert result.passed, result.differences


@pytest.mark.parametrize(
    ("rules", "config", "event", "blocked_by"),
    [case[1:] for case in CASES],
    ids=[case[0].replace(" ", "-") for case in CASES],
)
def test_combinations_follow_the_algorithm(rules, config, event, blocked_by):
    case = _case(rules, config, event)
    expected = govern(rules, case["config"], case["event"])
    (result,) = run_cases([{**case, "expected": expected}], word_denial)
    assert result.passed, result.differences
    assert result.actual.get("blocked_by") == blocked_by


def test_a_missing_status_is_the_edges_own():
    case = _case([rule("a", response={"body": "x"})], {}, {})
    expected = {"blocked": True, "status": None, "headers": {}, "body": "x"}
    (result,) = run_cases([{**case, "expected": expected}], word_denial)
    assert result.passed
    assert result.actual["status"] == 403


def test_an_expected_null_is_no_status_that_a_rule_states():
    case = _case([rule("a")], {}, {})
    (result,) = run_cases([{**case, "expected": {"status": None}}], word_denial)
    assert result.differences == ("expected status null, got 429",)


def test_keys_that_are_not_expected_are_not_compared():
    case = _case([rule("a", response=said(headers={"X": "1"}))], {}, {})
    (result,) = run_cases([{**case, "expected": {"blocked": True}}], word_denial)
    assert result.passed


def test_numbers_are_compared_as_doubles_and_true_is_none():
    case = _case([rule("a", response=said({"n": [1.0, 12345678901234567890]}))], {}, {})
    for numbers, passed in (([1, 12345678901234567000], True), ([True, 0], False)):
        expected = {"body": {"n": numbers}}
        (result,) = run_cases([{**case, "expected": expected}], word_denial)
        assert result.passed is passed


def test_a_failure_tells_what_cannot_be_judged():
    case = _case([rule("a", "regex", [("request.route", r"(.)\1")])], {}, {"uri": "http://h/aa"})
    (result,) = run_cases([{**case, "expected": {"blocked": True}}], word_denial)
    assert not result.passed
    assert "not judged: rule a: [pattern-unsupported]" in result.differences[1]


def test_answers_are_shown_as_the_rule_writes_them():
    headers = {"my header": "a\nb", "X-A": "é", "x-a": "2"}
    case = _case([user("a", response=said({"ok": 1}, headers, 204))], users("a"), U)
    (result,) = run_cases([{**case, "expected": {"blocked": True}}], word_denial)
    assert result.actual == {
        "blocked": True,
        "status": 204,
        "headers": {**headers, "Content-Type": "application/json"},
        "body": {"ok": 1},
        "blocked_by": "a",
    }


def test_a_status_of_text_is_read():
    case = _case([rule("a", response={"status": "402"})], {}, {})
    (result,) = run_cases([{**case, "expected": {"blocked": True, "status": "402"}}], word_denial)
    assert result.passed
    assert result.actual["body"] is None


def test_two_spellings_of_a_header_are_one_header():
    rules = [
        rule("a", response=said(headers={"x-a": "1"})),
        user("b", block=False, response=said(headers={"X-A": "2"})),
    ]
    case = _case(rules, users("b"), U)
    expected = {"blocked": True, "headers": {"x-a": "1", "X-A": "2"}}
    (result,) = run_cases([{**case, "expected": expected}], word_denial)
    assert result.passed, result.differences


def test_ids_that_are_whole_numbers_come_first_outside_cohorts():
    rules = [user("b", **OUT), user("10", **OUT), user("9", **OUT)]
    case = _case(rules, {}, U)
    expected = {"blocked": True, "blocked_by": "b", "headers": {"X-By": "b"}}
    (result,) = run_cases([{**case, "expected": expected}], word_denial)
    assert result.passed, result.differences


def test_a_wrong_expectation_fails_and_says_what_differs():
    case = _case([rule("a")], {}, {})
    expected = {"blocked": True, "status": 500, "headers": {}, "body": {"rule": "b"}}
    (result,) = run_cases([{**case, "expected": expected}], word_denial)
    assert not result.passed
    assert [difference.split()[1] for difference in result.differences] == [
        "status",
        "body",
        "headers",
    ]


@pytest.mark.parametrize(
    "case",
    [None, {}, {"rules": {}}, {**_case([], {}, {}), "expected": None}]
    + [{**_case([], {}, {"uri": uri}), "expected": {}} for uri in (None, 5, "http://[")],
)
def test_a_case_that_cannot_be_run_fails_alone(case):
    good = {**_case([], {}, {}), "expected": {"blocked": False}}
    bad, fine = run_cases([case, good], word_denial)
    assert not bad.passed
    assert "cannot be run" in bad.differences[0]
    assert fine.passed
    json.dumps(bad.actual)
