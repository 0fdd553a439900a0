"""What a foreign rule answers: status, headers and body in our terms."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.findings import shown
from sidecar.outbound.moesif.reading import kind_of
from sidecar.outbound.moesif.wording import Wording
from sidecar.outbound.policy_files.texts import reserved_header

STATUS_MIN, STATUS_MAX = 200, 599
NO_BODY_STATUSES = frozenset({204, 205, 304})
BODY_BYTES_MAX = 16_000
BODY_DEPTH_MAX = 12
"""Inside a rule of a list, so that the file stays within its own bound."""
HEADER_LENGTH_MAX = 1_000
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_CONTENT_TYPE = "content-type"
INTEGER_MAX = 10**15


@dataclass(slots=True, kw_only=True)
class Answer:
    """
    A rule's answer; a body of None is no body.

    `spelling` are its header names as they were written, by their lower case.
    """

    status: int | None
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    spelling: dict[str, str] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)


def read_answer(
    response: Mapping[str, Any], wording: Wording, *, has_values: bool, blocks: bool
) -> Answer:
    """
    A rule's answer for callers with or without values for its templates.

    Args:
        response: The rule's `response`.
        wording: Its templates.
        has_values: Whether its callers may have values of their own.
        blocks: Whether it denies; a rule that does not has headers only.
    """
    answer = Answer(status=None, body=None)
    headers = response.get("headers") or {}
    if isinstance(headers, dict):
        for name, value in headers.items():
            _add_header(answer, name, value, wording, has_values=has_values, blocks=blocks)
    else:
        answer.notes.append(("not-imported", f"headers are {kind_of(headers)}"))
    if blocks:
        answer.status = _status(response.get("status"), answer)
        answer.body = _body(response.get("body"), wording, answer, has_values=has_values)
    return answer


def _add_header(
    answer: Answer,
    name: str,
    value: Any,
    wording: Wording,
    *,
    has_values: bool,
    blocks: bool,
) -> None:
    if name.lower() == _CONTENT_TYPE and blocks:
        answer.notes.append(("content-type", f"{name}: {shown(value)}"))
        return
    if value is None:
        answer.notes.append(("not-imported", f"header {shown(name)} has no value"))
        return
    text = ", ".join(map(value_text, value)) if isinstance(value, list) else value_text(value)
    if isinstance(value, str) and wording.keys:
        text = wording.text(value, has_values=has_values)
        if text != value or "{{" in text:
            answer.notes.append(("header-template", f"header {shown(name)}"))
    else:
        text = wording.plain(text)
    refusal = _header_refusal(name, text)
    if refusal:
        answer.notes.append(("not-imported", f"header {shown(name)}: {refusal}"))
        return
    answer.headers[name] = text
    if name.lower() in answer.spelling:
        # On the wire the later of two spellings replaces the earlier.
        answer.headers.pop(answer.spelling[name.lower()], None)
        answer.headers[name] = text
    answer.spelling[name.lower()] = name


def _header_refusal(name: str, text: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        return "HTTP has no such header name"
    if reserved_header(name):
        return "the gateway's own header"
    if not _HEADER_VALUE.fullmatch(text):
        return "its value is not one line of printable ASCII"
    if len(text) > HEADER_LENGTH_MAX:
        return f"its value is longer than {HEADER_LENGTH_MAX} characters"
    return ""


def _status(value: Any, answer: Answer) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        answer.notes.append(("status", f"status is {shown(value)}"))
    if value is None:
        return None
    text = value_text(value).strip()
    status = int(text) if re.fullmatch("[0-9]{3}", text, re.ASCII) else 0
    if status in NO_BODY_STATUSES:
        answer.notes.append(
            ("not-imported", f"status {status} has no body; the denial answers 200 with one")
        )
        return STATUS_MIN
    if not STATUS_MIN <= status <= STATUS_MAX:
        answer.notes.append(("not-imported", f"status {text[:20]} is no answer; the denial is 403"))
        return None
    return status


def _body(value: Any, wording: Wording, answer: Answer, *, has_values: bool) -> Any:
    problem = _body_problem(value)
    if problem:
        answer.notes.append(("not-imported", f"body: {problem}; the denial has none"))
        return None
    return wording.value(value, has_values=has_values)


def _body_problem(value: Any) -> str:
    if len(json.dumps(value)) > BODY_BYTES_MAX:
        return f"larger than {BODY_BYTES_MAX} bytes"
    level, depth = [value], 0
    while level:
        depth += 1
        if any(type(item) is int and abs(item) > INTEGER_MAX for item in level):
            return f"a number beyond {INTEGER_MAX}"
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    return f"deeper than {BODY_DEPTH_MAX} levels" if depth > BODY_DEPTH_MAX else ""
