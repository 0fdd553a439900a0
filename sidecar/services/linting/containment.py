"""Whether one rule is for each request and caller that another is for: proven, or not said."""

from collections.abc import Sequence

from sidecar.domain.counters import Level
from sidecar.domain.customers import CustomerMatch, UserMatch
from sidecar.domain.matching import Match
from sidecar.domain.rules import Rule, Unidentified
from sidecar.services.linting.patterns import covers_pattern


def covers_rule(outer: Rule, inner: Rule, patterns: Sequence[str]) -> bool:
    """
    Whether `outer` is for every check that `inner` is for, conditions (`when`) apart.

    Lists of members are left out: they change who is meant, and the order.
    """
    if outer.customer_members or outer.user_members:
        return False
    if inner.customer_members or inner.user_members:
        return False
    return (
        _covers_callers(outer, inner)
        and covers_customers(outer.customers, inner.customers)
        and _covers_users(outer.users, inner.users)
        and covers_matches(outer.match, inner.match, patterns)
    )


def _covers_callers(outer: Rule, inner: Rule) -> bool:
    """Callers that can be told, and those that cannot: each rule says what it does with them."""
    if outer.level not in (Level.CUSTOMER, inner.level):
        return False
    if inner.unidentified is Unidentified.ONLY:
        anybody = outer.unidentified in (Unidentified.APPLY, Unidentified.ONLY)
        return anybody and outer.level is inner.level
    if outer.unidentified is Unidentified.ONLY:
        return False
    if inner.unidentified is Unidentified.SKIP:
        return True
    same = outer.unidentified is inner.unidentified
    return same and outer.level is inner.level


def covers_customers(outer: CustomerMatch, inner: CustomerMatch) -> bool:
    """Whether each customer that `inner` selects is one that `outer` does."""
    excluded = outer.exclude - inner.exclude
    if excluded and not (inner.ids and inner.ids.isdisjoint(excluded)):
        return False
    return (
        _covers_set(outer.plans, inner.plans)
        and _covers_set(outer.ids, inner.ids)
        and outer.labels.items() <= inner.labels.items()
    )


def _covers_users(outer: UserMatch | None, inner: UserMatch | None) -> bool:
    if outer is None:
        return True
    if inner is None:
        return False
    excluded = outer.exclude - inner.exclude
    if excluded and not (inner.ids and inner.ids.isdisjoint(excluded)):
        return False
    return _covers_set(outer.ids, inner.ids) and _covers_set(outer.teams, inner.teams)


def covers_matches(outer: Sequence[Match], inner: Sequence[Match], patterns: Sequence[str]) -> bool:
    """Whether each request that one of `inner` accepts is accepted by one of `outer`."""
    if not outer:
        return True
    alternatives = inner or (Match(),)
    return all(
        any(covers_match(wide, narrow, patterns) for wide in outer) for narrow in alternatives
    )


def covers_match(outer: Match, inner: Match, patterns: Sequence[str]) -> bool:
    """The same for one alternative of each."""
    return (
        _covers_routes(outer, inner, patterns)
        and _covers_set(outer.methods, inner.methods)
        and _covers_hosts(outer, inner)
        and _covers_sources(outer, inner)
        and all(
            _pairs(getattr(outer, key)) <= _pairs(getattr(inner, key))
            for key in ("headers", "query", "context", "body")
        )
    )


def _covers_routes(outer: Match, inner: Match, patterns: Sequence[str]) -> bool:
    if not outer.routes:
        return True
    return bool(inner.routes) and all(
        any(covers_pattern(patterns[wide], patterns[narrow]) for wide in outer.routes)
        for narrow in inner.routes
    )


def _covers_hosts(outer: Match, inner: Match) -> bool:
    wide = {pattern.pattern for pattern in outer.hosts}
    return not wide or (bool(inner.hosts) and {one.pattern for one in inner.hosts} <= wide)


def _covers_sources(outer: Match, inner: Match) -> bool:
    if not outer.sources:
        return True
    return bool(inner.sources) and all(
        any(
            narrow.version == wide.version and narrow.subnet_of(wide)  # type: ignore[arg-type]
            for wide in outer.sources
        )
        for narrow in inner.sources
    )


def _pairs(conditions: Sequence[tuple[str, object]]) -> set[tuple[str, str]]:
    return {(name, getattr(pattern, "pattern", "")) for name, pattern in conditions}


def _covers_set(outer: frozenset[str], inner: frozenset[str]) -> bool:
    return not outer or (bool(inner) and inner <= outer)
