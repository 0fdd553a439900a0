"""
The inbox's worker: fetches each object that a webhook named, once for all its events.

1. Claim an object: a lease, with a fence that only grows.
2. Fetch it from the provider. What the webhooks said of it is not looked at.
3. Credit: given or taken back through services that know a repeat by the payment's own id, each
   intent in one transaction that checks the fence.
4. Write its row and mark its events done, in one transaction that checks the fence.
5. Look at the customer's standing (`standing`).

A crash before 4 leaves the object wanted, and another worker begins at 1 once the lease is over.
A crash after 4 leaves the customer marked, and the timer does 5.
"""

import asyncio
import random
from collections.abc import Callable, Mapping

from sidecar import telemetry
from sidecar.domain.errors import LeaseLost, ProviderRefused, SidecarError, StoreUnavailable
from sidecar.services.inbox_ports import Inbox, InboxClaim, InboxHandler, InboxState
from sidecar.services.rounds import run_rounds
from sidecar.services.standing import StandingService

LEASE_SECONDS = 60
"""Longer than all reads of one object may take together."""
BACKOFF_FIRST_SECONDS = 2.0
BACKOFF_MAX_SECONDS = 3_600.0
COUNT_SECONDS = 10.0
FORGET_SECONDS = 600.0
FORGET_MAX = 1_000


class InboxWorker:
    """Claims, handles and finishes; one object's trouble keeps no other waiting."""

    def __init__(
        self,
        inbox: Inbox,
        handlers: Mapping[str, InboxHandler],
        standings: StandingService,
        *,
        owner: str,
        concurrency_max: int,
        attempts_max: int,
        interval_seconds: float,
        retention_days: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """
        Wire the parts.

        Args:
            inbox: Port.
            handlers: By the provider's name; objects of other providers are left alone.
            standings: Looks at the customers whose objects have changed.
            owner: This process's name on leases.
            concurrency_max: Objects that are handled at a time.
            attempts_max: After so many an object is parked.
            interval_seconds: Pause after a round that found nothing.
            retention_days: How long events that are done are kept.
            jitter: From [0, 1).
        """
        self._inbox = inbox
        self._handlers = handlers
        self._standings = standings
        self._owner = owner
        self._concurrency_max = concurrency_max
        self._attempts_max = attempts_max
        self._interval_seconds = interval_seconds
        self._retention_days = retention_days
        self._jitter = jitter
        self._woken = asyncio.Event()
        self._counted_at = self._forgot_at = float("-inf")

    def wake(self) -> None:
        """Cut the pause short: something has come."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work in rounds until stopped."""

        async def work() -> int:
            handled = await self.work_once()
            await self._keep_house()
            return handled

        await run_rounds(
            stop,
            work,
            name="inbox",
            pause_seconds=self._interval_seconds,
            at_once=bool,
            woken=self._woken,
        )

    async def work_once(self) -> int:
        """
        One round; returns how many objects it took.

        Raises:
            StoreUnavailable: The record is away.
        """
        claims = await self._inbox.claim(
            self._owner,
            limit=self._concurrency_max,
            lease_seconds=LEASE_SECONDS,
            providers=sorted(self._handlers),
        )
        async with asyncio.TaskGroup() as group:
            for claim in claims:
                group.create_task(self._handle(claim))
        return len(claims)

    async def _handle(self, claim: InboxClaim) -> None:
        kind = claim.ref.kind.value
        try:
            handled = await self._handlers[claim.ref.provider].handle(claim)
            customers = await self._inbox.finish(claim, handled)
        except LeaseLost:
            customers = None
        except SidecarError as error:
            await self._fail(claim, error)
            return
        if customers is None:
            telemetry.INBOX.labels(kind, "lease_lost").inc()
            return
        telemetry.INBOX.labels(kind, "parked" if handled.parked else "done").inc()
        if handled.parked:
            _alarm(claim, handled.parked)
        for customer_id in customers:
            await self._look(customer_id)

    async def _look(self, customer_id: str) -> None:
        try:
            await self._standings.look(customer_id)
        except SidecarError as error:
            # It is marked, so the timer looks again.
            telemetry.get_logger().warning(
                "standing_failed", customer_id=customer_id, error=str(error)
            )

    async def _fail(self, claim: InboxClaim, error: SidecarError) -> None:
        reason = _reason(error)
        telemetry.get_logger().warning(
            "inbox_object_failed",
            object=claim.ref.key,
            attempts=claim.attempts,
            reason=reason,
            error=str(error),
        )
        if claim.attempts >= self._attempts_max:
            await self._park(claim, reason)
            return
        telemetry.INBOX.labels(claim.ref.kind.value, "retried").inc()
        wait = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (claim.attempts - 1))
        try:
            await self._inbox.fail(
                claim, reason=reason, retry_in_seconds=wait * (1 + self._jitter() / 2)
            )
        except StoreUnavailable as away:
            # The lease runs out by itself.
            telemetry.get_logger().warning("inbox_failed", error=str(away))

    async def _park(self, claim: InboxClaim, reason: str) -> None:
        telemetry.INBOX.labels(claim.ref.kind.value, "parked").inc()
        _alarm(claim, reason)
        await self._inbox.fail(claim, reason=reason, retry_in_seconds=None)

    async def _keep_house(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= COUNT_SECONDS:
            counts = await self._inbox.count()
            for state in (InboxState.PENDING, InboxState.PARKED):
                telemetry.INBOX_OBJECTS.labels(state.value).set(counts.get(state, 0))
            self._counted_at = now
        if now - self._forgot_at >= FORGET_SECONDS:
            gone = await self._inbox.forget(older_than_days=self._retention_days, limit=FORGET_MAX)
            if gone < FORGET_MAX:
                self._forgot_at = now


def _alarm(claim: InboxClaim, reason: str) -> None:
    telemetry.get_logger().error("inbox_object_parked", object=claim.ref.key, reason=reason)


def _reason(error: SidecarError) -> str:
    """A word for lists and for a column: the provider's code, else what kind of error it was."""
    if isinstance(error, ProviderRefused):
        return f"refused_{error.status}"
    if isinstance(error, StoreUnavailable):
        return "no_answer"
    return type(error).__name__.lower()
