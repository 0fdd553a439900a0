"""
Which rules a check has to look at: found by what they select on, not by trying each.

Each rule is filed under one of the things that it selects on: the one that the fewest other
rules share. A check then looks at the rules filed under what it has, in the policy's order.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Self

from sidecar.domain.counters import Level
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.matching import RequestView
from sidecar.domain.rules import Members, MembersOf, Mode, Rule, Unidentified
from sidecar.domain.steps import Container, Steps, at_once

Key = tuple[str, Hashable]


class RuleIndex:
    """The rules of one policy that are no drafts, by what they select on."""

    def __init__(
        self, rules: Iterable[Rule], customer_members: MembersOf, user_members: MembersOf
    ) -> None:
        """File each rule; the lists of members are turned to be read by rule."""
        at_once(self._fill(rules, customer_members, user_members))

    @classmethod
    def in_steps(
        cls, rules: Iterable[Rule], customer_members: MembersOf, user_members: MembersOf
    ) -> Steps[Self]:
        """The same, a rule or a member at a time."""
        index = cls.__new__(cls)
        yield from index._fill(rules, customer_members, user_members)  # noqa: SLF001  Its own.
        return index

    def _fill(
        self, rules: Iterable[Rule], customer_members: MembersOf, user_members: MembersOf
    ) -> Steps[None]:
        self._rules: list[Rule] = []
        self._filed: dict[Key, list[int]] = {}
        self._always: list[int] = []
        self._for_unknown: dict[Level, dict[int | None, list[int]]] = {level: {} for level in Level}
        customers = yield from _listed(customer_members)
        users = yield from _listed(user_members)
        choices: deque[list[list[Key]]] = deque()
        shared: dict[Key, int] = {}
        for rule in rules:
            if rule.mode is Mode.DRAFT:
                continue
            self._rules.append(rule)
            choice = list(_choices(rule, customers, users))
            choices.append(choice)
            for keys in choice:
                for key in keys:
                    shared[key] = shared.get(key, 0) + 1
            yield
        for number, rule in enumerate(self._rules):
            # Taken out one by one: to free all of them at the end would be a long step.
            self._file(number, rule, choices.popleft(), shared)
            yield
        kinds = set()
        while shared:
            kinds.add(shared.popitem()[0][0])
            yield
        self._kinds = frozenset(kinds)

    def _file(
        self, number: int, rule: Rule, choice: list[list[Key]], shared: Mapping[Key, int]
    ) -> None:
        if rule.unidentified is not Unidentified.SKIP:
            self._file_for_unknown(number, rule)
        if rule.unidentified is Unidentified.ONLY:
            return
        if not choice:
            self._always.append(number)
            return
        keys = min(choice, key=lambda keys: max((shared[key] for key in keys), default=0))
        for key in keys:
            self._filed.setdefault(key, []).append(number)

    def containers(self) -> list[Container]:
        """What it is large by; whoever empties them must be the last who knows it."""
        return [self._filed, *self._for_unknown.values(), self._rules]

    def candidates(self, view: RequestView, customer: CustomerFacts) -> list[Rule]:
        """Rules that may apply, in the policy's order; each has yet to be tried."""
        found = set(self._always)
        for key in self._keys(view, customer):
            found.update(self._filed.get(key, ()))
        for level, by_route in self._for_unknown.items():
            # A rule that cannot tell this caller is not found by whom it selects.
            if by_route and not level.name_in(customer):
                for route in (None, *view.routes):
                    found.update(by_route.get(route, ()))
        return [self._rules[number] for number in sorted(found)]

    def _file_for_unknown(self, number: int, rule: Rule) -> None:
        """File a rule, by the routes that it names, for callers that it cannot tell."""
        routes = {route for match in rule.match for route in match.routes}
        for level in rule.levels:
            for route in routes if rule.names_routes else (None,):
                self._for_unknown[level].setdefault(route, []).append(number)

    def _keys(self, view: RequestView, customer: CustomerFacts) -> Iterator[Key]:
        kinds = self._kinds
        if "route" in kinds:
            for route in view.routes:
                yield "route", route
        if "customer" in kinds:
            yield "customer", customer.customer_id
        if "user" in kinds:
            yield "user", customer.user_id
        if "team" in kinds:
            yield "team", customer.team_id
        if "plan" in kinds:
            yield "plan", customer.plan
        if "label" in kinds:
            for label in customer.labels.items():
                yield "label", label
        if "method" in kinds:
            yield "method", view.request.method


def _choices(
    rule: Rule, customers: Mapping[str, list[str]], users: Mapping[str, list[str]]
) -> Iterator[list[Key]]:
    """Ways to file a rule: sets of keys, one of which each request that it applies to has."""
    selection = rule.customers
    if selection.ids:
        yield [("customer", name) for name in selection.ids]
    if rule.customer_members is Members.LISTED:
        yield [("customer", name) for name in customers.get(rule.name, ())]
    if rule.users is not None and rule.users.ids:
        yield [("user", name) for name in rule.users.ids]
    if rule.users is not None and rule.users.teams:
        yield [("team", name) for name in rule.users.teams]
    if rule.user_members is Members.LISTED:
        yield [("user", name) for name in users.get(rule.name, ())]
    if rule.names_routes:
        yield [("route", number) for match in rule.match for number in match.routes]
    if selection.plans:
        yield [("plan", name) for name in selection.plans]
    for label in selection.labels.items():
        yield [("label", label)]
    if rule.match and all(match.methods for match in rule.match):
        yield [("method", method) for match in rule.match for method in match.methods]


def _listed(members: MembersOf) -> Steps[dict[str, list[str]]]:
    """Who is listed, by rule."""
    found: dict[str, list[str]] = {}
    for member, rules in members.items():
        for membership in rules:
            found.setdefault(membership.rule, []).append(member)
        yield
    return found
