"""
Standing: looked at whenever an invoice, an override or the clock may have changed it.

1. Whatever changes an input marks the customer, in the transaction that changes it.
2. A look reads all inputs under the customer's lock and records what they come to.
3. The live store is told, and through it every gateway.
4. The mark is taken off, unless an input has changed meanwhile.

A crash after 1 or 2 leaves the mark, so that the timer looks again; after 3 it is told twice.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

from sidecar import telemetry
from sidecar.domain.errors import NotFound, SidecarError
from sidecar.domain.standing import (
    StandingFact,
    StandingTerms,
    derive_standing,
    earliest,
    effective_standing,
)
from sidecar.services.control_ports import Accounts, LiveAccounts
from sidecar.services.converging import converge, put_customer_live
from sidecar.services.ports import Clock, Policies
from sidecar.services.rounds import run_rounds
from sidecar.services.standing_ports import (
    HeldSubscription,
    StandingDecision,
    StandingInputs,
    StandingRecord,
    StandingView,
)

ROUND_MAX = 64
"""Customers that are looked at together."""
LEASE_SECONDS = 30
"""A customer that could not be looked at waits for so long."""
LIVE_STATUSES = frozenset({"active", "trialing", "past_due"})
"""Subscriptions that give their plan."""
ENDED_STATUSES = frozenset({"canceled", "incomplete_expired"})
UNPAID_STATUS = "unpaid"


class PlanMap:
    """Which plan a subscription gives, and which one is left when all have ended."""

    def __init__(self, plans: Mapping[str, str], *, ended_plan: str = "") -> None:
        """
        Take the map.

        Args:
            plans: From a price's id, lookup key or product to a plan.
            ended_plan: Of customers whose subscriptions have all ended; "" leaves them theirs.
        """
        self._plans = plans
        self._ended_plan = ended_plan

    def plan_of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The plans that the names of a subscription's prices mean, each once."""
        return tuple(dict.fromkeys(self._plans[name] for name in names if name in self._plans))

    def subscribed(self, subscriptions: tuple[HeldSubscription, ...]) -> str:
        """The plan that a customer's subscriptions give; "" where they say nothing, or two."""
        live = {one.plan for one in subscriptions if one.status in LIVE_STATUSES and one.plan}
        if len(live) == 1:
            return next(iter(live))
        ended = subscriptions and all(one.status in ENDED_STATUSES for one in subscriptions)
        return self._ended_plan if ended else ""


