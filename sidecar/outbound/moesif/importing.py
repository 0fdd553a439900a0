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
    """
    What an import made.

    `members` are lists by `customers` or `users`. `spelling` are the headers' names as they
    were written, by their lower case.
    """

    rules: tuple[WrittenRule, ...]
    members: Mapping[str, Lists]
    findings: tuple[Finding, ...]
    spelling: Mapping[str, str]

    @property
    def ids(self) -> dict[str, str]:
        """The foreign id of each of our rules."""
        return {rule.name: rule.id for rule in self.rules}

    @property
    def lost(self) -> tuple[Finding, ...]:
        """What could not be imported."""
        return tuple(finding for finding in self.findings if finding.lost)


def import_rules(rules: Sequence[Any], config: Mapping[str, Any]) -> Imported:
    """
    Turn foreign rules and cohorts into ours.

    Args:
        rules: As an agent receives them.
        config: As an agent receives it; who is in which rule's cohort, with values.

    Returns:
        Our rules in their order, the members' lists and what there is to tell.
    """
    findings = Findings()
    read = [read_rule(value, number, findings) for number, value in enumerate(rules, 1)]
    known = [rule for rule in read if rule is not None]
    spelling: dict[str, str] = {}
    writer = RuleWriter(spelling)
    written: list[WrittenRule] = []
    members: dict[str, Lists] = {}
    for kind, selection in KINDS.items():
        of_kind = [rule for rule in known if rule.kind == kind]
        unique = by_id(of_kind)
        written += writer.for_nobody(of_kind)
        written += writer.for_entities(list(unique.values()))
        members[selection] = read_cohorts(config, kind, unique, findings)
    everyone = [rule for rule in known if rule.kind == "regex"]
    written += writer.for_everyone(everyone)
    _note_several(known)
    note_settings(config, findings)
    return Imported(
        rules=tuple(written),
        members=members,
        findings=tuple(findings.found),
        spelling=spelling,
    )


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
