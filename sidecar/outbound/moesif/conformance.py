"""
Cases of decisions in Moesif's format, played through the importer and the evaluator.

A case goes the way that a request goes: its rules become our files, those are loaded, and the
request is planned, judged and worded by the functions that checks use. No store is asked,
since imported rules read none of its numbers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.decisions import Deny
from sidecar.domain.errors import ConfigError, InvalidInput, SidecarError
from sidecar.domain.judging import Judgement, judge
from sidecar.domain.planning import Refusal, plan_check, plan_unidentified
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts, normalise_path
from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.cohorts import member_id
from sidecar.outbound.moesif.importing import Imported, import_rules
from sidecar.outbound.moesif.reading import kind_of, read_json
from sidecar.outbound.moesif.writing import PLAN, file_texts
from sidecar.outbound.policy_files.loader import Source, parse_policy
from sidecar.services.ports import Word

_INSTANT = datetime(2026, 1, 15, 12, tzinfo=UTC)
_CONTENT_TYPE = "content-type"
_KEYS = ("rules", "config", "event", "expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case: what was expected, what came of it, and what differed; nothing if it passed."""

    name: str
    expected: Any
    actual: Mapping[str, Any]
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.differences


def read_cases(path: Path) -> list[Any]:
    """
    The cases of a file.

    Raises:
        ConfigError: If it is no JSON object with a list of cases.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("cases"), list):
        found = kind_of(value) if not isinstance(value, dict) else kind_of(value.get("cases"))
        raise ConfigError(f"{path}: found {found}; allowed: an object with a list of `cases`")
    return list(value["cases"])


def run_cases(cases: list[Any], word: Word) -> list[CaseResult]:
    """
    Play cases, each for itself.

    Args:
        cases: As in the file; one that cannot be read fails alone.
        word: The edges' words for a denial.
    """
    return [_run(case, number, word) for number, case in enumerate(cases, 1)]


def _run(case: Any, number: int, word: Word) -> CaseResult:
    name = str(case.get("name", number)) if isinstance(case, dict) else str(number)
    expected = case.get("expected") if isinstance(case, dict) else None
    try:
        _check_case(case)
        actual = play(case, word)
    except (SidecarError, ValueError) as error:
        return CaseResult(
            name=name, expected=expected, actual={}, differences=(f"cannot be run: {error}",)
        )
    return CaseResult(
        name=name,
        expected=expected,
        actual=actual,
        differences=tuple(_differences(expected or {}, actual)),
    )


def _check_case(case: Any) -> None:
    if not isinstance(case, dict):
        raise InvalidInput(f"found {kind_of(case)}; allowed: an object with {', '.join(_KEYS)}")
    for key, kind in (("rules", list), ("config", dict), ("event", dict), ("expected", dict)):
        if not isinstance(case.get(key), kind):
            allowed = "a list" if kind is list else "an object"
            raise InvalidInput(f"{key} is {kind_of(case.get(key))}; allowed: {allowed}")
    if not isinstance(case["event"].get("uri"), str):
        raise InvalidInput("event.uri is no text; allowed: an absolute URL")
    if not isinstance(case["event"].get("headers") or {}, dict):
        raise InvalidInput("event.headers is no object; allowed: values by name")


def play(case: Mapping[str, Any], word: Word) -> dict[str, Any]:
    """
    Decide on one case's event.

    Raises:
        SidecarError: If its rules cannot be written or loaded.
    """
    imported = import_rules(case["rules"], case["config"])
    sources = [Source(Path(name), text.encode()) for name, text in file_texts(imported).items()]
    policy = parse_policy(sources).policy
    request, caller = read_event(case["event"])
    view = policy.view(request, normalise_path(request.path))
    if policy.is_free(view) or policy.passes_unmatched(view):
        return {"blocked": False, "headers": {}}
    if caller.customer_id:
        plan = plan_check(policy, view, caller, RequestFacts(), _INSTANT)
    else:
        plan = plan_unidentified(policy, view, _INSTANT, caller)
    if isinstance(plan, Refusal):
        raise InvalidInput(f"the check was refused: {plan.detail}")
    return _actual(imported, policy, request, judge(plan, None, caller), word)


def read_event(event: Mapping[str, Any]) -> tuple[AccessRequest, CustomerFacts]:
    """A case's event as an edge would have read it, and its caller."""
    url = urlsplit(event["uri"])
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    headers: dict[str, tuple[str, ...]] = {}
    for name, value in (event.get("headers") or {}).items():
        values = value if isinstance(value, list) else [value]
        headers[name.lower()] = tuple(value_text(item) for item in values)
    request = AccessRequest(
        edge="conformance",
        gateway_id="conformance",
        hold_id="0" * 40,
        method=value_text(event.get("verb")),
        path=target,
        headers=headers,
        received_at=_INSTANT,
        deadline=_INSTANT,
        scheme=url.scheme,
        host=url.netloc.rpartition("@")[2],
        source=value_text(event["ip"]) if event.get("ip") else "",
        body=_body(event.get("body")),
    )
    company, user = event.get("company_id"), event.get("user_id")
    caller = CustomerFacts(
        customer_id="" if company is None else member_id(value_text(company)),
        user_id="" if user is None else member_id(value_text(user)),
        plan=PLAN if company is not None else "",
        currency="USD" if company is not None else "",
        revision=0,
    )
    return request, caller


