"""Rules and configuration of Moesif's agents to a policy of ours that decides the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.outbound.moesif.cohorts import Lists, note_settings, read_cohorts
from sidecar.outbound.moesif.findings import Finding, Findings
from sidecar.outbound.moesif.rules import (
    KINDS,
    ForeignRule,
    RuleWriter,
    WrittenRule,
    by_id,
    read_rule,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import made; `members` are lists by `customers` or `users`."""

    rules: tuple[WrittenRule, ...]
    members: Mapping[str, Lists]
    findings: tuple[Finding, ...]

    @property
    def by_name(self) -> dict[str, WrittenRule]:
        """Our rules by their names."""
        return {rule.name: rule for rule in self.rules}

    @property
    def lost(self) -> tuple[Finding, ...]:
        """What could not be imported."""
        return tuple(finding for finding in self.findings if finding.lost)


def import_rules(
    rules: Sequence[Any], config: Mapping[str, Any], *, unsendable: bool = False
) -> Imported:
    """
    Turn foreign rules and cohorts into ours.

    Args:
        rules: As an agent receives them.
        config: As an agent receives it; who is in which rule's cohort, with values.
        unsendable: Keep answers, ids and values that no gateway could carry, as they were
            written; what comes of them can be judged and not served.

    Returns:
        Our rules in their order, the members' lists and what there is to tell.
    """
    findings = Findings()
    read = [
        read_rule(value, number, findings, unsendable=unsendable)
        for number, value in enumerate(rules, 1)
    ]
    known = [rule for rule in read if rule is not None]
    writer = RuleWriter(unsendable=unsendable)
    written: list[WrittenRule] = []
    members: dict[str, Lists] = {}
    for kind, selection in KINDS.items():
        of_kind = [rule for rule in known if rule.kind == kind]
        unique = by_id(of_kind)
        written += writer.for_nobody(of_kind)
        written += writer.for_entities(list(unique.values()))
        members[selection] = read_cohorts(config, kind, unique, findings, unsendable=unsendable)
    everyone = [rule for rule in known if rule.kind == "regex"]
    written += writer.for_everyone(everyone)
    _note_several(known)
    note_settings(config, findings)
    return Imported(rules=tuple(written), members=members, findings=tuple(findings.found))


def _note_several(rules: Sequence[ForeignRule]) -> None:
    """Blocking rules that can apply to one request; those of cohorts are told with them."""
    for kind, outside in (("regex", False), ("user", True), ("company", True)):
        blocking = [
            rule
            for rule in rules
            if rule.kind == kind and rule.blocks and (kind == "regex" or rule.outside is outside)
        ]
        for rule in blocking if len(blocking) > 1 else []:
            rule.note("several-rules", f"{len(blocking)} blocking rules of type {kind} can meet")
