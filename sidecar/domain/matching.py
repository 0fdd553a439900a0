"""
What a request must look like.

Route patterns of a whole policy are numbered in one RE2 set, so that a check matches all of
them in a single pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import re2

from sidecar.domain.requests import AccessRequest

ROUTE_SET_BYTES_MAX = 256 * 1024 * 1024
"""Memory that the set may use; RE2's default of 8 MiB refuses 1,000 demanding patterns."""


def _route_options() -> Any:
    options = re2.Options()
    options.max_mem = ROUTE_SET_BYTES_MAX
    options.log_errors = False
    return options


class RouteSet:
    """All route patterns of a policy; RE2 search over the normalised path, in one pass."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile the patterns; their order is their number. They have been checked before."""
        self.patterns = tuple(patterns)
        self._set = re2.Set.SearchSet(_route_options())
        for pattern in patterns:
            self._set.Add(pattern)
        if patterns:
            self._set.Compile()

    def match(self, path: str) -> frozenset[int]:
        """Numbers of the patterns found in the path."""
        if not self.patterns:
            return frozenset()
        # RE2 answers None, not an empty list, where no pattern is found.
        return frozenset(self._set.Match(path) or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a request must look like: OR inside a list, AND across kinds; empty matches all."""

    routes: frozenset[int] = frozenset()
    methods: frozenset[str] = frozenset()
    headers: tuple[tuple[str, Any], ...] = ()

    @property
    def names_routes(self) -> bool:
        """Whether the match claims routes, rather than applying to all."""
        return bool(self.routes)

    def accepts(self, request: AccessRequest, routes: frozenset[int]) -> bool:
        """Whether the request, whose path matched `routes`, fits."""
        if self.routes and not self.routes & routes:
            return False
        if self.methods and request.method not in self.methods:
            return False
        return all(
            any(pattern.search(value) for value in request.headers.get(name, ()))
            for name, pattern in self.headers
        )
