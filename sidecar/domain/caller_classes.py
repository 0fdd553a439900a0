"""Which callers a policy cannot tell apart: what it says of one of them holds for all."""

from collections.abc import Hashable, Iterable
from typing import Final

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.noting import labels_noted
from sidecar.domain.rules import MembersOf, MeterRule, Mode, Rule

_NONE: Final = frozenset[str]()


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
        rules = [rule for rule in rules if rule.mode is not Mode.DRAFT]
        users = [rule.users for rule in rules if rule.users is not None]
        self._customers = customer_members.keys() | _NONE.union(
            *(rule.customers.ids | rule.customers.exclude for rule in rules)
        )
        self._users = user_members.keys() | _NONE.union(
            *(match.ids | match.exclude for match in users)
        )
        self._teams = _NONE.union(*(match.teams for match in users))
        noted = labels_noted(rule.meter for rule in meters)
        self._labels = tuple(sorted(noted.union(*(rule.customers.labels for rule in rules))))
        self._shared = tuple(rule for rule in rules if rule.mode is Mode.PERCENT)

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
