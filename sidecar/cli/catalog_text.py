"""A catalog's difference for people and for programs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sidecar.domain.catalog import Problem
from sidecar.domain.catalog_changes import Action, CatalogDiff, Cause, Change

_SIGNS = {Action.CREATE: "+", Action.UPDATE: "~", Action.TRANSFER: "~", Action.ARCHIVE: "-"}


def diff_lines(diff: CatalogDiff, notes: Sequence[Problem]) -> Iterator[str]:
    """All changes with their reasons, what stands in the way, and how many there are."""
    for line in _raw_lines(diff, notes):
        yield printable(line)


def printable(text: str) -> str:
    """One line: names come from the provider and may hold what steers a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _raw_lines(diff: CatalogDiff, notes: Sequence[Problem]) -> Iterator[str]:
    for change in diff.changes:
        yield change_line(change)
        for key, after in change.after.items():
            before = change.before.get(key, "")
            yield f"      {key}: {f'{before} -> ' if key in change.before else ''}{after}"
        for key, before in change.before.items():
            if key not in change.after:
                yield f"      {key}: {before} -> (none)"
    for problem in diff.problems:
        yield f"! {problem}"
    for note in notes:
        yield f"note: {note}"
    yield summary(diff)


def change_line(change: Change) -> str:
    """One change, one line."""
    which = f" ({change.id})" if change.id else ""
    drift = ", changed by hand" if change.cause is Cause.DRIFT else ""
    loss = ", LOSES USAGE" if change.disruptive else ""
    return (
        f"{_SIGNS[change.action]} {change.kind} {change.name}{which}{drift}{loss}: {change.reason}"
    )


def summary(diff: CatalogDiff) -> str:
    """The last line."""
    if not diff.changes and not diff.problems:
        return "no changes: the catalog is what the policy says"
    count = Counter(_SIGNS[change.action] for change in diff.changes)
    drifted = sum(change.cause is Cause.DRIFT for change in diff.changes)
    return (
        f"{count['+']} to create, {count['~']} to change, {count['-']} to archive; "
        f"{drifted} changed by hand; {len(diff.problems)} problems"
    )


def change_json(change: Change) -> dict[str, Any]:
    """One change as JSON types."""
    return {
        "action": change.action.value,
        "kind": change.kind.value,
        "name": change.name,
        "id": change.id or None,
        "cause": change.cause.value,
        "reason": change.reason,
        "before": dict(change.before),
        "after": dict(change.after),
        "disruptive": change.disruptive,
    }


def diff_json(diff: CatalogDiff, notes: Sequence[Problem], version: str) -> dict[str, Any]:
    """A whole difference as JSON types."""
    return {
        "policy_version": version,
        "changes": [change_json(change) for change in diff.changes],
        "problems": [problem_json(problem) for problem in diff.problems],
        "notes": [problem_json(note) for note in notes],
    }


def problem_json(problem: Problem) -> dict[str, str]:
    """A problem as JSON types."""
    return {"where": problem.where, "message": problem.message}
