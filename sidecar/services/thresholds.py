"""
Thresholds: each percentage of a quota is told once a period, when usage has reached it.

Captures note which counters they moved; this looks at those, compares what captures alone have
used with the policy's thresholds, and records what was reached. The record's key makes it once:
a crash before the note is taken back only looks again. What a hold sets aside counts for
nothing here, since it may come back.

Usage is not all that can cross a threshold: a limit that is lowered, or a customer who changes
to a plan of another policy, crosses it without a request. So a change of the policy looks at
every customer's current windows.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sidecar import telemetry
from sidecar.domain.counters import CounterKind, Level
from sidecar.domain.customers import CustomerFacts
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.periods import from_epoch_ms
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Quota
from sidecar.domain.variables import used_percent
from sidecar.domain.windows import FixedWindow, RollingWindow
from sidecar.services.control_ports import Accounts
from sidecar.services.ports import Clock, Policies
from sidecar.services.rounds import run_rounds

BATCH_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedCounter:
    """A counter of one customer as the store names it: `field` is kind, name and start."""

    customer_id: str
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdReached:
    """
    A threshold that usage has reached in a period; unique by all but its numbers.

    `subject` is empty for the customer, else the level and who it is ("user=ada"). `used` and
    `limit` are in the quota's unit, money in nano.
    """

    customer_id: str
    quota: str
    subject: str
    period_start: datetime
    percent: int
    used: int
    limit: int


class UsedCounters(Protocol):
    """What captures have used, and which counters they moved since the last look."""

    async def stirred(self, shards: Collection[int]) -> Collection[int]:
        """
        Those of some shards on which counters were moved and not looked at; one question about all.

        Raises StoreUnavailable if it has no answer for even one of them.
        """

    async def touched(self, shard: int, limit: int) -> tuple[Sequence[UsedCounter], bool]:
        """Counters that were moved, and whether so many were that some are missing."""

    async def used(self, counters: Sequence[UsedCounter]) -> Sequence[int]:
        """What captures alone have used of each; of a rolling window, all its slices."""

    async def forget(self, shard: int, counters: Sequence[UsedCounter]) -> None:
        """These have been looked at."""


class ThresholdRecord(Protocol):
    """Thresholds that were reached, on record."""

    async def record(self, reached: Sequence[ThresholdReached]) -> Sequence[ThresholdReached]:
        """Record those that are not yet; returns them."""

    async def list_reached(self, customer_id: str, *, limit: int) -> Sequence[ThresholdReached]:
        """A customer's, the newest first."""


class Thresholds:
    """Finds what was reached, on all shards; any number may run, each step is idempotent."""

    def __init__(
        self,
        *,
        counters: UsedCounters,
        record: ThresholdRecord,
        accounts: Accounts,
        policies: Policies,
        clock: Clock,
        shards: Iterable[int],
        interval_seconds: float = 1.0,
    ) -> None:
        """
        Wire the ports.

        Args:
            counters, record, accounts, policies, clock: Ports.
            shards: Which shards to look at.
            interval_seconds: Pause between rounds of `run`.
        """
        self._counters = counters
        self._record = record
        self._accounts = accounts
        self._policies = policies
        self._clock = clock
        self._shards = tuple(shards)
        self._interval_seconds = interval_seconds
        self._looked_with = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped; a failed round is counted, and the next one tries again."""
        await run_rounds(
            stop,
            self.look_once,
            name="thresholds",
            pause_seconds=self._interval_seconds,
        )

    async def look_once(self) -> int:
        """
        One round: what was touched, then everybody where the policy is another than before.

        Returns:
            How many thresholds were newly reached.

        Raises:
            StoreUnavailable: The next round goes on.
        """
        policy = self._policies.current()
        found, all_over = 0, policy.version != self._looked_with
        for shard in await self._stirred():
            touched, missed = await self._counters.touched(shard, BATCH_MAX)
            all_over = all_over or missed
            if touched:
                found += await self._look(policy, touched)
                await self._counters.forget(shard, touched)
        if all_over:
            found += await self._look_at_everybody(policy)
            self._looked_with = policy.version
        return found

    async def _stirred(self) -> Collection[int]:
        """The shards to look at: all of them where one cannot be asked, which says so itself."""
        try:
            return await self._counters.stirred(self._shards)
        except StoreUnavailable:
            return self._shards

    async def _look(self, policy: Policy, counters: Sequence[UsedCounter]) -> int:
        watched = [(one, quota) for one in counters if (quota := _quota_of(policy, one))]
        if not watched:
            return 0
        used = await self._counters.used([one for one, _ in watched])
        reached = [
            threshold
            for (counter, quota), count in zip(watched, used, strict=True)
            for threshold in _reached(counter, quota, count, self._clock.now())
        ]
        if not reached:
            return 0
        new = await self._record.record(reached)
        for one in new:
            telemetry.THRESHOLDS.labels(one.quota, str(one.percent)).inc()
            telemetry.get_logger().info(
                "threshold_reached",
                customer_id=one.customer_id,
                quota=one.quota,
                percent=one.percent,
                period_start=one.period_start.isoformat(),
            )
        return len(new)

    async def _look_at_everybody(self, policy: Policy) -> int:
        """Every customer's current windows; those of users and keys wait for their next usage."""
        quotas = [
            quota
            for quota in policy.quotas.values()
            if quota.thresholds and quota.counter.level is Level.CUSTOMER
        ]
        if not quotas:
            return 0
        found, after = 0, ""
        while page := await self._accounts.list_customers(after=after, limit=BATCH_MAX):
            now = self._clock.now()
            found += await self._look(
                policy,
                [
                    UsedCounter(
                        customer_id=customer.customer_id,
                        field=quota.counter.take(
                            CustomerFacts(
                                customer_id=customer.customer_id,
                                plan=customer.plan,
                                currency=customer.currency,
                                revision=0,
                            ),
                            0,
                            now,
                            hard=False,
                        ).field,
                    )
                    for customer in page
                    for quota in quotas
                ],
            )
            after = page[-1].customer_id
        return found


def _quota_of(policy: Policy, counter: UsedCounter) -> Quota | None:
    """The quota that a counter is of; None for a cap, or a quota that is gone or tells nothing."""
    kind, name, _, _ = _parts(counter.field)
    quota = policy.quotas.get(name)
    if quota is None or not quota.thresholds or quota.counter.kind is not kind:
        return None
    return quota


def _reached(
    counter: UsedCounter, quota: Quota, used: int, now: datetime
) -> list[ThresholdReached]:
    _, _, subject, start_ms = _parts(counter.field)
    start = from_epoch_ms(start_ms)
    window = quota.counter.window
    if isinstance(window, RollingWindow):
        # It never begins anew: once in each span of its length is once a period.
        start = FixedWindow(seconds=window.seconds).at(now).start
    return [
        ThresholdReached(
            customer_id=counter.customer_id,
            quota=quota.name,
            subject=subject,
            period_start=start,
            percent=percent,
            used=used,
            limit=quota.counter.limit,
        )
        for percent in quota.thresholds
        if used_percent(used, quota.counter.limit) >= percent
    ]


def _parts(field: str) -> tuple[CounterKind, str, str, int]:
    """Kind, name, subject and start of a counter's field."""
    kind, _, rest = field.partition(":")
    name, _, start = rest.rpartition(":")
    quota, _, subject = name.partition("@")
    return CounterKind(kind), quota, subject, int(start)
