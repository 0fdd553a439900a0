"""
Telling notices: each delivery is made at least once, and bears the same id each time.

A notice is put by its key, so a fact is one notice. It is routed once: one row for each channel
and addressee. A worker leases a row, sends, and records what came of it. *A crash before the
record:* the lease ends, and the same message is sent again under the same id. No two workers
send one delivery at a time, since the lease is longer than any attempt may take.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar import telemetry
from sidecar.domain.errors import NotFound
from sidecar.domain.notices import Channel
from sidecar.services.notice_ports import (
    Delivery,
    DeliveryState,
    NoticeChannel,
    NoticeRecord,
    SendOutcome,
    SendVerdict,
    StoredNotice,
    Target,
    Unrouted,
)
from sidecar.services.notice_routes import NoticeRoutes
from sidecar.services.rounds import run_rounds

ROUTE_BATCH_MAX: Final = 200
FORGET_BATCH_MAX: Final = 1_000
FORGET_ROUNDS: Final = 600
"""Rounds of routing between two that forget old notices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLimits:
    """
    Bounds of sending.

    An attempt takes at most `attempt_seconds_max`, and a lease lasts `lease_seconds`, which is
    longer. Waits double from the first to the longest; after `tries_max` a delivery has failed.
    """

    tries_max: int = 30
    retry_seconds_first: float = 5.0
    retry_seconds_max: float = 3_600.0
    concurrency_max: int = 4
    attempt_seconds_max: float = 60.0
    lease_seconds: float = 120.0
    poll_seconds: float = 2.0

    def __post_init__(self) -> None:
        """A lease that ends before its attempt would let two workers send."""
        assert self.attempt_seconds_max < self.lease_seconds


class NoticeList:
    """The use cases of the admin role: what is to be told and was told."""

    def __init__(self, record: NoticeRecord) -> None:
        """Wire the port."""
        self._record = record

    async def list(
        self,
        *,
        before: int | None,
        limit: int,
        customer_id: str = "",
        state: DeliveryState | None = None,
    ) -> Sequence[StoredNotice]:
        """The newest first, those with a smaller number than `before`."""
        return await self._record.list(
            before=before, limit=limit, customer_id=customer_id, state=state
        )

    async def retry(self, notice_id: str) -> StoredNotice:
        """Try failed deliveries anew, with all their tries. Raises NotFound."""
        found = await self._record.retry(notice_id)
        if found is None:
            raise NotFound(f"there is no notice {notice_id!r}")
        return found