class StandingService:
    """The use cases about standing; `put` and `clear` are an operator's word."""

    def __init__(
        self,
        *,
        record: StandingRecord,
        accounts: Accounts,
        live: LiveAccounts,
        policies: Policies,
        clock: Clock,
        terms: StandingTerms,
        plans: PlanMap,
    ) -> None:
        """Wire the ports, and what the settings say."""
        self._record = record
        self._accounts = accounts
        self._live = live
        self._policies = policies
        self._clock = clock
        self._terms = terms
        self._plans = plans

    async def put(self, customer_id: str, fact: StandingFact) -> None:
        """An operator's word, which wins while it lasts. Raises NotFound, StoreUnavailable."""
        await self._record.put_override(customer_id, fact)
        await self.look(customer_id)

    async def clear(self, customer_id: str) -> None:
        """Take an operator's word back. Raises NotFound, StoreUnavailable."""
        await self._record.put_override(customer_id, None)
        await self.look(customer_id)

    async def read(self, customer_id: str) -> StandingView:
        """What is on record. Raises NotFound."""
        return await self._record.read(customer_id)

    def now(self) -> datetime:
        """The instant by which a standing is told."""
        return self._clock.now()

    async def look(self, customer_id: str) -> None:
        """
        Bring a customer's standing to what the inputs say now; safe to repeat and to cancel.

        Raises:
            StoreUnavailable: The timer looks again.
        """
        evaluated = await self._record.evaluate(customer_id, self._decide)
        if evaluated is None:
            return
        decision = evaluated.decision
        if evaluated.show_plan:
            await self._show_customer(customer_id)
        if evaluated.show:
            await self._show(customer_id, decision.fact)
            telemetry.STANDINGS.labels(decision.fact.standing.value).inc()
            telemetry.get_logger().info(
                "standing_changed",
                customer_id=customer_id,
                standing=decision.fact.standing.value,
                derived=decision.derived.standing.value,
                reason=decision.derived.reason,
            )
        await self._record.settle(customer_id, evaluated.version, decision.next_at)

    def _decide(self, inputs: StandingInputs) -> StandingDecision:
        now = self._clock.now()
        unpaid = any(one.status == UNPAID_STATUS for one in inputs.subscriptions)
        derived = derive_standing(
            inputs.invoices, subscription_unpaid=unpaid, terms=self._terms, now=now
        )
        override = inputs.override
        ends_at = override.until if override is not None else None
        plan, subscribed_plan = self._plan(inputs)
        return StandingDecision(
            fact=effective_standing(derived.fact, override, now),
            derived=derived.fact,
            next_at=earliest(
                [derived.next_at, ends_at if ends_at is not None and ends_at > now else None]
            ),
            retry_at=now + timedelta(seconds=LEASE_SECONDS),
            plan=plan,
            subscribed_plan=subscribed_plan,
        )

    def _plan(self, inputs: StandingInputs) -> tuple[str, str]:
        """
        The plan from now on, and what subscriptions said of it.

        It is theirs when they begin to say another one; what an operator has set since stays until
        then. A plan that the policy does not have, or has in another currency, is not taken, and
        is tried again at the next look.
        """
        subscribed = self._plans.subscribed(inputs.subscriptions)
        if not subscribed or subscribed == inputs.subscribed_plan:
            return inputs.plan, inputs.subscribed_plan
        card = self._policies.current().cards.get(subscribed)
        if card is None or card.currency != inputs.currency:
            telemetry.get_logger().error("subscribed_plan_refused", plan=subscribed)
            return inputs.plan, inputs.subscribed_plan
        return subscribed, subscribed

    async def _show_customer(self, customer_id: str) -> None:
        customer = await self._accounts.read_customer(customer_id)
        if customer is not None:
            await put_customer_live(self._accounts, self._live, customer)

    async def _show(self, customer_id: str, fact: StandingFact) -> None:
        async def put(value: StandingFact) -> None:
            try:
                await self._live.put_standing(customer_id, value)
            except NotFound:
                await self._show_customer(customer_id)
                await self._live.put_standing(customer_id, value)

        await converge(fact, put=put, read=lambda: self._accounts.read_standing(customer_id))


class StandingTimer:
    """Looks at customers whose time has come: invoices become overdue without any webhook."""

    def __init__(
        self,
        record: StandingRecord,
        standings: StandingService,
        clock: Clock,
        *,
        interval_seconds: float,
    ) -> None:
        """
        Wire the parts.

        Args:
            record, clock: Ports.
            standings: Looks.
            interval_seconds: Pause after a round that found nothing more.
        """
        self._record = record
        self._standings = standings
        self._clock = clock
        self._interval_seconds = interval_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Work in rounds until stopped."""
        await run_rounds(
            stop,
            self.look_once,
            name="standing",
            pause_seconds=self._interval_seconds,
            at_once=lambda looked: looked >= ROUND_MAX,
        )

    async def look_once(self) -> int:
        """
        One round; returns how many customers it was about.

        Raises:
            StoreUnavailable: The record is away.
        """
        due = await self._record.claim_due(
            self._clock.now(), limit=ROUND_MAX, lease_seconds=LEASE_SECONDS
        )
        async with asyncio.TaskGroup() as group:
            for customer_id in due:
                group.create_task(self._look(customer_id))
        return len(due)

    async def _look(self, customer_id: str) -> None:
        """One customer's trouble keeps no other from being looked at."""
        try:
            await self._standings.look(customer_id)
        except SidecarError as error:
            telemetry.WORKER_FAILURES.labels("standing").inc()
            telemetry.get_logger().warning(
                "standing_failed", customer_id=customer_id, error=str(error)
            )
