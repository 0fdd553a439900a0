"""
A rule's groups of conditions to matches and expressions.

What a match says exactly is a match; the rest becomes an expression. A condition that can
never be met takes its group with it.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.findings import shown
from sidecar.outbound.moesif.lookahead import without_lookahead
from sidecar.outbound.moesif.patterns import (
    PatternInvalid,
    PatternUnsupported,
    matches_nothing_too,
    translate,
)
from sidecar.outbound.moesif.reading import kind_of, truthy

Note = Callable[[str, str], None]
EXPRESSION_BYTES_MAX = 1_024
HEADERS_MAX = 20
METHOD_LENGTH_MAX = 20
_BODY, _HEADERS = "request.body.", "request.headers."
_ADDRESS = ("request.ip", "request.ip_address")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_METHODS = re.compile(r"\^(?:([A-Z]{1,20})|\((?:\?:)?([A-Z|]{1,200})\))\$", re.ASCII)
_LUA_DIFFERS = re.compile(r"[|\\%{-]")


@dataclass(slots=True)
class Group:
    """What one group asks: a match of ours, and expressions that all have to be true."""

    match: dict[str, Any] = field(default_factory=dict)
    when: list[str] = field(default_factory=list)

    @property
    def always(self) -> bool:
        """Whether every request fits."""
        return not self.match and not self.when


class _Never(Exception):  # noqa: N818  Not an error: the condition is what it is.
    """The condition cannot be met."""


def read_groups(config: Any, note: Note, *, unsendable: bool = False) -> list[Group] | None:
    """
    A rule's groups, any of which is enough.

    Args:
        config: The rule's `regex_config`.
        note: Told each construct that agents read differently.
        unsendable: Read conditions on headers that HTTP cannot have too.

    Returns:
        The groups that can be met; None where the rule has no conditions at all.
    """
    if not isinstance(config, list) or not config:
        if config is not None and not isinstance(config, list):
            note("not-imported", f"regex_config is {kind_of(config)}, read as no condition")
        return None
    if len(config) > 1:
        note("or-groups", f"{len(config)} groups")
    found = [_group(group, note, unsendable=unsendable) for group in config]
    return [group for group in found if group is not None]


def _group(value: Any, note: Note, *, unsendable: bool) -> Group | None:
    conditions = value.get("conditions") if isinstance(value, dict) else value
    if isinstance(value, dict) and not truthy(conditions):
        conditions = []
    if not isinstance(conditions, list) or not all(isinstance(c, dict) for c in conditions):
        note("not-imported", f"a group is {shown(value)}; it never matches")
        return None
    if not conditions:
        note("empty-conditions", "a group has no conditions")
    group, never = Group(), False
    for condition in conditions:
        try:
            _add(group, condition, note, unsendable=unsendable)
        except _Never:
            never = True  # The others are read all the same, for what they have to tell.
    if len(" && ".join(group.when).encode()) > EXPRESSION_BYTES_MAX:
        note("not-imported", "a group's patterns are too long for one expression; it never matches")
        never = True
    return None if never else group


def _add(group: Group, condition: dict[str, Any], note: Note, *, unsendable: bool) -> None:
    path = value_text(condition["path"]) if condition.get("path") else ""
    said = _patterns(path, condition, note)
    if path == "request.route":
        _note_route(condition, note)
        if len(said) == 1 and "routes" not in group.match:
            group.match["routes"] = [said[0][1]]
            return
        subject, present = "request.path", ""
    elif path == "request.verb":
        methods = _methods(said)
        if methods and "methods" not in group.match:
            group.match["methods"] = methods
            return
        subject, present = "request.method", 'request.method != ""'
    elif path in _ADDRESS:
        note("ip-path", path)
        subject, present = "request.source_ip", 'request.source_ip != ""'
    elif path == "request.uri":
        note("uri-path", path)
        subject, present = "request.url", ""
    elif path.startswith(_HEADERS):
        name, sendable = _header_name(path, note, unsendable=unsendable)
        single = len(said) == 1 and sendable
        headers = group.match.setdefault("headers", {}) if single else {}
        if single and name not in headers and len(headers) < HEADERS_MAX:
            headers[name] = said[0][1]
            return
        subject, present = _member("request.headers", name)
    elif path.startswith(_BODY):
        name = path.removeprefix(_BODY)
        note("body-path", path)
        subject, present = _member("request.fields", name)
    else:
        code = "response-path" if path.startswith("response.") else "unknown-path"
        note(code, shown(condition.get("path")))
        raise _Never
    group.when += _expressions(said, subject, present, note)


def _expressions(
    said: list[tuple[bool, str]], subject: str, present: str, note: Note
) -> Iterator[str]:
    """The patterns over one value; one that is absent must not pass for an empty one."""
    if present and any(not wanted or matches_nothing_too(pattern) for wanted, pattern in said):
        note("missing-value", f"{said[0][1]} of {subject}")
        yield present
    for wanted, pattern in said:
        yield f"{'' if wanted else '!'}{subject}.matches({_quoted(pattern)})"


def _patterns(path: str, condition: dict[str, Any], note: Note) -> list[tuple[bool, str]]:
    """RE2 patterns that together say the condition's, each with whether it has to be found."""
    source = value_text(condition["value"]) if "value" in condition else ""
    if not isinstance(condition.get("value"), str):
        note("pattern-value", f"{path}: {shown(condition.get('value'))}")
    _note_pattern(path, source, note)
    try:
        pattern = translate(source)
    except PatternInvalid as error:
        note("pattern-invalid", f"{path} {shown(source)}: {error}")
        raise _Never from error
    except PatternUnsupported as error:
        parts = without_lookahead(source)
        if parts is None:
            note("pattern-unsupported", f"{path} {shown(source)}: {error}")
            raise _Never from error
        note("pattern-rewritten", f"{path} {shown(source)}: look-ahead became several patterns")
        return _translated(path, parts, note)
    if pattern != source:
        note("pattern-rewritten", f"{path} {shown(source)} became {shown(pattern)}")
    return [(True, pattern)]


