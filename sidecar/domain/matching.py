"""
What a request must look like.

Route patterns of a policy are numbered in few RE2 sets, so that a check matches hundreds of them
in a single pass. Whatever else a rule may ask of a request is worked out when the first
rule asks, once a check.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Self

import re2

from sidecar.domain.errors import InvalidInput
from sidecar.domain.remembering import Remembered
from sidecar.domain.request_body import UNREADABLE, body_field, read_body
from sidecar.domain.requests import AccessRequest, parse_query
from sidecar.domain.steps import Container, Steps, at_once

ROUTES_BYTES_MAX = 256 * 1024 * 1024
"""Memory that all sets may use; RE2's default of 8 MiB refuses 1,000 demanding patterns."""
SET_BYTES_MIN = 8 * 1024 * 1024
BYTES_PER_WEIGHT = 256
"""So that a set's automaton has room for its states, each of which may name every instruction."""
SET_WEIGHT_MAX = 10_000
"""Of the patterns of one set, which RE2 compiles in one go and under Python's lock: 1 to 4 ms."""
ROUTES_WEIGHT_MAX = 4_000_000
"""Of all: the instructions that fit into ROUTES_BYTES_MAX."""

_KNOWN_PATH_CHARS_MAX = 256
"""Of a path whose routes are remembered."""

Groups = Sequence[Sequence[str]]


def _options(bytes_max: int) -> Any:
    options = re2.Options()
    options.max_mem = bytes_max
    options.log_errors = False
    return options