class NoticeRouter:
    """Makes the deliveries of new notices; any number may run, each step is idempotent."""

    def __init__(
        self,
        *,
        record: NoticeRecord,
        routes: NoticeRoutes,
        retention_days: int,
        poll_seconds: float,
    ) -> None:
        """
        Wire the parts.

        Args:
            record: Port.
            routes: Who is told of what.
            retention_days: How long notices are kept.
            poll_seconds: Pause after a round that found nothing.
        """
        self._record = record
        self._routes = routes
        self._retention_days = retention_days
        self._poll_seconds = poll_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Route until stopped; a failed round is counted, and the next one tries again."""
        rounds = itertools.count()

        async def route() -> int:
            if next(rounds) % FORGET_ROUNDS == 0:
                await self._forget()
            return await self.route_once()

        await run_rounds(
            stop,
            route,
            name="notice_routing",
            pause_seconds=self._poll_seconds,
            at_once=lambda routed: routed >= ROUTE_BATCH_MAX,
        )

    async def _forget(self) -> None:
        while (
            await self._record.forget(older_than_days=self._retention_days, limit=FORGET_BATCH_MAX)
            == FORGET_BATCH_MAX
        ):
            pass

    async def route_once(self) -> int:
        """
        One round.

        Returns:
            How many notices were routed.

        Raises:
            StoreUnavailable: Nothing or all of it happened; route again.
        """
        found = await self._record.unrouted(
            email_label=self._routes.email_label, limit=ROUTE_BATCH_MAX
        )
        if found:
            await self._record.route([(one, self._targets(one)) for one in found])
        return len(found)

    def _targets(self, found: Unrouted) -> Sequence[Target]:
        if not found.customer_email and self._routes.wants_customer(found.notice):
            telemetry.NOTICE_DELIVERIES.labels(Channel.EMAIL.value, "no_address").inc()
        return self._routes.targets(found.notice, found.customer_email)


class NoticeSender:
    """Sends what is due on one channel; any number may run."""

    def __init__(
        self,
        channel: Channel,
        way: NoticeChannel,
        *,
        record: NoticeRecord,
        routes: NoticeRoutes,
        owner: str,
        limits: SendLimits,
    ) -> None:
        """
        Wire the parts.

        Args:
            channel: Whose deliveries are sent.
            way: Sends them.
            record: Port.
            routes: Where an email goes.
            owner: Names this worker among all that run.
            limits: Bounds.
        """
        self._channel = channel
        self._way = way
        self._record = record
        self._routes = routes
        self._owner = owner
        self._limits = limits

    async def run(self, stop: asyncio.Event) -> None:
        """Send until stopped; a store that is away is counted, and the next round tries again."""
        await run_rounds(
            stop,
            self.send_once,
            name="notice_sending",
            pause_seconds=self._limits.poll_seconds,
            at_once=bool,
            channel=self._channel.value,
        )

    async def send_once(self) -> int:
        """
        Claim as many deliveries as may be sent side by side, and make one attempt at each.

        Returns:
            How many were claimed.

        Raises:
            StoreUnavailable: What was sent and not recorded is sent again when its lease ends.
        """
        claimed = await self._record.claim(
            self._owner,
            self._channel,
            email_label=self._routes.email_label,
            limit=self._limits.concurrency_max,
            lease_seconds=self._limits.lease_seconds,
        )
        results = await asyncio.gather(
            *(self._deliver(one) for one in claimed), return_exceptions=True
        )
        for result in results:
            # All of them have ended by now: one failure keeps no other from being recorded.
            if isinstance(result, BaseException):
                raise result
        return len(claimed)

    async def _deliver(self, delivery: Delivery) -> None:
        outcome = await self._attempt(delivery)
        state = DeliveryState.PENDING
        if outcome.verdict is SendVerdict.SENT:
            state = DeliveryState.SENT
        elif outcome.verdict is SendVerdict.REFUSED or delivery.attempts >= self._limits.tries_max:
            state = DeliveryState.FAILED
        await self._record.finish(
            self._owner,
            delivery,
            state=state,
            detail=outcome.detail,
            retry_seconds=retry_seconds(delivery, outcome, self._limits),
        )
        self._tell(delivery, state, outcome)

    async def _attempt(self, delivery: Delivery) -> SendOutcome:
        address = self._routes.address(delivery) if self._channel is Channel.EMAIL else ""
        if address is None:
            return SendOutcome(
                verdict=SendVerdict.REFUSED, detail="there is no valid address to send to"
            )
        try:
            async with asyncio.timeout(self._limits.attempt_seconds_max):
                return await self._way.send(delivery, address)
        except TimeoutError:
            return SendOutcome(verdict=SendVerdict.RETRY, detail="no answer in time")
        except Exception as error:  # noqa: BLE001  One message that breaks must end as failed.
            telemetry.WORKER_FAILURES.labels("notice_sending").inc()
            return SendOutcome(
                verdict=SendVerdict.RETRY, detail=f"a fault of ours ({type(error).__name__})"
            )

    def _tell(self, delivery: Delivery, state: DeliveryState, outcome: SendOutcome) -> None:
        word = "retry" if state is DeliveryState.PENDING else state.value
        telemetry.NOTICE_DELIVERIES.labels(self._channel.value, word).inc()
        if state is DeliveryState.SENT:
            return
        log = telemetry.get_logger()
        say = log.error if state is DeliveryState.FAILED else log.warning
        say(
            "notice_failed" if state is DeliveryState.FAILED else "notice_delayed",
            notice_id=delivery.notice_id,
            channel=self._channel.value,
            attempts=delivery.attempts,
            detail=outcome.detail,
        )


def retry_seconds(delivery: Delivery, outcome: SendOutcome, limits: SendLimits) -> float:
    """
    How long a delivery waits after a failed attempt.

    It doubles up to a cap, less up to a quarter by a hash of the delivery and its attempt, so
    that what failed together does not come back together. What the other side asks for counts
    where it is longer, up to the cap.
    """
    doubled = limits.retry_seconds_first * 2.0 ** min(max(delivery.attempts - 1, 0), 30)
    ceiling: float = min(limits.retry_seconds_max, doubled)
    seed = f"{delivery.notice_id}:{delivery.to.channel}:{delivery.to.target}:{delivery.attempts}"
    digest = hashlib.sha256(seed.encode()).digest()
    fraction = int.from_bytes(digest[:4]) / 2**32
    asked = min(outcome.retry_after_seconds, limits.retry_seconds_max)
    return max(ceiling * (1.0 - fraction / 4), asked)


def make_senders(
    ways: Mapping[Channel, NoticeChannel],
    *,
    record: NoticeRecord,
    routes: NoticeRoutes,
    owner: str,
    limits: SendLimits,
) -> dict[Channel, NoticeSender]:
    """A sender for each channel that is set up, so that a slow one holds up no other."""
    return {
        channel: NoticeSender(
            channel, way, record=record, routes=routes, owner=owner, limits=limits
        )
        for channel, way in ways.items()
    }