def _translated(path: str, parts: list[tuple[bool, str]], note: Note) -> list[tuple[bool, str]]:
    try:
        return [(wanted, translate(source)) for wanted, source in parts]
    except (PatternInvalid, PatternUnsupported) as error:
        note("pattern-unsupported", f"{path}: {error}")
        raise _Never from error


def _note_pattern(path: str, source: str, note: Note) -> None:
    if re.search("[A-Za-z]", re.sub(r"\\.", "", source)):
        note("pattern-case", f"{path} {shown(source)}")
    if _LUA_DIFFERS.search(source) or "(?" in source:
        note("pattern-lua", f"{path} {shown(source)}")
    whole = source.startswith((".*", "^")) and source.endswith((".*", "$"))
    if not whole:
        note("pattern-part", f"{path} {shown(source)}")


def _note_route(condition: dict[str, Any], note: Note) -> None:
    source = value_text(condition.get("value", ""))
    if re.search(r"[?=&]|^\^|\$$|://|\.(?:com|io|net|org)\b", source):
        note("route-query", f"request.route {shown(source)}")


def _methods(said: list[tuple[bool, str]]) -> list[str]:
    """The methods that `^GET$` or `^(GET|POST)$` stands for; none where it is another pattern."""
    found = _METHODS.fullmatch(said[0][1]) if len(said) == 1 else None
    names = sorted(set((found[1] or found[2]).split("|"))) if found else []
    return names if all(0 < len(name) <= METHOD_LENGTH_MAX for name in names) else []


def _header_name(path: str, note: Note, *, unsendable: bool) -> tuple[str, bool]:
    """A header's name, and whether HTTP can have it."""
    name = path.removeprefix(_HEADERS)
    sendable = _HEADER_NAME.fullmatch(name) is not None
    if not sendable and not unsendable:
        note("unknown-path", shown(path))
        raise _Never
    note("header-path", path)
    return name.lower(), sendable


def _member(of: str, name: str) -> tuple[str, str]:
    """A map's member in an expression, and the expression that it is there."""
    key = _quoted(name)
    return f"{of}[{key}]", f"{key} in {of}"


def _quoted(text: str) -> str:
    """A string literal of CEL; JSON's is one, but for escaped slashes and code units."""
    return json.dumps(text, ensure_ascii=False)
