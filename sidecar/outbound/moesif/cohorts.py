"""The configuration's cohorts to lists of members: whom each rule is for, in which order."""

import re
from collections.abc import Mapping
from typing import Any

from sidecar.domain.value_texts import value_text
from sidecar.outbound.moesif.findings import Findings, shown
from sidecar.outbound.moesif.reading import kind_of, truthy
from sidecar.outbound.moesif.rules import ForeignRule

EMPTY_ID = "(empty)"
"""Stands for an id of no characters, which no list of members can hold."""
ID_LENGTH_MAX = 200
MEMBER_RULES_MAX = 100
VALUE_LENGTH_MAX = 1_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OTHER_SETTINGS = ("block_bot_traffic", "ip_addresses_blocked_by_name", "regex_config")
_VALUES = "values."
Lists = dict[str, list[Any]]


def member_id(text: str) -> str:
    """The id under which an entity's list stands."""
    return text or EMPTY_ID


def read_cohorts(
    config: Mapping[str, Any],
    kind: str,
    rules: Mapping[str, ForeignRule],
    findings: Findings,
    *,
    unsendable: bool = False,
) -> Lists:
    """
    Lists of members of one kind.

    Args:
        config: The agents' configuration.
        kind: user or company.
        rules: The rules of that kind, by id, with their names here.
        findings: What there is to tell.
        unsendable: Keep ids and values of any form.
    """
    key = f"{kind}_rules"
    entities = config.get(key)
    if entities is None:
        return {}
    if not isinstance(entities, dict):
        findings.note("not-imported", f"{key} is {kind_of(entities)}, read as empty")
        return {}
    lists: Lists = {}
    for entity in sorted(entities):
        entries = _entries(entities[entity], f"{key} of {shown(entity)}", findings)
        found = _Cohort(entity, rules, findings, unsendable=unsendable).read(entries)
        if not found:
            continue
        if not unsendable and (len(entity) > ID_LENGTH_MAX or _CONTROL.search(entity)):
            findings.note("not-imported", f"{key}: {shown(entity)} cannot be an id here")
        elif len(found) > MEMBER_RULES_MAX:
            findings.note(
                "not-imported", f"{key} of {shown(entity)}: more than {MEMBER_RULES_MAX} rules"
            )
        else:
            if not entity:
                findings.note("empty-id", f"{key} has an entity with an empty id")
            lists[member_id(entity)] = found
    return lists


def note_settings(config: Mapping[str, Any], findings: Findings) -> None:
    """Tell which parts of the configuration are no cohorts and would have done something."""
    for key in _OTHER_SETTINGS:
        if truthy(config.get(key)) and config[key] not in ([], {}):
            findings.note("configuration", f"{key} is {shown(config[key])}")


def _entries(value: Any, where: str, findings: Findings) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        findings.note("not-imported", f"{where} is {kind_of(value)}, read as empty")
        return []
    good = [entry for entry in value if isinstance(entry, dict)]
    if len(good) < len(value):
        findings.note("not-imported", f"{where} has an entry that is no object; it is left out")
    return good


class _Cohort:
    """One entity's list."""

    def __init__(
        self,
        entity: str,
        rules: Mapping[str, ForeignRule],
        findings: Findings,
        *,
        unsendable: bool,
    ) -> None:
        self._entity = entity
        self._rules = rules
        self._findings = findings
        self._unsendable = unsendable

    def read(self, entries: list[dict[str, Any]]) -> list[Any]:
        """
        The rules that name the entity, the one that wins first.

        Of a rule that stands twice the first entry has the values, the last one the place. A
        number and the same number as text are one rule, but its values go with its own kind.
        """
        values: dict[str, Any] = {}
        order: dict[str, None] = {}
        for entry in entries:
            rule_id = value_text(entry.get("rules", "undefined"))
            if rule_id not in self._rules:
                self._findings.note("unknown-rule", f"rule {shown(rule_id)} is unknown")
                continue
            if rule_id in order:
                self._rules[rule_id].note("repeated-entry", "stands twice in an entity's list")
            if _is_same(entry.get("rules"), self._rules[rule_id].written_id):
                values.setdefault(rule_id, entry.get("values"))
            order.pop(rule_id, None)
            order[rule_id] = None
        self._note_order(list(order))
        return [
            written
            for rule_id in reversed(order)
            for written in self._memberships(self._rules[rule_id], values.get(rule_id))
        ]

    def _memberships(self, rule: ForeignRule, values: Any) -> list[Any]:
        if rule.outside:
            return list(rule.names)  # Its list is of those that it is not for.
        found = {} if not rule.names else self._values(rule, values)
        if not found:
            return list(rule.names)
        return [{"rule": name, "values": found} for name in rule.names]

    def _values(self, rule: ForeignRule, values: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in rule.wording.values_for(values).items():
            unfit = len(value) > VALUE_LENGTH_MAX or _CONTROL.search(value)
            if unfit and not self._unsendable:
                rule.note(
                    "not-imported",
                    f"the value of {key} for {shown(self._entity)} is no line of at most "
                    f"{VALUE_LENGTH_MAX} characters",
                )
                continue
            found[key.removeprefix(_VALUES)] = value
        missing = rule.wording.missing_in(values)
        if missing:
            rule.note("missing-template-value", f"{{{{{missing}}}}} has no value for some entity")
        return found

    def _note_order(self, order: list[str]) -> None:
        applying = [self._rules[name] for name in order if not self._rules[name].outside]
        for rule in applying[:-1]:
            if rule.groups is not None:
                rule.note("cohort-order", "other rules follow it in an entity's list")
        blocking = [rule for rule in applying if rule.blocks]
        for rule in blocking if len(blocking) > 1 else []:
            rule.note("several-rules", "an entity's list has other blocking rules too")


def _is_same(first: Any, second: Any) -> bool:
    """Whether two plain JSON values are the same to JavaScript's `===`."""
    texts = isinstance(first, str), isinstance(second, str)
    flags = isinstance(first, bool), isinstance(second, bool)
    return texts[0] is texts[1] and flags[0] is flags[1] and bool(first == second)
