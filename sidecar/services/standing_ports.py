"""Ports of standing: overrides and what invoices say, kept apart, and when to look again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sidecar.domain.standing import InvoiceDebt, StandingFact


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSubscription:
    """A customer's subscription at a provider; `plan` is ours, "" for none that we know."""

    subscription_id: str
    status: str
    plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingInputs:
    """All that decides a standing and a plan, read under the customer's lock."""

    currency: str
    plan: str
    subscribed_plan: str
    """The plan that subscriptions said when they were last looked at; "" for none."""
    invoices: tuple[InvoiceDebt, ...]
    subscriptions: tuple[HeldSubscription, ...]
    override: StandingFact | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingDecision:
    """
    What the inputs come to.

    `fact` counts, `derived` is what the invoices alone say, `next_at` is when the clock changes
    it. `plan` is the customer's plan from now on, `subscribed_plan` what subscriptions say. A
    decision that is not shown is looked at again at `retry_at`.
    """

    fact: StandingFact
    derived: StandingFact
    next_at: datetime | None
    retry_at: datetime
    plan: str
    subscribed_plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """
    A decision that is recorded.

    `show` says that the live store may not have it, `show_plan` the same of the plan; `version`
    names the inputs, for `settle`.
    """

    decision: StandingDecision
    version: int
    show: bool
    show_plan: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingView:
    """What is on record of a customer's standing, for people; without an override it is None."""

    fact: StandingFact
    derived: StandingFact
    override: StandingFact | None

    def set_at(self, instant: datetime) -> StandingFact | None:
        """The operator's word, if it lasts at an instant."""
        override = self.override
        if override is None or (override.until is not None and override.until <= instant):
            return None
        return override


Decide = Callable[[StandingInputs], StandingDecision]


class StandingRecord(Protocol):
    """Standings of record. Whatever changes an input marks the customer as to be looked at."""

    async def evaluate(self, customer_id: str, decide: Decide) -> Evaluated | None:
        """
        Read the inputs, decide and record it, in one transaction under the customer's lock.

        None for an unknown customer.
        """

    async def settle(self, customer_id: str, version: int, next_at: datetime | None) -> None:
        """The live store has it: look again at `next_at`, unless an input has changed since."""

    async def claim_due(self, now: datetime, *, limit: int, lease_seconds: int) -> Sequence[str]:
        """Customers to be looked at, for whom nobody else is asked within the lease."""

    async def put_override(self, customer_id: str, fact: StandingFact | None) -> None:
        """Set an operator's word, or take it back. Raises NotFound for an unknown customer."""

    async def read(self, customer_id: str) -> StandingView:
        """What is on record. Raises NotFound for an unknown customer."""
