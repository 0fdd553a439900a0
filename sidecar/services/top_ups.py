"""
Automatic top-ups: rules of record, and the worker that asks for payments.

An attempt is recorded before the provider is asked and is named by its number, so that a crash
at any point repeats the same payment and the same grant.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from sidecar import telemetry
from sidecar.domain.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    SidecarError,
    StoreUnavailable,
)
from sidecar.domain.top_ups import (
    ATTEMPTS_READ,
    TopUpAttempt,
    TopUpRule,
    TopUpState,
    TopUpStep,
    check_top_up_rule,
    next_step,
)
from sidecar.services.control_ports import Accounts, Balance
from sidecar.services.credits import CreditService
from sidecar.services.ports import Clock
from sidecar.services.rounds import run_rounds

ROUND_MAX = 16
"""Rules that are looked at together, and so payments that are asked for at a time."""
LOOK_SECONDS = 15
"""A rule is looked at by one worker, and not again before so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerRule:
    """A rule and whose it is."""

    customer_id: str
    rule: TopUpRule


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpAnswer:
    """A provider's clear answer; `reference` is its own name for the payment."""

    paid: bool
    reference: str = ""


class TopUpProvider(Protocol):
    """Whoever takes the payment."""

    def payable_nano(self, amount_nano: int, currency: str) -> int:
        """The least that can be paid and is not below an amount. Raises InvalidInput."""

    async def ask(self, attempt: TopUpAttempt) -> TopUpAnswer:
        """
        Ask for a payment; the same reference is the same payment.

        Raises:
            StoreUnavailable: There is no clear answer; ask again under the same reference.
        """


class TopUpRecord(Protocol):
    """Rules and attempts of record."""

    async def put_rule(self, customer_id: str, rule: TopUpRule) -> TopUpRule:
        """Set a customer's rule. Raises NotFound for an unknown customer."""

    async def read_rule(self, customer_id: str) -> TopUpRule | None:
        """A customer's rule."""

    async def delete_rule(self, customer_id: str) -> bool:
        """Whether there was one."""

    async def claim_rules(
        self, now: datetime, *, limit: int, look_seconds: int
    ) -> Sequence[CustomerRule]:
        """Rules that were not looked at for a while, the longest first; nobody else gets them."""

    async def list_attempts(self, customer_id: str, *, limit: int) -> Sequence[TopUpAttempt]:
        """The newest first."""

    async def begin_attempt(self, attempt: TopUpAttempt) -> bool:
        """Store it; False if another worker has begun one meanwhile."""

    async def note_try(self, attempt: TopUpAttempt, now: datetime) -> TopUpAttempt | None:
        """Count a try before it is made; None if another worker makes it."""

    async def note_state(
        self, attempt: TopUpAttempt, *, state: TopUpState, provider_reference: str, now: datetime
    ) -> TopUpAttempt:
        """Note what came of it: asked becomes paid or declined, paid becomes given."""


class TopUpService:
    """The use cases about rules."""

    def __init__(self, *, record: TopUpRecord, accounts: Accounts) -> None:
        """Wire the ports."""
        self._record = record
        self._accounts = accounts

    async def put_rule(self, customer_id: str, rule: TopUpRule) -> TopUpRule:
        """Set a customer's rule. Raises InvalidInput, NotFound, StoreUnavailable."""
        check_top_up_rule(rule)
        await self._check_customer(customer_id)
        return await self._record.put_rule(customer_id, rule)

    async def read_rule(self, customer_id: str) -> TopUpRule:
        """A customer's rule. Raises NotFound."""
        await self._check_customer(customer_id)
        rule = await self._record.read_rule(customer_id)
        if rule is None:
            raise NotFound(f"customer {customer_id!r} has no rule for top-ups")
        return rule

    async def delete_rule(self, customer_id: str) -> TopUpRule:
        """Ask for no further payment; returns the rule that was. Raises NotFound."""
        rule = await self.read_rule(customer_id)
        await self._record.delete_rule(customer_id)
        return rule

    async def list_attempts(self, customer_id: str, *, limit: int) -> Sequence[TopUpAttempt]:
        """The newest first. Raises NotFound."""
        await self._check_customer(customer_id)
        return await self._record.list_attempts(customer_id, limit=limit)

    async def _check_customer(self, customer_id: str) -> None:
        if await self._accounts.read_customer(customer_id) is None:
            raise NotFound(f"there is no customer {customer_id!r}")