def _body(value: Any) -> bytes | None:
    """The body's bytes: a text that is JSON itself is sent as it is."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return json.dumps(value).encode()
        return value.encode()
    return json.dumps(value).encode()


def _actual(
    imported: Imported, policy: Policy, request: AccessRequest, judgement: Judgement, word: Word
) -> dict[str, Any]:
    """The outcome in the case's own terms: its ids, its spelling of header names."""
    added = {imported.spelling.get(k, k): v for k, v in judgement.headers.items()}
    denial = judgement.denial
    if denial is None:
        return {"blocked": False, "headers": added}
    worded = word(
        Deny(
            decision_id=request.decision_id,
            reason=denial.reason,
            rule=denial.rule,
            policy_version=policy.version,
            status=denial.answer.status,
            headers=judgement.headers,
            body=denial.body,
            empty_body=denial.answer.empty,
        )
    )
    if _CONTENT_TYPE in worded.headers and _CONTENT_TYPE not in judgement.headers:
        added["Content-Type"] = worded.headers[_CONTENT_TYPE]
    return {
        "blocked": True,
        "status": worded.status,
        "headers": added,
        "body": None if worded.empty else worded.body,
        "blocked_by": imported.ids[denial.rule],
    }


def _differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """What differs; keys that a case does not have are not compared."""
    found = []
    for key in ("blocked", "status", "body", "blocked_by"):
        wanted, got = expected.get(key), actual.get(key)
        if key == "status":
            if wanted is None or value_text(wanted) == value_text(got):
                continue
        elif key not in expected or _same(wanted, got):
            continue
        found.append(f"expected {key} {json.dumps(wanted)}, got {json.dumps(got)}")
    headers = expected.get("headers")
    wanted_headers = _folded(headers if isinstance(headers, dict) else {})
    got_headers = _folded(actual.get("headers", {}))
    if wanted_headers != got_headers:
        found.append(
            f"expected headers {json.dumps(wanted_headers)}, got {json.dumps(got_headers)}"
        )
    return found


def _folded(headers: Mapping[str, Any]) -> dict[str, str]:
    """Headers as they are on the wire, whose names have no case; without Content-Type."""
    return {
        name.lower(): ", ".join(map(value_text, value))
        if isinstance(value, list)
        else value_text(value)
        for name, value in headers.items()
        if name.lower() != _CONTENT_TYPE and value is not None
    }


def _same(wanted: Any, got: Any) -> bool:
    """Whether two JSON values are equal; true is no number."""
    return json.dumps(wanted, sort_keys=True) == json.dumps(got, sort_keys=True) or (
        not isinstance(wanted, bool | dict | list)
        and not isinstance(got, bool | dict | list)
        and wanted == got
    )
