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
_FRACTION = re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)


@dataclass(slots=True, kw_only=True)
class Answer:
    """A rule's answer; a body of None is no body."""

    status: int | None
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)


def read_answer(
    response: Mapping[str, Any],
    wording: Wording,
    *,
    has_values: bool,
    blocks: bool,
    unsendable: bool = False,
) -> Answer:
    """
    A rule's answer for callers with or without values for its templates.

    Args:
        response: The rule's `response`.
        wording: Its templates.
        has_values: Whether its callers may have values of their own.
        blocks: Whether it denies; a rule that does not has headers only.
        unsendable: Keep what no gateway could send, as it was written.
    """
    answer = Answer(status=None, body=None)
    headers = response.get("headers") or {}
    if isinstance(headers, dict):
        for name, value in headers.items():
            if name.lower() == _CONTENT_TYPE and blocks:
                answer.notes.append(("content-type", f"{name}: {shown(value)}"))
            elif unsendable:
                answer.headers[name] = _header_text(value, wording, has_values=has_values)
            else:
                _add_header(answer, name, value, wording, has_values=has_values)
    else:
        answer.notes.append(("not-imported", f"headers are {kind_of(headers)}"))
    if blocks:
        status, body = response.get("status"), response.get("body")
        if unsendable:
            answer.status = _whole_number(status)
            answer.body = wording.value(body, has_values=has_values)
        else:
            answer.status = _status(status, answer)
            answer.body = _body(body, wording, answer, has_values=has_values)
    return answer


def _add_header(
    answer: Answer, name: str, value: Any, wording: Wording, *, has_values: bool
) -> None:
    if value is None:
        answer.notes.append(("not-imported", f"header {shown(name)} has no value"))
        return
    text = _header_text(value, wording, has_values=has_values)
    if wording.templated and (text != _as_written(value) or "{{" in text):
        answer.notes.append(("header-template", f"header {shown(name)}"))
    refusal = _header_refusal(name, text)
    if refusal:
        answer.notes.append(("not-imported", f"header {shown(name)}: {refusal}"))
        return
    # On the wire the later of two spellings replaces the earlier.
    for spelling in [known for known in answer.headers if known.lower() == name.lower()]:
        del answer.headers[spelling]
    answer.headers[name] = text


def _as_written(value: Any) -> str:
    return ", ".join(map(value_text, value)) if isinstance(value, list) else value_text(value)


def _header_text(value: Any, wording: Wording, *, has_values: bool) -> str:
    """A header's value as one template; several values as HTTP joins them."""
    items = value if isinstance(value, list) else [value]
    return ", ".join(
        wording.text(item, has_values=has_values)
        if isinstance(item, str)
        else wording.plain(value_text(item))
        for item in items
    )


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


def _whole_number(value: Any) -> int | None:
    text = "" if value is None else value_text(value).strip()
    return int(text) if re.fullmatch("-?[0-9]{1,9}", text, re.ASCII) else None


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
        if any(type(item) is float and not _FRACTION.fullmatch(repr(item)) for item in level):
            return "a number that needs an exponent or is none"
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    return f"deeper than {BODY_DEPTH_MAX} levels" if depth > BODY_DEPTH_MAX else ""
