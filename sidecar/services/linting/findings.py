"""A finding, and what every check of lint is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sidecar.domain.policy import Policy
from sidecar.services.policy_places import NO_PLACES, Places
from sidecar.services.rule_coverage import Coverage
from sidecar.services.rule_test_cases import RuleTestResult


class Severity(StrEnum):
    """An error is certain and defeats a rule; a warning is likely a mistake; a note informs."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding: where, what was found, and what mends it."""

    code: str
    severity: Severity
    place: str
    message: str
    mend: str
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """A request of recorded traffic; `count` is how often it was seen."""

    method: str
    path: str
    host: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Linted:
    """
    What is looked at.

    `traffic` is None where none was given. `body_bytes` is how much of a body the gateway
    hands over.
    """

    policy: Policy
    places: Places = NO_PLACES
    results: Sequence[RuleTestResult] = ()
    coverage: Coverage = field(default_factory=Coverage)
    traffic: Sequence[SeenRequest] | None = None
    body_bytes: int = 0
