"""An import as files: our YAML with comments, and a report of what differs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sidecar.domain.errors import ConfigError
from sidecar.outbound.moesif.findings import CONSTRUCTS, Finding
from sidecar.outbound.moesif.importing import Imported
from sidecar.outbound.moesif.rules import WrittenRule
from sidecar.outbound.policy_files.schema import policy_schema_text

POLICY_FILE, RULES_FILE = "moesif-10-policy.yaml", "moesif-20-rules.yaml"
MEMBERS_FILE = "moesif-30-members-{:03d}.yaml"
REPORT_FILE = "IMPORT-WARNINGS.md"
PLAN = "imported"
SCHEMA_FILE = "policy.schema.json"
"""Written beside the rules, so that editors can help with them."""
_MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n#\n"
MEMBERS_IN_FILE_MAX = 5_000
_WIDTH = 100
_POLICY = f"""\
# Imported from rules in Moesif's format. Rules apply to every request; nothing is priced yet.
#
# A plan has to exist for customers to be on. Give it prices, or put your own plans here.
unmatched: allow
plans:
  - name: {PLAN}
    billing: postpaid
    currency: USD
    prices: []
"""
_RULES = """\
# Imported from rules in Moesif's format; the names are made of their ids.
#
# There the last matching rule wins, and rules for users win over those for companies and over
# those for everyone. Here the first one wins, so the order is turned around.
# IMPORT-WARNINGS.md tells what the agents read differently. `members` files say who is listed.
"""
_MEMBERS = """\
# Imported from the configuration of Moesif's agents: who was in which rule's cohort when it
# was saved, with the values of the rule's templates. The first rule of a list wins.
"""
_PREFACE = (
    "{} rules were written. Agents that read the same rules do not agree on all of them; "
    "this says where, and what the rules do here."
)
_SNAPSHOT = (
    "Who is in a cohort is a snapshot: Moesif decides it and agents poll it once a minute. "
    "Import again when it changes, or let rules of your own count."
)


class _Dumper(yaml.CSafeDumper):
    """Writes no anchors: the reader of our files refuses them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  PyYAML's form.
        return True


def file_texts(imported: Imported) -> dict[str, str]:
    """The policy files by name; the same input gives the same text."""
    files = {
        POLICY_FILE: _MODELINE + _POLICY,
        RULES_FILE: _MODELINE + _RULES + "".join(_rules(imported.rules)),
    }
    for number, part in enumerate(_member_parts(imported.members), 1):
        files[MEMBERS_FILE.format(number)] = _MODELINE + _MEMBERS + _dump({"members": part})
    return files


def report_text(imported: Imported) -> str:
    """The report: what was lost, then each construct with the rules that have it."""
    lost, others = imported.lost, [f for f in imported.findings if not f.lost]
    lines = [
        "# What this import cannot promise",
        "",
        _PREFACE.format(len(imported.rules)),
        "",
        _SNAPSHOT,
        "",
    ]
    if lost:
        lines += ["## Not imported", "", *(f"- {finding}" for finding in lost), ""]
    for code, construct in CONSTRUCTS.items():
        found = [finding for finding in others if finding.code == code]
        if not found:
            continue
        lines += [f"## {construct.title} ({code})", ""]
        lines += [f"Agents: {construct.agents}.", "", f"Here: {construct.here}.", ""]
        lines += [f"- {_where(finding)}: {finding.detail}" for finding in found]
        lines += [""]
    return "\n".join(lines)


def write_import(imported: Imported, directory: Path) -> list[Path]:
    """
    Write the policy files and the report into a folder; files of an earlier import go.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    texts = {
        **file_texts(imported),
        REPORT_FILE: report_text(imported),
        SCHEMA_FILE: policy_schema_text(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("moesif-30-members-*.yaml"):
            if old.name not in texts:
                old.unlink()
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from error
    return [directory / name for name in texts]


def _rules(rules: Sequence[WrittenRule]) -> Iterator[str]:
    yield "rules:\n" if rules else "rules: []\n"
    for rule in rules:
        title = f" {_comment(rule.title)}" if rule.title else ""
        yield f"\n  #{title} (_id {_comment(rule.id)})\n"
        text = _dump([dict(rule.data)])
        yield "".join(f"  {line}" if line.strip() else line for line in text.splitlines(True))


def _member_parts(members: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for kind, lists in members.items():
        entries = list(lists.items())
        for start in range(0, len(entries), MEMBERS_IN_FILE_MAX):
            yield {kind: dict(entries[start : start + MEMBERS_IN_FILE_MAX])}


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


def _comment(text: str) -> str:
    """A foreign text on one line of a comment."""
    return "".join(c if c.isprintable() else " " for c in text)[:200]


def _where(finding: Finding) -> str:
    if not finding.rule:
        return "import"
    named = f" ({_comment(finding.name)})" if finding.name not in ("", finding.rule) else ""
    return f"`{_comment(finding.rule)}`{named}"
