"""
Replay: captures that a shard has lost are asked for again, from this process's journal.

Each is idempotent on its hold id, so a replay may be repeated, broken off anywhere, and run
while new captures come in. Amounts are those that were acknowledged: nothing is
priced anew, and the running totals of prices are not advanced, because whether they hold the
event already cannot be told here.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from sidecar import telemetry
from sidecar.domain.errors import InvalidInput, StoreUnavailable
from sidecar.domain.usage import UsageEvent, UsageReport
from sidecar.services.journal_ports import (
    JournalRecord,
    JournalSnapshot,
    ShardMarks,
    UsageJournal,
)
from sidecar.services.ports import Balances, CaptureStatus, Quarantine

CONCURRENCY_MAX = 16


class JournalReplay:
    """Presents a shard's lost captures to the store again."""

    def __init__(
        self,
        *,
        journal: UsageJournal,
        marks: ShardMarks,
        balances: Balances,
        quarantine: Quarantine,
        concurrency_max: int = CONCURRENCY_MAX,
    ) -> None:
        """
        Wire the ports.

        Args:
            journal, marks, balances, quarantine: Ports.
            concurrency_max: Customers at a time; one customer's captures keep their order.
        """
        self._journal = journal
        self._marks = marks
        self._balances = balances
        self._quarantine = quarantine
        self._concurrency_max = concurrency_max

    async def replay(self, shard: int) -> Mapping[str, int]:
        """
        Present what the shard may have lost; call it once the shard has its customers again.

        Those are unsettled records of an earlier epoch, and of this one above the store's seq.
        What the store does not take (`no_customer`) stays pending, and all of the shard with it:
        the next replay finds the others as duplicates. A conflict is set aside for people.

        Returns:
            How many came to what, by CaptureStatus's value; empty if there was nothing to do.

        Raises:
            Conflict: A replay of the shard is running.
            StoreUnavailable: Some were presented; replay again.
        """
        (mark,) = await self._marks.read((shard,))
        if not mark.epoch:
            raise StoreUnavailable(f"shard {shard} has no epoch: it is not restored yet")
        # Of an earlier life only what was heard while it lasted is believed to be settled: a store
        # that went back may have given the numbers of lost captures to others.
        if mark.settled_epoch == mark.epoch:
            self._journal.settled(shard, mark.settled_epoch, mark.settled_seq)
        snapshot = await self._journal.snapshot(shard, epoch=mark.epoch, seq=mark.seq)
        try:
            return await self._replay(snapshot)
        finally:
            self._journal.release(snapshot)

    async def _replay(self, snapshot: JournalSnapshot) -> Mapping[str, int]:
        counts: Counter[str] = Counter()
        reached = 0
        async for records in self._journal.pending(snapshot):
            reached = max(reached, await self._present_all(records, snapshot, counts))
        if counts and not counts[CaptureStatus.NO_CUSTOMER.value]:
            await self._journal.moved(snapshot, seq=reached)
        if counts:
            telemetry.get_logger().warning(
                "journal_replayed", shard=snapshot.shard, epoch=snapshot.epoch, **counts
            )
        return dict(counts)

    async def _present_all(
        self, records: Sequence[JournalRecord], snapshot: JournalSnapshot, counts: Counter[str]
    ) -> int:
        """Present a batch; returns the highest seq that the store gave."""
        gate = asyncio.Semaphore(self._concurrency_max)
        by_customer: dict[str, list[JournalRecord]] = {}
        for record in records:
            by_customer.setdefault(record.event.customer_id, []).append(record)

        async def present_in_order(own: list[JournalRecord]) -> int:
            async with gate:
                return max([await self._present(record, snapshot, counts) for record in own])

        results = await asyncio.gather(
            *(present_in_order(own) for own in by_customer.values()), return_exceptions=True
        )
        reached = 0
        for result in results:
            if isinstance(result, BaseException):
                raise result
            reached = max(reached, result)
        return reached

    async def _present(
        self, record: JournalRecord, snapshot: JournalSnapshot, counts: Counter[str]
    ) -> int:
        event = record.event
        try:
            outcome = await self._balances.capture_hold(
                event, record.quota_lines, prepaid=record.prepaid, owes=record.owes
            )
        except InvalidInput:
            await self._set_aside(event, CaptureStatus.OUT_OF_BOUNDS, counts)
            return 0
        if outcome.epoch != snapshot.epoch:
            raise StoreUnavailable(f"shard {snapshot.shard} was lost again during its replay")
        if outcome.status in (CaptureStatus.CONFLICT, CaptureStatus.OUT_OF_BOUNDS):
            await self._set_aside(event, outcome.status, counts)
        else:
            counts[outcome.status.value] += 1
            telemetry.JOURNAL_RECORDS.labels("replayed").inc()
        return outcome.seq

    async def _set_aside(
        self, event: UsageEvent, status: CaptureStatus, counts: Counter[str]
    ) -> None:
        conflict = status is CaptureStatus.CONFLICT
        reason = "capture_conflict" if conflict else status.value
        await self._quarantine.put(_report_of(event), reason=reason, key=event.hold_id)
        telemetry.QUARANTINED.labels(reason).inc()
        counts[status.value] += 1


def _report_of(event: UsageEvent) -> UsageReport:
    """What people need of an event that was acknowledged and cannot be captured again."""
    return UsageReport(
        edge=event.edge,
        gateway_id=event.gateway_id,
        received_at=event.received_at,
        usage=event.usage,
        hold_id=event.hold_id,
        customer_id=event.customer_id,
        event_id=event.client_key,
        model=event.model,
        route=event.route,
        status=event.status,
        occurred_at=event.occurred_at,
        duration_ms=event.duration_ms,
        request_bytes=event.request_bytes,
        response_bytes=event.response_bytes,
    )
