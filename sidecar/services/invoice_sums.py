"""
A provider's sums of an invoice's period, compared when the invoice comes up.

An invoice can still be mended while it is a draft, and the regular look may come too late for that.
What differs is put on record and makes the months of the customer's meters due, whose comparison
mends once two readings say the same: nothing is mended here.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sidecar import telemetry
from sidecar.domain.errors import Conflict
from sidecar.services.ports import Clock
from sidecar.services.report_ports import BudgetSpent, Lane, ReconciliationRecord
from sidecar.services.report_reconciling import LANES_OF_CUSTOMER_MAX, ReportReconciler

_HOUR = timedelta(hours=1)
_EVENTS_FOR = timedelta(days=35)
"""How far back a provider takes events: nothing of a period that ended before can be mended."""


class InvoiceSums:
    """Compares all meters of one customer over one period; safe to repeat."""

    def __init__(
        self,
        record: ReconciliationRecord,
        reconciler: ReportReconciler,
        clock: Clock,
        *,
        begin_run: Callable[[], None],
    ) -> None:
        """
        Wire it.

        Args:
            record, clock: Ports.
            reconciler: Compares one meter; shares its budget of reads with nobody.
            begin_run: Called before each period, so that reads are counted by it.
        """
        self._record = record
        self._reconciler = reconciler
        self._clock = clock
        self._begin_run = begin_run

    async def compare(self, customer_id: str, start: datetime, end: datetime) -> None:
        """
        Compare the whole hours of [start, end) as far as they are old enough to be told.

        Usage is reported by the hour, so an hour that a period's edge cuts is compared with its
        month alone. Where no read is left the meters are looked at as soon as there is one.

        Raises:
            StoreUnavailable: A store or the provider is away; compare again.
        """
        if end <= self._clock.now() - _EVENTS_FOR:
            return
        first, last = whole_hours(start, end)
        self._begin_run()
        lanes = await self._record.lanes_of(customer_id, limit=LANES_OF_CUSTOMER_MAX)
        for place, lane in enumerate(lanes):
            try:
                await self._compare(lane, first, last)
            except Conflict:
                # Another comparison of the lane was faster.
                await self._reconciler.make_due(lane)
            except BudgetSpent as error:
                for left in lanes[place:]:
                    await self._reconciler.make_due(left)
                telemetry.get_logger().warning(
                    "invoice_sums_wait", customer_id=customer_id, error=str(error)
                )
                return

    async def _compare(self, lane: Lane, start: datetime, end: datetime) -> None:
        if (start.day, start.hour) == (1, 0):
            # The period's record is the month's, which mends what two readings explain.
            await self._reconciler.reconcile(lane)
        else:
            await self._reconciler.compare_span(lane, start, end)


def whole_hours(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The UTC hours that lie in [start, end) as a whole; nothing where the end is the start."""
    last = end.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    first = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    first += _HOUR * (first < start)
    return first, max(first, last)
