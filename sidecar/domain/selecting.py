"""
What a request selects, remembered by what nearly all of it depends on: its routes and method.

Most matches ask for nothing else, so for them the first request of a route decides for all that
follow. Matches that ask for more (a header, an address, the body) are tried for each request.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from sidecar.domain.matching import Match, RequestView, fits_any
from sidecar.domain.remembering import Remembered

T = TypeVar("T")
Tests = tuple[Match, ...]
"""Of which one must accept the request; empty if it fits whatever else it is."""


class Selection(Generic[T]):
    """Things that a policy says of requests, in order; each is for those that its matches fit."""

    def __init__(self, items: Iterable[T], matches_of: Callable[[T], Sequence[Match]]) -> None:
        """Take the items; one without a match is for every request."""
        self._items = tuple((item, tuple(matches_of(item))) for item in items)
        self._known: Remembered[tuple[tuple[T, Tests], ...]] = Remembered()

    def all(self, view: RequestView) -> list[T]:
        """Every item that the request fits."""
        return [item for item, tests in self._candidates(view) if fits_any(tests, view)]

    def first(self, view: RequestView) -> T | None:
        """The first item that the request fits."""
        for item, tests in self._candidates(view):
            if fits_any(tests, view):
                return item
        return None

    def tests(self, view: RequestView) -> list[Tests]:
        """What is yet to be tried of the request for each item that may fit."""
        return [tests for _, tests in self._candidates(view)]

    def _candidates(self, view: RequestView) -> tuple[tuple[T, Tests], ...]:
        key = (view.routes, view.request.method)
        known = self._known.get(key)
        if known is not None:
            return known
        found = ((item, tests_left(matches, view)) for item, matches in self._items)
        return self._known.put(
            key, tuple((item, tests) for item, tests in found if tests is not None)
        )


def tests_left(matches: Sequence[Match], view: RequestView) -> Tests | None:
    """
    Which matches are yet to be tried, routes and method apart.

    Returns:
        Empty if every request of these routes and method fits, None if none does.
    """
    if not matches:
        return ()
    left = []
    for match in matches:
        if not match.fits_route_and_method(view):
            continue
        if not match.asks_more:
            return ()
        left.append(match)
    return tuple(left) or None
