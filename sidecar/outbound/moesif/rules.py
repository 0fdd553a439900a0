"""
Foreign rules and cohorts to rules and members of ours.

Their last matching rule wins, our first one does; theirs of users win over those of companies,
and those over rules for everyone. So ours stand in the reverse order: users first, and for
each kind of entity those outside cohorts, then those of cohorts in each entity's own order.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.answers import Answer, read_answer
from sidecar.outbound.moesif.conditions import Group, read_groups
from sidecar.outbound.moesif.findings import Findings, shown
from sidecar.outbound.moesif.reading import kind_of, truthy
from sidecar.outbound.moesif.wording import Wording, variable_keys

KINDS = {"user": "users", "company": "customers"}
BUILT_IN_NAMES = frozenset({"unmatched", "prepaid-credit", "identity", "plan", "path", "body"})
ACTIVE_STATE = 2
_NAME_MAX = 40
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_INDEX_MAX = 2**32 - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRule:
    """
    A rule in the form of our files, and the foreign rule that it came from.

    `id` is that one's as text, `written_id` and `status` as they stand there.
    """

    data: Mapping[str, Any]
    id: str
    title: str
    written_id: Any
    status: Any

    @property
    def name(self) -> str:
        """Its name here."""
        return str(self.data["name"])


@dataclass(slots=True, kw_only=True)
class ForeignRule:
    """
    One rule as it was read.

    `names` are those of its rules here for identified callers: several where a group of
    conditions needs a rule of its own. Empty where its conditions can never be met.
    """

    id: str
    written_id: Any
    title: str
    kind: str
    blocks: bool
    outside: bool
    unidentified: bool
    groups: list[Group] | None
    wording: Wording
    response: Mapping[str, Any]
    note: Callable[[str, str], None]
    names: list[str] = field(default_factory=list)

    @property
    def never(self) -> bool:
        """Whether no request can meet its conditions."""
        return self.groups == []


def read_rule(
    value: Any, position: int, findings: Findings, *, unsendable: bool = False
) -> ForeignRule | None:
    """One rule of the list; None where it is none or of no known kind."""
    if not isinstance(value, dict):
        findings.note("not-imported", f"entry {position} of the rules is {kind_of(value)}")
        return None
    title = value_text(value["name"]) if value.get("name") is not None else ""
    if value.get("_id") in (None, ""):
        findings.note("not-imported", f"entry {position} of the rules has no _id", name=title)
        return None
    rule_id = value_text(value["_id"])

    def note(code: str, detail: str) -> None:
        findings.note(code, detail, rule=rule_id, name=title)

    kind = value.get("type")
    if kind not in ("regex", *KINDS):
        note("rule-type", f"type is {shown(kind)}")
        return None
    variables = value["variables"] if value.get("variables") is not None else []
    if not isinstance(variables, list):
        note("not-imported", f"variables are {kind_of(variables)}, read as none")
        variables = []
    response = value["response"] if value.get("response") is not None else {}
    if not isinstance(response, dict):
        note("not-imported", f"response is {kind_of(response)}, read as empty")
        response = {}
    rule = ForeignRule(
        id=rule_id,
        written_id=value["_id"],
        title=title,
        kind=kind,
        blocks=truthy(value.get("block")),
        outside=value.get("applied_to") == "not_matching",
        unidentified=truthy(value.get("applied_to_unidentified")),
        groups=read_groups(value.get("regex_config"), note, unsendable=unsendable),
        wording=Wording(templated=bool(variables), keys=variable_keys(variables), note=note),
        response=response,
        note=note,
    )
    _note_rule(rule, value)
    return rule


def _note_rule(rule: ForeignRule, value: Mapping[str, Any]) -> None:
    note = rule.note
    if rule.never:
        note("never", "none of its groups can match")
    if not rule.blocks:
        note("headers-only", "block is not true")
    if rule.kind == "company":
        note("kong-company", "type is company")
    if rule.kind != "regex" and rule.outside:
        note("not-matching", "applied_to is not_matching")
    if rule.kind != "regex" and rule.unidentified:
        note("unidentified", "applied_to_unidentified is true")
    if value.get("state") not in (None, ACTIVE_STATE):
        note("state", f"state is {shown(value['state'])}, not {ACTIVE_STATE}")
    for key in ("priority", "plans"):
        if value.get(key):
            note(key, f"{key} is {shown(value[key])}")


class RuleWriter:
    """Turns rules into ours; each name is used once."""

    def __init__(self, *, unsendable: bool = False) -> None:
        """Keep answers that no gateway could send if `unsendable` says so."""
        self._taken = set(BUILT_IN_NAMES)
        self._unsendable = unsendable

    def for_nobody(self, rules: Sequence[ForeignRule]) -> Iterator[WrittenRule]:
        """Rules of one kind of entity for callers without an id; they have no values."""
        for rule in reversed(rules):
            if rule.unidentified:
                level: dict[str, Any] = {"users": {}} if rule.kind == "user" else {}
                selection = {**level, "unidentified": "only"}
                yield from self._write(rule, selection, "unidentified", has_values=False)

    def for_entities(self, rules: Sequence[ForeignRule]) -> Iterator[WrittenRule]:
        """Rules of one kind of entity: those outside cohorts first, then those of cohorts."""
        for outside in (True, False):
            for rule in reversed(rules):
                if rule.outside is outside:
                    members = "unlisted" if outside else "listed"
                    selection = {KINDS[rule.kind]: {"members": members}, "unidentified": "skip"}
                    for written in self._write(rule, selection, "", has_values=not outside):
                        rule.names.append(written.name)
                        yield written

    def for_everyone(self, rules: Sequence[ForeignRule]) -> Iterator[WrittenRule]:
        """Rules that look at the request alone."""
        for rule in reversed(rules):
            yield from self._write(rule, {}, "", has_values=False)

    def _write(
        self, rule: ForeignRule, selection: Mapping[str, Any], part: str, *, has_values: bool
    ) -> Iterator[WrittenRule]:
        if rule.never:
            return
        answer = read_answer(
            rule.response,
            rule.wording,
            has_values=has_values,
            blocks=rule.blocks,
            unsendable=self._unsendable,
        )
        for code, detail in answer.notes:
            rule.note(code, detail)
        if not rule.blocks and not answer.headers:
            return  # It would say nothing.
        for condition in _conditions(rule.groups):
            data = {
                "name": self._name(rule.id, part),
                "template": "block" if rule.blocks else "headers",
                **{key: condition[key] for key in ("match",) if key in condition},
                **selection,
                **{key: condition[key] for key in ("when",) if key in condition},
                **_words(answer, blocks=rule.blocks),
            }
            yield WrittenRule(
                data=data,
                id=rule.id,
                title=rule.title,
                written_id=rule.written_id,
                status=rule.response.get("status"),
            )

    def _name(self, rule_id: str, part: str) -> str:
        """A free name that shows the foreign id."""
        base = re.sub(r"[^a-z0-9._-]+", "-", rule_id.lower()).strip("-._")[:_NAME_MAX] or "rule"
        wanted = f"{base}.{part}" if part else base
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}.{count}"
        self._taken.add(name)
        return name


def _conditions(groups: list[Group] | None) -> Iterator[dict[str, Any]]:
    """A rule's conditions: one for all groups that a match says, one for each other group."""
    if groups is None or any(group.always for group in groups):
        yield {}
        return
    plain = [group.match for group in groups if not group.when]
    if plain:
        yield {"match": plain[0] if len(plain) == 1 else plain}
    for group in groups:
        if group.when:
            match = {"match": group.match} if group.match else {}
            yield {**match, "when": " && ".join(group.when)}


def _words(answer: Answer, *, blocks: bool) -> dict[str, Any]:
    headers = {"headers": dict(answer.headers)} if answer.headers else {}
    if not blocks:
        return {"warn": headers}
    status = {} if answer.status is None else {"status": answer.status}
    return {"deny": {**status, **headers, "body": answer.body}}


def by_id(rules: Sequence[ForeignRule]) -> dict[str, ForeignRule]:
    """
    The rules of one kind by id, as a JavaScript object would have them.

    The last of one id counts, at the place of the first; ids that are whole numbers come
    first, in their order.
    """
    found: dict[str, ForeignRule] = {}
    for rule in rules:
        if rule.id in found:
            rule.note("repeated-id", f"_id {shown(rule.id)} stands several times")
        found[rule.id] = rule
    numbers = sorted((name for name in found if _is_index(name)), key=int)
    return {name: found[name] for name in (*numbers, *(n for n in found if n not in numbers))}


def _is_index(name: str) -> bool:
    return _INDEX.fullmatch(name) is not None and int(name) <= _INDEX_MAX