class TopUpWorker:
    """Looks at the balances of customers with a rule, and asks the provider."""

    def __init__(
        self,
        *,
        record: TopUpRecord,
        credit: CreditService,
        provider: TopUpProvider,
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        """
        Wire the parts.

        Args:
            record, provider, clock: Ports.
            credit: Reads balances and gives.
            interval_seconds: Pause after a round that found nothing.
        """
        self._record = record
        self._credits = credit
        self._provider = provider
        self._clock = clock
        self._interval_seconds = interval_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Work in rounds until stopped."""
        await run_rounds(
            stop,
            self.look_once,
            name="top_ups",
            pause_seconds=self._interval_seconds,
            at_once=lambda looked: looked >= ROUND_MAX,
        )

    async def look_once(self) -> int:
        """
        One round over rules whose turn it is.

        Returns:
            How many rules were looked at.

        Raises:
            StoreUnavailable: The record is away.
        """
        claimed = await self._record.claim_rules(
            self._clock.now(), limit=ROUND_MAX, look_seconds=LOOK_SECONDS
        )
        async with asyncio.TaskGroup() as group:
            for one in claimed:
                group.create_task(self._look(one))
        return len(claimed)

    async def _look(self, found: CustomerRule) -> None:
        """One customer's trouble keeps no other from being looked at."""
        try:
            await self._step(found)
        except SidecarError as error:
            telemetry.WORKER_FAILURES.labels("top_ups").inc()
            telemetry.get_logger().warning(
                "top_up_failed", customer_id=found.customer_id, error=str(error)
            )

    async def _step(self, found: CustomerRule) -> None:
        balance = await self._credits.read_balance(found.customer_id)
        # An overdraft is no credit: it is what top-ups are to keep unused. Nor does credit that is
        # bought now pay what is owed on invoices.
        credit_nano = balance.free_nano - balance.deficit_nano
        attempts = await self._record.list_attempts(found.customer_id, limit=ATTEMPTS_READ)
        step = next_step(
            found.rule, credit_nano=credit_nano, attempts=attempts, now=self._clock.now()
        )
        match step:
            case TopUpStep.NOTHING:
                return
            case TopUpStep.WAIT:
                telemetry.TOP_UPS.labels("limited").inc()
            case TopUpStep.GIVE:
                await self._give(attempts[0])
            case TopUpStep.RESUME:
                await self._ask(attempts[0])
            case TopUpStep.ASK:
                last = attempts[0].number if attempts else 0
                await self._begin(found, balance, credit_nano, number=last + 1)

    async def _begin(
        self, found: CustomerRule, balance: Balance, credit_nano: int, *, number: int
    ) -> None:
        attempt = TopUpAttempt(
            customer_id=found.customer_id,
            number=number,
            amount_nano=self._provider.payable_nano(
                found.rule.amount(credit_nano), balance.currency
            ),
            currency=balance.currency,
            asked_at=self._clock.now(),
        )
        # Nobody is to pay for credit that could not be given.
        await self._credits.check_top_up(
            attempt.customer_id,
            amount_nano=attempt.amount_nano,
            currency=attempt.currency,
            reference=attempt.reference,
        )
        if await self._record.begin_attempt(attempt):
            await self._ask(attempt)

    async def _ask(self, attempt: TopUpAttempt) -> None:
        tried = await self._record.note_try(attempt, self._clock.now())
        if tried is None:
            return
        try:
            answer = await self._provider.ask(tried)
        except StoreUnavailable:
            telemetry.TOP_UPS.labels("unanswered").inc()
            raise
        state = TopUpState.PAID if answer.paid else TopUpState.DECLINED
        telemetry.TOP_UPS.labels(state.value).inc()
        noted = await self._record.note_state(
            tried, state=state, provider_reference=answer.reference, now=self._clock.now()
        )
        if noted.state is TopUpState.PAID:
            await self._give(noted)

    async def _give(self, attempt: TopUpAttempt) -> None:
        try:
            await self._credits.top_up(
                attempt.customer_id,
                amount_nano=attempt.amount_nano,
                currency=attempt.currency,
                reference=attempt.reference,
            )
        except (InvalidInput, Conflict) as error:
            # It was paid, so it stays paid and is given in a later round, once there is room.
            raise Conflict(f"top-up {attempt.reference} is paid and not given: {error}") from error
        await self._record.note_state(
            attempt,
            state=TopUpState.GIVEN,
            provider_reference=attempt.provider_reference,
            now=self._clock.now(),
        )


def moved_on(
    attempt: TopUpAttempt, state: TopUpState, provider_reference: str, now: datetime
) -> TopUpAttempt:
    """An attempt in its next state; one that has ended, or skips a state, stays as it is."""
    allowed = {
        TopUpState.ASKED: (TopUpState.PAID, TopUpState.DECLINED),
        TopUpState.PAID: (TopUpState.GIVEN,),
    }
    if state not in allowed.get(attempt.state, ()):
        return attempt
    ended_at = None if state is TopUpState.PAID else now
    return replace(attempt, state=state, provider_reference=provider_reference, ended_at=ended_at)
