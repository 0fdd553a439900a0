"""Customers as a check knows them, and which of them a rule is for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.domain.thawing import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerFacts:
    """
    What a gateway knows of a caller before it asks the store.

    May be cached: `revision` and `generation` are compared inside the place script, so a
    stale copy is noticed by the same call that would have used it. `customer_id` is empty
    for a caller that could not be identified. Customer > team > user > key: the levels below
    the customer are empty where the credential or token does not name them.
    """

    customer_id: str
    plan: str
    currency: str
    revision: int
    labels: Mapping[str, str] = field(default_factory=dict)
    team_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    generation: int = 0


NOBODY = CustomerFacts(customer_id="", plan="", currency="", revision=0)
"""A caller that could not be identified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerMatch:
    """Which customers a rule is for; empty is everyone, `exclude` wins."""

    plans: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()

    def accepts(self, customer: CustomerFacts) -> bool:
        """Whether the customer is meant."""
        return not self.first_obstacle(customer)

    def first_obstacle(self, customer: CustomerFacts) -> str:
        """The first condition, by its key, that the customer does not meet; empty if meant."""
        if customer.customer_id in self.exclude:
            return "except"
        if self.plans and customer.plan not in self.plans:
            return "plans"
        if self.ids and customer.customer_id not in self.ids:
            return "ids"
        if self.labels:
            for name, value in self.labels.items():
                if customer.labels.get(name) != value:
                    return "labels"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMatch:
    """Which users a rule is for; empty is every user, `exclude` wins."""

    ids: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()

    @property
    def by_team_alone(self) -> bool:
        """Whether it asks for teams and for no user."""
        return bool(self.teams) and not self.ids and not self.exclude

    def accepts(self, customer: CustomerFacts) -> bool:
        """Whether the user is meant."""
        return not self.first_obstacle(customer)

    def first_obstacle(self, customer: CustomerFacts) -> str:
        """The first condition, by its key, that the user does not meet; empty if meant."""
        if customer.user_id in self.exclude:
            return "except"
        if self.ids and customer.user_id not in self.ids:
            return "ids"
        if self.teams and customer.team_id not in self.teams:
            return "teams"
        return ""


def is_test(labels: Mapping[str, str]) -> bool:
    """Whether labels say that the customer is a test, who is never billed."""
    return labels.get("test") == "true"
