"""
Bringing customers to the billing provider: an account there, and a subscription to their plan.

Not in the request that creates a customer, but after it, from a row that is claimed before anything
is sent. A repeat carries the same Idempotency-Key; where the key cannot say any more what came of
the first attempt, the account is looked for before another is made.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sidecar import telemetry
from sidecar.domain.errors import (
    ProviderFailed,
    ProviderRefused,
    StoreUnavailable,
)
from sidecar.domain.pricing import Billing
from sidecar.services.ports import Clock, Policies
from sidecar.services.report_ports import BudgetSpent
from sidecar.services.rounds import run_rounds

BATCH = 20
LEASE_SECONDS = 120
RETRY_SECONDS_FIRST = 5.0
RETRY_SECONDS_MAX = 3_600.0
KEYS_REMEMBERED = timedelta(hours=23)
"""Stripe remembers an Idempotency-Key for at least a day."""
_CREDENTIALS = frozenset({401, 403})
_DOUBLINGS_MAX = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """
    A customer on the way; `subscribing` once the account is there.

    `key` is a hash of ledger and customer, so that two installations on one account differ;
    `mapped_id` is what stands on record, perhaps by hand.
    """

    customer_id: str
    subscribing: bool
    plan: str
    currency: str
    key: str
    key_number: int
    attempts: int
    first_attempt_at: datetime
    provider_customer_id: str
    mapped_id: str | None
    is_test: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAccount:
    """A customer at the provider; `currency` is None until it has been billed in one."""

    account_id: str
    currency: str | None
    livemode: bool


class OnboardingRecord(Protocol):
    """Rows of those on the way; may raise StoreUnavailable."""

    async def enlist(self, *, limit: int) -> int:
        """Make rows of customers who have none and no account; how many."""

    async def claim(self, *, limit: int, lease_seconds: int) -> Sequence[Newcomer]:
        """Those that are due; nobody else gets them while the lease lasts."""

    async def map(self, newcomer: Newcomer, account_id: str, *, subscribe: bool) -> None:
        """Put the account on record; it stays to be subscribed, or is done."""

    async def finish(self, newcomer: Newcomer, *, subscription_id: str = "") -> None:
        """Done."""

    async def refuse(self, newcomer: Newcomer, reason: str) -> None:
        """Left to people."""

    async def put_behind(
        self, newcomer: Newcomer, *, reason: str, retry_at: datetime, rotate: bool
    ) -> None:
        """Try it later, under the next Idempotency-Key if `rotate`."""


class ProviderAccounts(Protocol):
    """Customers, prices and subscriptions at a provider."""

    livemode: bool | None
    """Of our key; None if it does not say."""

    async def create(self, newcomer: Newcomer) -> ProviderAccount:
        """Make one. Raises ProviderRefused, ProviderFailed, StoreUnavailable."""

    async def find_created(self, newcomer: Newcomer) -> Sequence[ProviderAccount]:
        """Those that `create` made. Raises BudgetSpent, StoreUnavailable where it cannot say."""

    async def find_mapped(
        self, customer_ids: Sequence[str]
    ) -> Mapping[str, Sequence[ProviderAccount]]:
        """
        Accounts that are there already, by our customers' ids.

        Raises:
            BudgetSpent: There are too many to see all, so that none can be told to be the only.
            ProviderRefused, StoreUnavailable: It cannot be said.
        """

    async def find_subscription(self, newcomer: Newcomer) -> str | None:
        """The subscription that `subscribe` made."""

    async def find_prices(self, plan: str, currency: str) -> Sequence[str]:
        """Active prices of a plan. Raises BudgetSpent, ProviderRefused, StoreUnavailable."""

    async def subscribe(self, newcomer: Newcomer, prices: Sequence[str]) -> str:
        """Subscribe the account. Raises ProviderRefused, ProviderFailed, StoreUnavailable."""


class Onboarding:
    """Takes customers to the provider in rounds; any number may run."""

    def __init__(
        self,
        record: OnboardingRecord,
        accounts: ProviderAccounts,
        policies: Policies,
        clock: Clock,
        *,
        creates: bool,
        subscribes: bool,
        begin_run: Callable[[], None] = lambda: None,
        interval_seconds: float = 2.0,
    ) -> None:
        """
        Wire the ports.

        Args:
            record, accounts, policies, clock: Ports.
            creates: Whether accounts are made; else those that are there are looked for.
            subscribes: Whether accounts are subscribed to the plan's prices.
            begin_run: Called before each round, so that reads are counted by run.
            interval_seconds: Pause of `run` between rounds.
        """
        self._record = record
        self._accounts = accounts
        self._policies = policies
        self._clock = clock
        self._creates = creates
        self._subscribes = subscribes
        self._begin_run = begin_run
        self._interval_seconds = interval_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Work in rounds until stopped; failures of a store are counted and backed off."""
        await run_rounds(
            stop,
            self.run_once,
            name="onboarding",
            pause_seconds=self._interval_seconds,
        )

    async def run_once(self) -> int:
        """One round over all that are due; how many. Raises StoreUnavailable."""
        self._begin_run()
        while await self._record.enlist(limit=BATCH) == BATCH:
            pass
        count = 0
        while newcomers := await self._record.claim(limit=BATCH, lease_seconds=LEASE_SECONDS):
            count += len(newcomers)
            waiting = [one for one in newcomers if not one.subscribing]
            if self._creates:
                for one in waiting:
                    await self._guarded(one, self._create(one))
            elif waiting:
                await self._map_all(waiting)
            for one in newcomers:
                if one.subscribing:
                    await self._guarded(one, self._subscribe(one))
        return count

    async def _guarded(self, newcomer: Newcomer, step: Coroutine[Any, Any, None]) -> None:
        """One customer's trouble keeps no other from going on."""
        try:
            await step
        except ProviderFailed as error:
            await self._wait(newcomer, str(error), rotate=True)
        except (StoreUnavailable, BudgetSpent) as error:
            await self._wait(newcomer, str(error))
        except ProviderRefused as error:
            if error.status in _CREDENTIALS:
                await self._wait(newcomer, f"the key may not: {error.detail}")
            else:
                await self._refuse(newcomer, str(error))

    async def _create(self, newcomer: Newcomer) -> None:
        if newcomer.is_test:
            await self._refuse(newcomer, "the customer is marked as a test")
        elif newcomer.mapped_id is not None:
            await self._map(newcomer, newcomer.mapped_id, "mapped")
        elif self._is_doubtful(newcomer) and (found := await self._accounts.find_created(newcomer)):
            await self._take(newcomer, found, "adopted")
        else:
            await self._take(newcomer, [await self._accounts.create(newcomer)], "created")

    async def _map_all(self, newcomers: Sequence[Newcomer]) -> None:
        """Look for all together: where the provider has to be listed, once does for all."""
        wanted = [one.customer_id for one in newcomers if one.mapped_id is None and not one.is_test]
        found: Mapping[str, Sequence[ProviderAccount]] = {}
        try:
            if wanted:
                found = await self._accounts.find_mapped(wanted)
        except (ProviderRefused, BudgetSpent, StoreUnavailable) as error:
            for one in newcomers:
                await self._wait(one, str(error))
            return
        for one in newcomers:
            if one.is_test:
                await self._refuse(one, "the customer is marked as a test")
            elif one.mapped_id is not None:
                await self._map(one, one.mapped_id, "mapped")
            elif one.customer_id in found:
                await self._take(one, found[one.customer_id], "mapped")
            else:
                await self._wait(one, "the provider has no such customer")

    async def _take(
        self, newcomer: Newcomer, found: Sequence[ProviderAccount], outcome: str
    ) -> None:
        """Put the one account on record that fits."""
        if len(found) > 1:
            names = ", ".join(sorted(one.account_id for one in found)[:3])
            await self._refuse(newcomer, f"ambiguous: {len(found)} accounts ({names})")
            return
        (account,) = found
        if self._accounts.livemode and not account.livemode:
            await self._refuse(newcomer, "a test account under a live key")
        elif account.currency not in (None, newcomer.currency):
            await self._refuse(
                newcomer,
                f"the account is in {account.currency}, the customer in {newcomer.currency}",
            )
        else:
            await self._map(newcomer, account.account_id, outcome)

    async def _subscribe(self, newcomer: Newcomer) -> None:
        card = self._policies.current().cards.get(newcomer.plan)
        if card is None or card.billing is not Billing.POSTPAID:
            # Credit is paid beforehand, and our own invoices ask for what it leaves.
            await self._record.finish(newcomer)
            return
        if self._is_doubtful(newcomer):
            known = await self._accounts.find_subscription(newcomer)
            if known is not None:
                await self._record.finish(newcomer, subscription_id=known)
                return
        prices = await self._accounts.find_prices(newcomer.plan, newcomer.currency)
        if not prices:
            await self._wait(
                newcomer,
                f"the provider has no prices of plan {newcomer.plan} in {newcomer.currency}; "
                "`sidecar catalog apply` makes them",
            )
            return
        subscription = await self._accounts.subscribe(newcomer, prices)
        await self._record.finish(newcomer, subscription_id=subscription)
        telemetry.PROVIDER_CUSTOMERS.labels("subscribed").inc()

    def _is_doubtful(self, newcomer: Newcomer) -> bool:
        """Whether an attempt may have taken effect that the next one's key does not tell of."""
        old = self._clock.now() - KEYS_REMEMBERED
        return newcomer.key_number > 0 or (
            newcomer.attempts > 1 and newcomer.first_attempt_at <= old
        )

    async def _map(self, newcomer: Newcomer, account_id: str, outcome: str) -> None:
        await self._record.map(newcomer, account_id, subscribe=self._subscribes)
        telemetry.PROVIDER_CUSTOMERS.labels(outcome).inc()

    async def _refuse(self, newcomer: Newcomer, reason: str) -> None:
        await self._record.refuse(newcomer, reason)
        telemetry.PROVIDER_CUSTOMERS.labels("refused").inc()
        telemetry.get_logger().error(
            "provider_customer_refused", customer_id=newcomer.customer_id, reason=reason
        )

    async def _wait(self, newcomer: Newcomer, reason: str, *, rotate: bool = False) -> None:
        pause = RETRY_SECONDS_FIRST * 2.0 ** min(newcomer.attempts - 1, _DOUBLINGS_MAX)
        retry_at = self._clock.now() + timedelta(seconds=min(pause, RETRY_SECONDS_MAX))
        await self._record.put_behind(newcomer, reason=reason, retry_at=retry_at, rotate=rotate)
        telemetry.PROVIDER_CUSTOMERS.labels("waiting").inc()
