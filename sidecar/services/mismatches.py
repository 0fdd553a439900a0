"""Why a rule is not for a request: what decided, in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidecar.domain.customers import CustomerFacts, UserMatch
from sidecar.domain.matching import Match, RequestView
from sidecar.domain.policy import Policy
from sidecar.domain.redaction import Redaction, shown
from sidecar.domain.request_body import UNREADABLE, body_field
from sidecar.domain.rules import Rule
from sidecar.services.explanation import Mismatch

_WANTED_MAX = 5


class Mismatches:
    """Explains mismatches under one policy; the domain's own tests say which there are."""

    def __init__(self, policy: Policy) -> None:
        """Take the policy: its route patterns, and which headers are credentials."""
        self._policy = policy
        self._redaction = Redaction(policy.identity)

    def of(self, rule: Rule, view: RequestView, customer: CustomerFacts) -> tuple[Mismatch, ...]:
        """One mismatch of the caller, or one per alternative of `match`; none if it matches."""
        obstacle = self._policy.caller_obstacle(rule, customer)
        if obstacle:
            return (_of_caller(rule, obstacle, customer),)
        found = [(match, match.first_obstacle(view)) for match in rule.match]
        if not all(obstacle for _, obstacle in found):
            return ()
        return tuple(self._of_match(match, obstacle, view) for match, obstacle in found)

    def _of_match(self, match: Match, obstacle: str, view: RequestView) -> Mismatch:
        words = {
            "routes": self._routes,
            "methods": self._methods,
            "headers": self._headers,
            "hosts": self._hosts,
            "query": self._query,
            "sources": self._sources,
            "context": self._context,
            "body": self._body,
        }
        found, wanted = words[obstacle](match, view)
        return Mismatch(condition=f"match.{obstacle}", found=found, wanted=_bounded(wanted))

    def _routes(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        patterns = self._policy.routes.patterns
        return shown(view.path), [patterns[number] for number in sorted(match.routes)]

    def _methods(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        return view.request.method, sorted(match.methods)

    def _hosts(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        return shown(view.host), [pattern.pattern for pattern in match.hosts]

    def _sources(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        found = "no address" if view.source is None else str(view.source)
        return found, [str(network) for network in match.sources]

    def _headers(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        return self._first_of(match.headers, view.request.headers.get)

    def _query(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        return self._first_of(match.query, view.query.get)

    def _context(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        context = view.request.context
        return self._first_of(
            match.context, lambda name: (context[name],) if name in context else None
        )

    def _body(self, match: Match, view: RequestView) -> tuple[str, Sequence[str]]:
        assert view.body is not UNREADABLE  # It fits every condition.

        def values(path: str) -> tuple[str, ...] | None:
            value = body_field(view.body, path)
            return None if value is None else (value,)

        return self._first_of(match.body, values)

    def _first_of(
        self,
        conditions: Sequence[tuple[str, Any]],
        values_of: Callable[[str], tuple[str, ...] | None],
    ) -> tuple[str, Sequence[str]]:
        """The first name whose values have not its pattern."""
        for name, pattern in conditions:
            values = values_of(name)
            if not any(pattern.search(value) for value in values or ()):
                found = ", ".join(self._redaction.show(name, value) for value in values or ())
                return f"{name}: {found or 'absent'}", [pattern.pattern]
        return "nothing", []


def _of_caller(rule: Rule, obstacle: str, customer: CustomerFacts) -> Mismatch:
    who, user = customer.customer_id or "nobody", customer.user_id or "no user"
    level = (rule.unknown_level(customer) or rule.level).value
    selection, users = rule.customers, rule.users or UserMatch()
    words: Mapping[str, tuple[str, Sequence[str]]] = {
        "unidentified.skip": (f"a caller whose {level} is not known", [f"a known {level}"]),
        "unidentified.only": (f"a known {level}", ["callers that are not known"]),
        "customers.plans": (f"plan {customer.plan!r}", sorted(selection.plans)),
        "customers.ids": (who, sorted(selection.ids)),
        "customers.except": (f"{who}, which is excepted", []),
        "customers.members": (who, [f"one that is {rule.customer_members}"]),
        "users.ids": (user, sorted(users.ids)),
        "users.teams": (customer.team_id or "no team", sorted(users.teams)),
        "users.except": (f"{user}, who is excepted", []),
        "users.members": (user, [f"one that is {rule.user_members}"]),
    }
    found, wanted = words.get(obstacle) or _label(rule, customer)
    return Mismatch(condition=obstacle, found=found, wanted=_bounded(wanted))


def _label(rule: Rule, customer: CustomerFacts) -> tuple[str, Sequence[str]]:
    """The first label that the customer has not, or has with another value."""
    for name, value in rule.customers.labels.items():
        there = customer.labels.get(name)
        if there != value:
            return f"{name}: {'absent' if there is None else shown(there)}", [value]
    return "nothing", []


def _bounded(wanted: Sequence[str]) -> tuple[str, ...]:
    hidden = len(wanted) - _WANTED_MAX
    more = (f"and {hidden} more",) if hidden > 0 else ()
    return (*wanted[:_WANTED_MAX], *more)
