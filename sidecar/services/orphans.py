"""How an orphan is settled: by its plan, and by how many its customer has had of late."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from sidecar import telemetry
from sidecar.domain.errors import StoreUnavailable
from sidecar.domain.notices import Notice, NoticeKind
from sidecar.domain.orphans import OrphanCount, OrphanFate, OrphanRule
from sidecar.services.notice_ports import Notices
from sidecar.services.ports import Clock, Policies, StoredHold

WINDOW: Final = timedelta(hours=1)
LOOK_AGAIN: Final = timedelta(seconds=10)
CUSTOMERS_MAX: Final = 10_000
"""Customers whose count is remembered; the one that was looked at longest ago is forgotten."""


class OrphanCounts(Protocol):
    """The record of how holds ended."""

    async def count_orphans(self, customer_id: str, since: datetime) -> OrphanCount:
        """
        A customer's settled holds that were decided since an instant.

        Raises:
            StoreUnavailable: The record does not answer.
        """


@dataclass(slots=True)
class _Known:
    looked_at: datetime
    count: OrphanCount
    exceeded: bool = False


class OrphanSettlement:
    """
    Decides what becomes of an orphan.

    Counts come from the ledger's events, so that every sweep of every process knows the same and
    a restart forgets nothing. They lag by what is not settled yet. While the record is away the
    last count stands.
    """

    def __init__(
        self,
        *,
        policies: Policies,
        counts: OrphanCounts,
        clock: Clock,
        notices: Notices | None = None,
    ) -> None:
        """Wire the ports; without `notices` the alarm is a metric and a log line alone."""
        self._policies = policies
        self._counts = counts
        self._clock = clock
        self._notices = notices
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def fate(self, stored: StoredHold) -> OrphanFate:
        """What becomes of a hold that is due."""
        terms = stored.terms
        rule = self._policies.current().orphans_of(terms.plan)
        exceeded = await self._is_exceeded(terms.customer_id, terms.plan, rule)
        return rule.fate(served=stored.served, exceeded=exceeded)

    async def _is_exceeded(self, customer_id: str, plan: str, rule: OrphanRule) -> bool:
        now = self._clock.now()
        known = self._known.get(customer_id)
        if known is None or now - known.looked_at >= LOOK_AGAIN:
            known = await self._look(customer_id, now, known)
        exceeded = rule.is_exceeded(known.count)
        if exceeded and not known.exceeded:
            telemetry.ORPHAN_ALARMS.inc()
            telemetry.get_logger().error(
                "orphans_exceeded",
                customer_id=customer_id,
                plan=plan,
                orphans=known.count.orphans,
                holds=known.count.holds,
                count_max=rule.count_max,
                share_percent=rule.share_percent,
            )
            await self._put_notice(customer_id, plan, now)
        known.exceeded = exceeded
        return exceeded

    async def _put_notice(self, customer_id: str, plan: str, now: datetime) -> None:
        """Once an hour of a customer, whichever process sees it; orphans end without it too."""
        if self._notices is None:
            return
        hour = now.replace(minute=0, second=0, microsecond=0).isoformat()
        notice = Notice(
            kind=NoticeKind.ORPHANS_EXCEEDED,
            customer_id=customer_id,
            fact_key=hour,
            occurred_at=now,
            facts={"plan": plan, "hour": hour},
        )
        try:
            await self._notices.put(notice)
        except StoreUnavailable as error:
            telemetry.WORKER_FAILURES.labels("orphans").inc()
            telemetry.get_logger().warning("orphans_not_told", error=str(error))

    async def _look(self, customer_id: str, now: datetime, before: _Known | None) -> _Known:
        try:
            count = await self._counts.count_orphans(customer_id, now - WINDOW)
        except StoreUnavailable as error:
            telemetry.WORKER_FAILURES.labels("orphans").inc()
            telemetry.get_logger().warning("orphans_not_counted", error=str(error))
            count = OrphanCount() if before is None else before.count
        known = _Known(now, count, exceeded=before is not None and before.exceeded)
        self._known[customer_id] = known
        self._known.move_to_end(customer_id)
        if len(self._known) > CUSTOMERS_MAX:
            self._known.popitem(last=False)
        return known
