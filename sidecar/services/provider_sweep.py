"""
The regular look at everything that a provider has open: webhooks may never have come.

1. Events since the last sweep are listed and stored like webhooks; those that came are repeats.
2. Invoices that are open at the provider are listed; one that is not as we know it is fetched.
3. Invoices that are open here and were not in that list are fetched.

Each round makes at most so many reads, and the next goes on where it ended.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sidecar import telemetry
from sidecar.services.inbox_ports import (
    Inbox,
    InboxState,
    InvoiceRecord,
    ObjectKind,
    ObjectRef,
    ProviderRecords,
    ProviderSweeps,
    SweepPosition,
)
from sidecar.services.ports import Clock
from sidecar.services.provider_objects import (
    FetchedInvoice,
    ProviderObjects,
)
from sidecar.services.rounds import run_rounds

EVENTS, INVOICES, OURS, PARKED = "events", "invoices", "ours", "parked"
PARTS = (EVENTS, INVOICES, OURS, PARKED)
AGAIN = timedelta(hours=1)
"""When a round that ran out of reads goes on."""
POLL_SECONDS = 30.0
_PAGE = 100
_MENDED_BY_TIME = frozenset({"no_answer", "unknown_customer", "unknown_price", "unknown_plan"})
"""Why an object was parked that may be well by now: a customer, the settings, a provider back."""


class ProviderSweep:
    """Sweeps one provider; any number of processes, one at a time."""

    def __init__(
        self,
        objects: ProviderObjects,
        records: ProviderRecords,
        sweeps: ProviderSweeps,
        inbox: Inbox,
        clock: Clock,
        *,
        every_seconds: float,
        reads_max: int,
    ) -> None:
        """
        Wire the ports.

        Args:
            objects, records, sweeps, inbox, clock: Ports.
            every_seconds: From the end of a sweep to the next.
            reads_max: Lists and objects that a round asks for.
        """
        self._objects = objects
        self._records = records
        self._sweeps = sweeps
        self._inbox = inbox
        self._clock = clock
        self._every = timedelta(seconds=every_seconds)
        self._reads_max = reads_max

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep whenever it is due, until stopped."""
        await run_rounds(
            stop,
            self.sweep_once,
            name="provider_sweep",
            pause_seconds=POLL_SECONDS,
        )

    async def sweep_once(self) -> int | None:
        """
        One round, if it is due.

        Returns:
            How many objects are to be fetched because of it; None if it is not due.

        Raises:
            StoreUnavailable, ProviderRefused: It goes on where it was.
        """
        provider = self._objects.provider
        position = await self._sweeps.begin(provider, now=self._clock.now())
        if position is None:
            return None
        if not position.part:
            position = replace(position, part=EVENTS, cursor=None)
        reads, wanted = 0, 0
        while position.part and reads < self._reads_max:
            position, refs, cost = await self._step(position)
            wanted += len(refs)
            reads += cost
            if refs:
                await self._inbox.want(refs)
            now = self._clock.now()
            done = not position.part
            # Saved after each page: whoever dies is followed from there, soon.
            await self._sweeps.save(
                position, done=done, next_at=now + (self._every if done else AGAIN)
            )
        telemetry.get_logger().info(
            "provider_swept", provider=provider, reads=reads, wanted=wanted, part=position.part
        )
        return wanted

    async def _step(
        self, position: SweepPosition
    ) -> tuple[SweepPosition, Sequence[ObjectRef], int]:
        """One page: where it comes to, what to fetch, and how many reads that all takes."""
        match position.part:
            case "events":
                page = await self._objects.list_events(position.cursor, since=position.since)
                for event in page.events:
                    await self._inbox.receive(event)
                return _after(position, page.next_cursor), (), 1
            case "invoices":
                page = await self._objects.list_open_invoices(position.cursor)
                refs = await self._changed(page.invoices)
                return _after(position, page.next_cursor), refs, 1 + len(refs)
            case "ours":
                return await self._ours(position)
            case _:
                return await self._parked(position)

    async def _changed(self, invoices: Sequence[FetchedInvoice]) -> list[ObjectRef]:
        """Those that we do not know as they are."""
        ids = [one.invoice_id for one in invoices]
        known = await self._records.read_invoices(self._objects.provider, ids)
        await self._records.mark_seen(self._objects.provider, ids, self._clock.now())
        return [
            self._ref(one.invoice_id)
            for one in invoices
            if not _same(known.get(one.invoice_id), one)
        ]

    async def _ours(
        self, position: SweepPosition
    ) -> tuple[SweepPosition, Sequence[ObjectRef], int]:
        """Open here, and not in the list: paid or voided without a word, most likely."""
        found = await self._records.unseen_open_invoices(
            self._objects.provider,
            before=position.begun_at,
            after=position.cursor or "",
            limit=_PAGE,
        )
        following = found[-1] if len(found) == _PAGE else None
        return _after(position, following), [self._ref(one) for one in found], len(found)

    async def _parked(
        self, position: SweepPosition
    ) -> tuple[SweepPosition, Sequence[ObjectRef], int]:
        found = await self._inbox.list(
            state=InboxState.PARKED, after=position.cursor or "", limit=_PAGE
        )
        following = found[-1].ref.key if len(found) == _PAGE else None
        refs = [one.ref for one in found if one.reason in _MENDED_BY_TIME]
        return _after(position, following), refs, len(refs)

    def _ref(self, invoice_id: str) -> ObjectRef:
        return ObjectRef(
            provider=self._objects.provider, kind=ObjectKind.INVOICE, object_id=invoice_id
        )


def _after(position: SweepPosition, cursor: str | None) -> SweepPosition:
    """The next page, or the next part; after the last there is none."""
    if cursor is not None:
        return replace(position, cursor=cursor)
    following = PARTS.index(position.part) + 1
    part = PARTS[following] if following < len(PARTS) else ""
    return replace(position, part=part, cursor=None)


def _same(known: InvoiceRecord | None, found: FetchedInvoice) -> bool:
    return known is not None and (
        known.state,
        known.amount_due_minor,
        known.due_at,
        known.attempts,
        known.provider_customer_id,
    ) == (
        found.state,
        found.amount_due_minor,
        found.due_at,
        found.attempts,
        found.provider_customer_id,
    )
