"""`sidecar rules lint`, `test` and `explain`: what they print, and their exit codes."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from fixtures.replay_world import World
from fixtures.shell import ROOT, Shell, sidecar

from sidecar.domain.decision_records import DecisionRecord, encode_record

__all__ = ["sidecar"]  # A fixture that is imported.
POLICY = ROOT / "tests" / "data" / "policies" / "tools"
FREE = ("--method", "POST", "--path", "/ai/chat", "--plan", "free")
AT = ("--at", "2026-01-15T12:00:00Z")


@pytest.fixture(autouse=True)
def _policy(sidecar: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands look at the policy of these tests, after the shell has set its own."""
    assert sidecar
    monkeypatch.setenv("SIDECAR_POLICY_DIR", str(POLICY))


def copied_policy(folder: Path, old: str, new: str) -> Path:
    """The policy of these tests with one text exchanged."""
    copy = folder / "policy"
    shutil.copytree(POLICY, copy)
    for path in copy.glob("*.yaml"):
        path.write_text(path.read_text().replace(old, new))
    return copy


def failing(folder: Path) -> Path:
    return copied_policy(folder, "{allow: true, headers: {x-quota-used: '85'}}", "{allow: false}")


def test_what_ships_passes_its_tests_and_lint(sidecar: Shell):
    shipped = ROOT / "config" / "policy"
    assert sidecar("rules", "test", shipped).code == 0
    assert sidecar("rules", "lint", shipped, "--strict").code == 0


def test_tests_and_lint_end_with_what_they_found(sidecar: Shell):
    tested, linted = sidecar("rules", "test", "--coverage"), sidecar("rules", "lint", "--strict")
    assert (tested.code, linted.code) == (0, 0)
    assert "16 of 16 tests passed; 4 of 4 rules seen to speak" in tested.out
    assert "0 errors, 0 warnings" in linted.out


@pytest.mark.parametrize("command", ["test", "lint"])
def test_the_folder_is_an_argument_or_an_option(sidecar: Shell, tmp_path: Path, command: str):
    policy = failing(tmp_path)
    assert sidecar("rules", command, policy).code == 1
    assert sidecar("rules", command, "--policy", policy).code == 1
    assert sidecar("rules", command).code == 0


def test_a_failing_test_is_named_with_file_and_line(sidecar: Shell, tmp_path: Path):
    ended = sidecar("rules", "test", failing(tmp_path))
    assert ended.code == 1
    assert f"FAILED {tmp_path}/policy/30-rules.yaml: 15 of 16 tests passed" in ended.out
    assert "30-rules.yaml:82 warn-at-80: expected deny, got allow" in ended.out


def test_results_are_written_as_junit(sidecar: Shell, tmp_path: Path):
    policy = failing(tmp_path)
    file = tmp_path / "junit.xml"
    assert sidecar("rules", "test", policy, "--junit", file).code == 1
    root = ET.parse(file).getroot()
    assert root.tag == "testsuites"
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("16", "1", "0")
    (suite,) = root
    assert suite.tag == "testsuite"
    assert {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"} <= set(
        suite.keys()
    )
    cases = list(suite)
    assert len(cases) == int(suite.get("tests", "")) == 16
    assert {case.tag for case in cases} == {"testcase"}
    assert all({"name", "classname", "file", "line", "time"} <= set(case.keys()) for case in cases)
    (failure,) = root.iter("failure")
    assert failure.get("message") == "expected deny, got allow"
    assert "30-rules.yaml:82" in (failure.text or "")


def test_junit_that_cannot_be_written_is_exit_2(sidecar: Shell, tmp_path: Path):
    ended = sidecar("rules", "test", "--junit", tmp_path / "absent" / "junit.xml")
    assert ended.code == 2
    assert "cannot be written" in ended.err


def test_results_and_findings_as_json(sidecar: Shell, tmp_path: Path):
    tested = json.loads(sidecar("rules", "test", "--json").out)
    assert (tested["total"], tested["failed"], len(tested["coverage"])) == (16, 0, 4)
    ended = sidecar("rules", "lint", failing(tmp_path), "--json")
    found = json.loads(ended.out)
    assert ended.code == 1
    assert found["counts"]["error"] == 1
    assert {"code", "severity", "place", "rule", "message", "mend"} == set(found["findings"][0])


def test_lint_fails_on_warnings_if_it_is_strict(sidecar: Shell, tmp_path: Path):
    policy = copied_policy(tmp_path, "on_store_failure: deny", "on_store_failure: allow")
    assert sidecar("rules", "lint", policy).code == 0
    ended = sidecar("rules", "lint", policy, "--strict")
    assert ended.code == 1
    assert "warning allow-without-store: rule no-credits:" in ended.out


