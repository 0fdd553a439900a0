"""All checks of lint, in the order of the files."""

from collections.abc import Sequence

from sidecar.services.linting.findings import Finding, Linted, Severity
from sidecar.services.linting.money import lint_money
from sidecar.services.linting.reach import lint_reach
from sidecar.services.linting.routes import lint_routes
from sidecar.services.linting.safety import lint_safety, lint_tests

_CHECKS = (lint_reach, lint_routes, lint_money, lint_safety, lint_tests)


def lint_policy(linted: Linted) -> list[Finding]:
    """Every finding, by place; a finding that is the same twice stands once."""
    found = {
        (finding.place, finding.code, finding.message): finding
        for check in _CHECKS
        for finding in check(linted)
    }
    return sorted(found.values(), key=lambda one: (_spot(one.place), one.code, one.message))


def fails(findings: Sequence[Finding], *, strict: bool) -> bool:
    """Whether there is an error, or with `strict` a warning."""
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    return any(finding.severity in failing for finding in findings)


def _spot(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return file, int(line) if line.isdecimal() else 0