class RouteSet:
    """
    All route patterns of a policy; RE2 search over the normalised path.

    One pass finds all patterns of a group. More than a few hundred are several groups, because a
    group is compiled in one step. `groups` has the patterns in order.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """
        Compile the patterns; their order is their number. Each has been checked before.

        Raises:
            InvalidInput: They are too complex together.
        """
        at_once(self._compile(_grouped(patterns)))

    @classmethod
    def in_steps(cls, groups: Groups) -> Steps[Self]:
        """Make one of the groups of another, each in a step."""
        routes = cls.__new__(cls)
        yield from routes._compile(groups)  # noqa: SLF001  Its own.
        return routes

    def _compile(self, groups: Groups) -> Steps[None]:
        self.groups = tuple(tuple(group) for group in groups)
        self.patterns = tuple(pattern for group in self.groups for pattern in group)
        self._known: Remembered[frozenset[int]] = Remembered()
        self._sets: list[tuple[int, Any]] = []
        first = 0
        for group in self.groups:
            self._sets.append((first, _compiled(group, len(self.groups))))
            first += len(group)
            yield

    def containers(self) -> list[Container]:
        """What it is large by; whoever empties them must be the last who knows it."""
        return [self._sets]

    def match(self, path: str) -> frozenset[int]:
        """Numbers of the patterns found in the path."""
        if not self.patterns:
            return frozenset()
        known = self._known.get(path)
        if known is not None:
            return known
        numbers: list[int] = []
        for first, compiled in self._sets:
            found = compiled.Match(path)
            # RE2 answers None, not an empty list, where no pattern is found.
            if found:
                numbers += [first + number for number in found]
        routes = frozenset(numbers)
        return routes if len(path) > _KNOWN_PATH_CHARS_MAX else self._known.put(path, routes)


def _grouped(patterns: Sequence[str]) -> Groups:
    """Neighbours together, as many as can be compiled in one short step, but at least one."""
    groups: list[list[str]] = []
    weight = total = 0
    for pattern in patterns:
        heavy = _weight(pattern)
        weight, total = weight + heavy, total + heavy
        if weight > SET_WEIGHT_MAX or not groups:
            groups.append([])
            weight = heavy
        groups[-1].append(pattern)
    if total > ROUTES_WEIGHT_MAX:
        raise InvalidInput("the patterns are too complex together")
    return groups


def _weight(pattern: str) -> int:
    """What compiling a pattern costs, about: 0.1 to 0.4 us each."""
    # Instructions leave out what a pattern begins with; its text leaves out what is repeated.
    size: int = re2.compile(pattern, _options(SET_BYTES_MIN)).programsize
    return size + len(pattern)


def _compiled(group: Sequence[str], groups: int) -> Any:
    weight = sum(map(_weight, group)) if len(group) == 1 else SET_WEIGHT_MAX
    bytes_max = max(ROUTES_BYTES_MAX // groups, SET_BYTES_MIN, BYTES_PER_WEIGHT * weight)
    compiled = re2.Set.SearchSet(_options(bytes_max))
    for pattern in group:
        compiled.Add(pattern)
    try:
        compiled.Compile()
    except re2.error:
        raise InvalidInput("the patterns are too complex together") from None
    # The first answer makes RE2's tables; no check is to wait for them.
    compiled.Match("/")
    return compiled


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class RequestView:
    """
    A request as rules look at it.

    `path` is the normalised one, `routes` the numbers of the patterns found in it.
    """

    def __init__(self, request: AccessRequest, path: str, routes: frozenset[int]) -> None:
        """Take the request; nothing else is read before a rule asks."""
        self.request = request
        self.path = path
        self.routes = routes

    @cached_property
    def host(self) -> str:
        """The host in lower case, without its port and the dot of a full name."""
        host = self.request.host.lower()
        if host.startswith("["):
            return host.partition("]")[0] + "]"
        return host.partition(":")[0].rstrip(".")

    @cached_property
    def query(self) -> Mapping[str, tuple[str, ...]]:
        """The query's parameters, decoded, each with all its values in order."""
        return parse_query(self.request.path)

    @cached_property
    def source(self) -> Address | None:
        """The caller's address; None where the gateway told none that can be read."""
        try:
            address = ip_address(self.request.source)
        except ValueError:
            return None
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return mapped or address

    @cached_property
    def source_ip(self) -> str:
        """The caller's address as text; "" where the gateway told none that can be read."""
        return "" if self.source is None else str(self.source)

    @cached_property
    def url(self) -> str:
        """The whole URL, with the path as sent."""
        request = self.request
        return f"{request.scheme}://{request.host}{request.path}"

    @cached_property
    def body(self) -> Any:
        """The JSON body; None where there is none, UNREADABLE where it cannot be trusted."""
        return read_body(self.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """
    What a request must look like: OR inside a list, AND across kinds; empty matches all.

    `headers`, `query`, `context` and `body` are names (of a body: paths whose dots go
    inwards) with the pattern that one of their values must have.
    """

    routes: frozenset[int] = frozenset()
    methods: frozenset[str] = frozenset()
    hosts: tuple[Any, ...] = ()
    headers: tuple[tuple[str, Any], ...] = ()
    query: tuple[tuple[str, Any], ...] = ()
    sources: tuple[Network, ...] = ()
    body: tuple[tuple[str, Any], ...] = ()
    context: tuple[tuple[str, Any], ...] = ()
    _asked: tuple[tuple[str, "_Test"], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asked = tuple((name, test) for name, test in _TESTS.items() if getattr(self, name))
        object.__setattr__(self, "_asked", asked)

    @property
    def asks_more(self) -> bool:
        """Whether it asks for anything but routes and method."""
        return any(name not in _OF_ROUTE for name, _ in self._asked)

    def fits_route_and_method(self, view: RequestView) -> bool:
        """Whether the request fits as far as its routes and its method go."""
        return all(test(self, view) for name, test in self._asked if name in _OF_ROUTE)

    @property
    def names_routes(self) -> bool:
        """Whether the match claims routes, rather than applying to all."""
        return bool(self.routes)

    def accepts(self, view: RequestView) -> bool:
        """Whether the request fits."""
        for _, test in self._asked:  # noqa: SIM110  A generator costs more than most tests.
            if not test(self, view):
                return False
        return True

    def first_obstacle(self, view: RequestView) -> str:
        """The first condition, by its key, that the request does not meet; empty if it fits."""
        return next((name for name, test in self._asked if not test(self, view)), "")


_Test = Callable[[Match, RequestView], bool]


def _fits_routes(match: Match, view: RequestView) -> bool:
    return not match.routes.isdisjoint(view.routes)


def _fits_method(match: Match, view: RequestView) -> bool:
    return view.request.method in match.methods


def _fits_host(match: Match, view: RequestView) -> bool:
    return any(pattern.search(view.host) for pattern in match.hosts)


def _fits_headers(match: Match, view: RequestView) -> bool:
    return all(
        any(pattern.search(value) for value in view.request.headers.get(name, ()))
        for name, pattern in match.headers
    )


def _fits_query(match: Match, view: RequestView) -> bool:
    return all(
        any(pattern.search(value) for value in view.query.get(name, ()))
        for name, pattern in match.query
    )


def _fits_source(match: Match, view: RequestView) -> bool:
    source = view.source
    return source is not None and any(
        source.version == network.version and source in network for network in match.sources
    )


def _fits_context(match: Match, view: RequestView) -> bool:
    context = view.request.context
    return all(
        name in context and bool(pattern.search(context[name])) for name, pattern in match.context
    )


def _fits_body(match: Match, view: RequestView) -> bool:
    if view.body is UNREADABLE:
        # Whoever hides what a request says is not spared the rules that ask.
        return True
    return all(
        value is not None and _found_in_body(pattern, value)
        for value, pattern in ((body_field(view.body, path), p) for path, p in match.body)
    )


def _found_in_body(pattern: Any, value: str) -> bool:
    try:
        return bool(pattern.search(value))
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON can say and UTF-8 cannot: servers differ on it.
        return True


_OF_ROUTE = frozenset({"routes", "methods"})
_TESTS: Mapping[str, _Test] = {
    "routes": _fits_routes,
    "methods": _fits_method,
    "headers": _fits_headers,
    "hosts": _fits_host,
    "query": _fits_query,
    "sources": _fits_source,
    "context": _fits_context,
    "body": _fits_body,
}
"""Each condition of a match with its test, the cheap ones first: what decides also explains."""


def fits_any(matches: Sequence[Match], view: RequestView) -> bool:
    """Whether one of the matches accepts the request; no match at all accepts each."""
    for match in matches:
        if match.accepts(view):
            return True
    return not matches
