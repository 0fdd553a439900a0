"""Names that parts of a policy give each other, and the route patterns that they share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.domain.matching import Match
from sidecar.domain.nearest import unknown
from sidecar.outbound.policy_files.places import Place, Problems
from sidecar.outbound.policy_files.sections import Marked, Section

PATTERNS_MAX = 20_000


def index_by_name(kind: str, sections: Iterable[Section], problems: Problems) -> dict[str, Section]:
    """Sections by their name, which has to be unique; unsound ones are known too."""
    found: dict[str, Section] = {}
    for section in sections:
        name = section.text("name")
        if not name:
            continue
        if name in found:
            problems.add(
                section.place_of("name"),
                f"{kind} {name!r} stands twice; it is at {found[name].place} already",
            )
            continue
        found[name] = section
    return found


class Patterns:
    """Numbers the distinct route patterns of a policy in the order of their first use."""

    def __init__(self, problems: Problems) -> None:
        self._numbers: dict[str, int] = {}
        self.places: dict[str, Place] = {}
        self._problems = problems

    @property
    def in_order(self) -> tuple[str, ...]:
        """Patterns by their number."""
        return tuple(self._numbers)

    def number(self, pattern: str, place: Place) -> int:
        """The pattern's number; the first pattern beyond PATTERNS_MAX is a problem."""
        if pattern not in self._numbers and len(self._numbers) == PATTERNS_MAX:
            self._problems.add(place, f"the policy has more than {PATTERNS_MAX} route patterns")
        self.places.setdefault(pattern, place)
        return self._numbers.setdefault(pattern, len(self._numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """
    What compiling any part needs: where problems go, and all names.

    `unsendable` is the reading's: whether answers are taken that no gateway could carry.
    """

    problems: Problems
    patterns: Patterns
    meters: Mapping[str, Section]
    quotas: Mapping[str, Section]
    plans: Mapping[str, Section]
    rules: Mapping[str, Section]
    features: frozenset[str]
    unsendable: bool = False

    def refer(self, kind: str, name: str, place: Place) -> bool:
        """Whether a named meter, quota, plan or rule exists; if not, a problem is noted."""
        known = {
            "meter": self.meters,
            "quota": self.quotas,
            "plan": self.plans,
            "rule": self.rules,
        }[kind]
        if name in known:
            return True
        self.problems.add(place, unknown(kind, name, known, label=f"there are these {kind}s"))
        return False

    def refer_each(self, kind: str, names: Iterable[Marked]) -> None:
        """The same for a list."""
        for item in names:
            self.refer(kind, item.value, item.place)

    def matches(self, section: Section, key: str = "match") -> tuple[Match, ...]:
        """What a section says of requests, compiled; nothing matches every request."""
        return tuple(self.match(match) for match in section.sections(key))

    def match(self, section: Section) -> Match:
        """One alternative."""
        return Match(
            routes=frozenset(
                self.patterns.number(item.value, item.place) for item in section.items("routes")
            ),
            methods=frozenset(section.texts("methods")),
            hosts=tuple(item.value for item in section.items("hosts")),
            headers=_patterns(section, "headers"),
            query=_patterns(section, "query"),
            sources=tuple(item.value for item in section.items("sources")),
            body=_patterns(section, "body"),
            context=_patterns(section, "context"),
        )


def _patterns(section: Section, key: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, item.value) for name, item in section.pairs(key))
