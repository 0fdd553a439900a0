"""Which facts of a request a policy's decisions can depend on: what a record has to keep."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sidecar.domain.identity import ApiKeySource, HeaderSource, IdentitySource, JwtSource
from sidecar.domain.matching import Match
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Mode

CREDENTIAL_HEADERS = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-api-key",
        "x-forwarded-client-cert",
    }
)
_REQUEST = "request."
_NAMED = ("headers", "query", "context", "body")
_ALWAYS_KNOWN = frozenset(
    {
        "method",
        "path",
        "scheme",
        "host",
        "source_ip",
        "time",
        "bytes",
        "model",
        "input_tokens",
        "output_tokens",
    }
)
_POLICIES_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyReads:
    """
    The names that rules, meters, estimates and error formats look up in a request.

    `body` are paths whose dots go inwards. `conditions` are, by rule, what its `when` reads of
    the request beyond what every record has, as "headers.x-tier"; a part that is read as a
    whole stands there by its own name, as "headers" or "url". `withheld` are the headers that
    carry identity and are kept nowhere. `counts` are the headers that state bounds: a plain
    number in one is kept, whatever the header's name.
    """

    headers: frozenset[str]
    query: frozenset[str]
    context: frozenset[str]
    body: frozenset[str]
    conditions: Mapping[str, frozenset[str]]
    withheld: frozenset[str]
    counts: frozenset[str]

    @property
    def all_conditions(self) -> frozenset[str]:
        """What any rule's condition reads."""
        return frozenset().union(*self.conditions.values())


def reads_of(policy: Policy) -> PolicyReads:
    """Work out what a policy reads; walks all of it, so keep the answer (`KnownReads`)."""
    conditions = {
        rule.name: reads
        for rule in policy.rules
        if rule.mode is not Mode.DRAFT
        and rule.when is not None
        and (reads := _of_request(rule.when.reads))
    }
    names: dict[str, set[str]] = {kind: set() for kind in _NAMED}
    for match in _matches(policy):
        names["headers"].update(name for name, _ in match.headers)
        names["query"].update(name for name, _ in match.query)
        names["context"].update(name for name, _ in match.context)
        names["body"].update(path for path, _ in match.body)
    counts = {stated.header for estimate in policy.estimates for stated in estimate.stated}
    names["headers"] |= counts
    for read in (read for reads in conditions.values() for read in reads):
        kind, _, name = read.partition(".")
        if name:
            names[kind].add(name)
    return PolicyReads(
        headers=frozenset(names["headers"]),
        query=frozenset(names["query"]),
        context=frozenset(names["context"]),
        body=frozenset(names["body"]),
        conditions=conditions,
        withheld=CREDENTIAL_HEADERS.union(
            *(frozenset(identity_headers(source)) for source in policy.identity)
        ),
        counts=frozenset(counts),
    )


class KnownReads:
    """What the newest few policies read, each worked out once."""

    def __init__(self) -> None:
        """Start with none."""
        self._known: list[tuple[Policy, PolicyReads]] = []

    def of(self, policy: Policy) -> PolicyReads:
        """What the policy reads."""
        for known, reads in self._known:
            if known is policy:
                return reads
        reads = reads_of(policy)
        self._known.insert(0, (policy, reads))
        del self._known[_POLICIES_MAX:]
        return reads


def _of_request(reads: frozenset[str]) -> frozenset[str]:
    """Paths below `request`; the variable alone reads everything, which nothing can record."""
    found = set()
    for read in reads:
        if read == "request":
            found.add("url")
        if not read.startswith(_REQUEST):
            continue
        path = read.removeprefix(_REQUEST)
        kind, _, name = path.partition(".")
        if kind == "fields" and name and "." not in name:
            # The same values as the body's, as texts.
            path = f"body.{name}"
        if path not in _ALWAYS_KNOWN:
            found.add(path)
    return frozenset(found)


def _matches(policy: Policy) -> Iterator[Match]:
    for rule in policy.rules:
        if rule.mode is not Mode.DRAFT:
            yield from rule.match
    for meter in policy.meters:
        yield from meter.match
    for estimate in policy.estimates:
        yield from estimate.match
    for dialect in policy.dialects:
        yield from dialect.match
    yield from policy.free


def identity_headers(source: IdentitySource) -> Iterator[str]:
    """Headers that a source reads an identity from."""
    if isinstance(source, ApiKeySource):
        yield from source.headers
    elif isinstance(source, JwtSource):
        yield "authorization"
    elif isinstance(source, HeaderSource):
        yield from (name for name in (source.customer, source.team, source.user) if name)
