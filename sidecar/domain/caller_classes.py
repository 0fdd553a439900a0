"""Which callers a policy cannot tell apart: what it says of one of them holds for all."""

from collections.abc import Hashable, Iterable
from typing import Self

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.noting import labels_noted
from sidecar.domain.rules import MembersOf, MeterRule, Mode, Rule
from sidecar.domain.steps import Container, Steps, at_once


class CallerClasses:
    """
    Sorts the callers of one policy into classes.

    A policy knows a caller by plan, by labels that it names, by ids that it names (of customers,
    teams and users, in rules or in lists), by which levels the caller is known at, and by the
    share of callers for whom a rule bites already.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        customer_members: MembersOf,
        user_members: MembersOf,
        meters: Iterable[MeterRule],
    ) -> None:
        """Look through a policy's rules, lists and meters once."""
        at_once(self._fill(rules, customer_members, user_members, meters))

    @classmethod
    def in_steps(
        cls,
        rules: Iterable[Rule],
        customer_members: MembersOf,
        user_members: MembersOf,
        meters: Iterable[MeterRule],
    ) -> Steps[Self]:
        """The same, a rule or a member at a time."""
        classes = cls.__new__(cls)
        yield from classes._fill(rules, customer_members, user_members, meters)  # noqa: SLF001  Its own.
        return classes

    def _fill(
        self,
        rules: Iterable[Rule],
        customer_members: MembersOf,
        user_members: MembersOf,
        meters: Iterable[MeterRule],
    ) -> Steps[None]:
        self._customers, self._users, self._teams = set[str](), set[str](), set[str]()
        labels = set(labels_noted(rule.meter for rule in meters))
        shared = []
        for known, members in ((self._customers, customer_members), (self._users, user_members)):
            for member in members:
                known.add(member)
                yield
        for rule in rules:
            if rule.mode is Mode.DRAFT:
                continue
            self._customers |= rule.customers.ids | rule.customers.exclude
            if rule.users is not None:
                self._users |= rule.users.ids | rule.users.exclude
                self._teams |= rule.users.teams
            labels.update(rule.customers.labels)
            if rule.mode is Mode.PERCENT:
                shared.append(rule)
            yield
        self._labels = tuple(sorted(labels))
        self._shared = tuple(shared)

    def containers(self) -> list[Container]:
        """What it is large by; whoever empties them must be the last who knows it."""
        return [self._customers, self._users, self._teams]

    def of(self, caller: CustomerFacts) -> Hashable:
        """The caller's class; a name stands for itself, a truth for any other or for none."""
        customer, team, user = caller.customer_id, caller.team_id, caller.user_id
        return (
            caller.plan,
            customer if customer in self._customers else bool(customer),
            team if team in self._teams else bool(team),
            user if user in self._users else bool(user),
            bool(caller.credential_id),
            tuple([caller.labels.get(name) for name in self._labels]) if self._labels else (),
            tuple([rule.enforces_for(caller) for rule in self._shared]) if self._shared else (),
        )
