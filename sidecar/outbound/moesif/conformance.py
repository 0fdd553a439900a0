"""
Cases of decisions in Moesif's format, played through the importer and the evaluator.

A case goes the way that a request goes: its rules become our files, those are loaded, and the
request is planned, judged and worded by the functions that checks use. No store is asked,
since imported rules read none of its numbers. What is judged is the decision, before what a
gateway can carry: answers are kept that an import for one would refuse.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sidecar.domain.decisions import Deny
from sidecar.domain.errors import ConfigError, InvalidInput, SidecarError
from sidecar.domain.judging import Judgement, judge
from sidecar.domain.matching import RequestView
from sidecar.domain.planning import Refusal, plan_check, plan_unidentified
from sidecar.domain.policy import Policy
from sidecar.domain.requests import RequestFacts
from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.events import INSTANT, EventView, event_caller, event_request
from sidecar.outbound.moesif.findings import Finding
from sidecar.outbound.moesif.importing import Imported, import_rules
from sidecar.outbound.moesif.reading import kind_of, read_json
from sidecar.outbound.moesif.writing import file_texts
from sidecar.outbound.policy_files.loader import Source, parse_policy
from sidecar.services.ports import Word

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """
    What came of a case.

    `unsaid` tells that the rule which denies states no status. `lost` is what of the rules
    cannot be said here at all.
    """

    actual: Mapping[str, Any]
    unsaid: bool = False
    lost: tuple[Finding, ...] = ()


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
        played = play(case, word)
    except (SidecarError, ValueError) as error:
        return CaseResult(
            name=name, expected=expected, actual={}, differences=(f"cannot be run: {error}",)
        )
    return CaseResult(
        name=name,
        expected=expected,
        actual=played.actual,
        differences=tuple(_differences(expected or {}, played)),
    )


def _check_case(case: Any) -> None:
    if not isinstance(case, dict):
        raise InvalidInput(f"found {kind_of(case)}; allowed: an object with {', '.join(_KEYS)}")
    for key, kind in (("rules", list), ("config", dict), ("event", dict), ("expected", dict)):
        if key == "config" and case.get(key) is None:
            continue
        if not isinstance(case.get(key), kind):
            allowed = "a list" if kind is list else "an object"
            raise InvalidInput(f"{key} is {kind_of(case.get(key))}; allowed: {allowed}")
    if not isinstance(case["event"].get("uri"), str):
        raise InvalidInput("event.uri is no text; allowed: an absolute URL")
    urlsplit(case["event"]["uri"])  # Raises ValueError where the authority is none.
    if not isinstance(case["event"].get("headers") or {}, dict):
        raise InvalidInput("event.headers is no object; allowed: values by name")


def play(case: Mapping[str, Any], word: Word) -> Played:
    """
    Decide on one case's event.

    Raises:
        SidecarError: If its rules cannot be written or loaded.
    """
    imported = import_rules(case["rules"], case.get("config") or {}, unsendable=True)
    sources = [Source(Path(name), text.encode()) for name, text in file_texts(imported).items()]
    policy = parse_policy(sources, unsendable=True).policy
    event = case["event"]
    view, caller = EventView(event, event_request(event), policy), event_caller(event)
    if policy.passes_unasked(view):
        return Played(actual={"blocked": False, "headers": {}}, lost=imported.lost)
    if caller.customer_id:
        plan = plan_check(policy, view, caller, RequestFacts(), INSTANT)
    else:
        plan = plan_unidentified(policy, view, INSTANT, caller)
    if isinstance(plan, Refusal):
        raise InvalidInput(f"the check was refused: {plan.detail}")
    return _played(imported, policy, view, judge(plan, None, caller), word)


def _played(
    imported: Imported, policy: Policy, view: RequestView, judgement: Judgement, word: Word
) -> Played:
    """The outcome in the case's own terms: its ids, and a status of another form as it stands."""
    headers: dict[str, str] = dict(judgement.headers)
    denial = judgement.denial
    if denial is None:
        return Played(actual={"blocked": False, "headers": headers}, lost=imported.lost)
    worded = word(
        Deny(
            decision_id=view.request.decision_id,
            reason=denial.reason,
            rule=denial.rule,
            policy_version=policy.version,
            status=denial.answer.status,
            headers=judgement.headers,
            body=denial.body,
            empty_body=denial.answer.empty,
        )
    )
    if _CONTENT_TYPE in worded.headers and not any(n.lower() == _CONTENT_TYPE for n in headers):
        headers["Content-Type"] = worded.headers[_CONTENT_TYPE]
    rule = imported.by_name[denial.rule]
    unsaid = denial.answer.status is None
    return Played(
        actual={
            "blocked": True,
            "status": worded.status if not unsaid or rule.status is None else rule.status,
            "headers": headers,
            "body": None if worded.empty else worded.body,
            "blocked_by": rule.written_id,
        },
        unsaid=unsaid and rule.status is None,
        lost=imported.lost,
    )


def _differences(expected: Mapping[str, Any], played: Played) -> list[str]:
    """What differs, then what was lost; keys that a case does not have are not compared."""
    found = []
    actual = played.actual
    for key in ("blocked", "status", "body", "blocked_by"):
        wanted, got = expected.get(key), actual.get(key)
        if key not in expected or _same(wanted, got):
            continue
        if key == "status" and _same_status(wanted, got, unsaid=played.unsaid):
            continue
        found.append(f"expected {key} {json.dumps(wanted)}, got {json.dumps(got)}")
    if "headers" in expected:
        headers = expected["headers"]
        wanted_headers = _listed(headers if isinstance(headers, dict) else {})
        got_headers = _listed(actual.get("headers", {}))
        if wanted_headers != got_headers:
            found.append(
                f"expected headers {json.dumps(wanted_headers)}, got {json.dumps(got_headers)}"
            )
    if found:
        found += [f"not judged: {finding}" for finding in played.lost]
    return found


def _same_status(wanted: Any, got: Any, *, unsaid: bool) -> bool:
    """Statuses are equal as texts; null is that of a rule which states none."""
    return unsaid if wanted is None else value_text(wanted) == value_text(got)


def _listed(headers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Headers with their names in lower case, sorted, without Content-Type.

    Two names that differ in their case are two headers, as they are in the rules.
    """
    return sorted(
        (
            name.lower(),
            ", ".join(map(value_text, value)) if isinstance(value, list) else value_text(value),
        )
        for name, value in headers.items()
        if name.lower() != _CONTENT_TYPE
    )


def _same(wanted: Any, got: Any) -> bool:
    """Whether two JSON values are equal: numbers as doubles, and true is no number."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return wanted.keys() == got.keys() and all(_same(wanted[k], got[k]) for k in wanted)
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(_same, wanted, got))
    if _is_number(wanted) and _is_number(got):
        return value_text(wanted) == value_text(got)
    return type(wanted) is type(got) and bool(wanted == got)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