def test_lint_compares_routes_with_traffic(sidecar: Shell, tmp_path: Path):
    traffic = tmp_path / "traffic.jsonl"
    traffic.write_text('{"method": "POST", "path": "/ai/chat?x=1", "host": "a"}\n\n' * 3)
    ended = sidecar("rules", "lint", "--traffic", traffic)
    assert "'^/healthz$' matches none of 3 recorded requests" in ended.out
    assert "'^/ai/chat$' matches none" not in ended.out


@pytest.mark.parametrize(
    "line", ["no json", "[]", '{"method": "GET"}', '{"path": "/", "count": 0}']
)
def test_traffic_that_is_none_is_exit_2_and_names_the_line(
    sidecar: Shell, tmp_path: Path, line: str
):
    traffic = tmp_path / "traffic.jsonl"
    traffic.write_text(f'{{"path": "/a"}}\n{line}\n')
    ended = sidecar("rules", "lint", "--traffic", traffic)
    assert ended.code == 2
    assert f"{traffic}:2" in ended.err


def test_a_request_is_explained(sidecar: Shell):
    ended = sidecar("rules", "explain", *FREE, *AT, "--used", "monthly-tokens=99000")
    assert ended.code == 0
    for line in (
        "1. no-credits: not matched (block-when-no-available-credits, enforce, ",
        "customers.plans: found plan 'free'; wanted per-request or prepaid",
        "3. free-tokens: decides (quota, enforce, ",
        "99000 before, 99000 after, of 100000; the request needs 2000, which does not fit",
        "answer: deny 429 by free-tokens (quota_exceeded)",
        "retry-after: 1425600",
    ):
        assert line in ended.out


def test_a_body_and_headers_are_read_as_a_check_would(sidecar: Shell, tmp_path: Path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": "gpt-4o", "max_tokens": 7, "messages": []}))
    arguments = (*FREE, "--body", body, "--header", "X-Tier: gold", "--json")
    found = json.loads(sidecar("rules", "explain", *arguments).out)
    assert found["hold"]["quantities"]["output-tokens"] == 7
    assert found["hold"]["bound"].startswith("proven")
    assert found["answer"]["allow"] is True


def test_a_customer_without_credit_is_explained(sidecar: Shell):
    ended = sidecar(
        "rules", "explain", "--path", "/ai/chat", "--plan", "prepaid", "--credit", "0.001"
    )
    assert "0.001 is available, the hold needs 0.002" in ended.out
    assert "answer: deny 402 by no-credits (no_available_credits)" in ended.out


def test_nobody_is_asked_who_it_is(sidecar: Shell):
    ended = sidecar("rules", "explain", "--path", "/ai/chat")
    assert "nobody known" in ended.out
    assert "answer: deny 401 by no-credits (unidentified)" in ended.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--path is needed"),
        (("--path", "/", "--plan", "gone"), 1, "unknown plan 'gone'"),
        (("--path", "/", "--customer", "cus_1"), 1, "nothing says which plan"),
        (("--path", "/", "--plan", "free", "--used", "monthly-tokens"), 2, "not NAME=VALUE"),
        (("--path", "/", "--plan", "free", "--used", "monthly=1"), 1, "unknown limit"),
        (("--path", "/", "--plan", "free", "--standing", "bad"), 1, "allowed: good, grace"),
        (("--path", "/", "--at", "today"), 1, "not RFC 3339"),
        (("--path", "/", "--body", "/absent/body"), 2, "cannot be read"),
        (("--path", "/", "--customer", "cus_1", "--live"), 2, "SIDECAR_REDIS_URL"),
        (("dec_0",), 2, "SIDECAR_POSTGRES_DSN"),
    ],
)
def test_what_cannot_be_explained_says_why(
    sidecar: Shell, arguments: tuple[str, ...], code: int, words: str
):
    ended = sidecar("rules", "explain", *arguments)
    assert (ended.code, words in ended.err) == (code, True)


def test_a_recorded_decision_is_explained_from_its_record(sidecar: Shell, tmp_path: Path):
    world = World(5)
    record = next(
        one for one in world.events(200) if isinstance(one, DecisionRecord) and one.stage == "path"
    )
    file = tmp_path / "record.json"
    file.write_bytes(encode_record(record))
    ended = sidecar("rules", "explain", "--record", file)
    assert ended.code == 0
    assert f"decision {record.decision_id}" in ended.out
    assert "recorded: deny 400 by path" in ended.out


def test_config_check_tells_of_the_same_tests(sidecar: Shell, tmp_path: Path):
    policy = failing(tmp_path)
    ended = sidecar("config", "check", policy_dir=policy)
    assert ended.code == 1
    assert "30-rules.yaml:82 warn-at-80: expected deny, got allow" in ended.out
