"""
The regular look at everything that a provider has open: webhooks may never have come.

1. Events since the last sweep are listed and stored like webhooks; those that came are repeats.
2. Invoices that are open at the provider are listed; one that is not as we know it is fetched.
3. Invoices that are open here and were not in that list are fetched.

Each round makes at most so many reads, those of the objects that are fetched because of it
included, and the next goes on where it ended.
"""

import asyncio
from collections.abc import Mapping, Sequence
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
    Receipt,
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
            reads_max: Reads of a round; more than the most that one object takes.
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
        budget = _Budget(self._reads_max, self._objects.costs)
        while position.part and not budget.spent:
            position = await self._step(position, budget)
            now = self._clock.now()
            done = not position.part
            # Saved after each page: whoever dies is followed from there, soon.
            await self._sweeps.save(
                position, done=done, next_at=now + (self._every if done else AGAIN)
            )
        telemetry.get_logger().info(
            "provider_swept",
            provider=provider,
            reads=budget.used,
            wanted=len(budget.wanted),
            part=position.part,
        )
        return len(budget.wanted)

    async def _step(self, position: SweepPosition, budget: "_Budget") -> SweepPosition:
        """
        One page, or as much of it as there are reads for: where it comes to.

        A page that was not finished is read again in the next round: what was asked for of it is
        known by then, and costs nothing.
        """
        match position.part:
            case "events":
                return await self._events(position, budget)
            case "invoices":
                if not budget.take():
                    return position
                page = await self._objects.list_open_invoices(position.cursor)
                if not await self._want(await self._changed(page.invoices), budget):
                    return budget.stop(position)
                return _after(position, page.next_cursor)
            case "ours":
                return await self._ours(position, budget)
            case _:
                return await self._parked(position, budget)

    async def _events(self, position: SweepPosition, budget: "_Budget") -> SweepPosition:
        if not budget.take():
            return position
        page = await self._objects.list_events(position.cursor, since=position.since)
        for event in page.events:
            # Before it is known to be new, since it is stored and wanted in one step.
            if event.ref is not None and not budget.fits(event.ref):
                return budget.stop(position)
            stored = await self._inbox.receive(event)
            if event.ref is not None and stored is Receipt.STORED:
                budget.want(event.ref)
        return _after(position, page.next_cursor)

    async def _want(self, refs: Sequence[ObjectRef], budget: "_Budget") -> bool:
        """Have as many fetched as there are reads for; False if that is not all of them."""
        some = [ref for ref in refs if budget.want(ref)]
        if some:
            await self._inbox.want(some)
        return len(some) == len(refs)

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

    async def _ours(self, position: SweepPosition, budget: "_Budget") -> SweepPosition:
        """Open here, and not in the list: paid or voided without a word, most likely."""
        found = await self._records.unseen_open_invoices(
            self._objects.provider,
            before=position.begun_at,
            after=position.cursor or "",
            limit=_PAGE,
        )
        for place, invoice_id in enumerate(found):
            if not await self._want([self._ref(invoice_id)], budget):
                return budget.stop(
                    position if place == 0 else replace(position, cursor=found[place - 1])
                )
        return _after(position, found[-1] if len(found) == _PAGE else None)

    async def _parked(self, position: SweepPosition, budget: "_Budget") -> SweepPosition:
        found = await self._inbox.list(
            state=InboxState.PARKED, after=position.cursor or "", limit=_PAGE
        )
        for place, one in enumerate(found):
            wanted = [one.ref] if one.reason in _MENDED_BY_TIME else []
            if not await self._want(wanted, budget):
                return budget.stop(
                    position if place == 0 else replace(position, cursor=found[place - 1].ref.key)
                )
        return _after(position, found[-1].ref.key if len(found) == _PAGE else None)

    def _ref(self, invoice_id: str) -> ObjectRef:
        return ObjectRef(
            provider=self._objects.provider, kind=ObjectKind.INVOICE, object_id=invoice_id
        )


class _Budget:
    """The reads of one round: lists as they are made, objects by the most that they can take."""

    def __init__(self, reads_max: int, costs: Mapping[ObjectKind, int]) -> None:
        self._reads_max = reads_max
        self._costs = costs
        self.used = 0
        self.spent = False
        self.wanted: set[str] = set()

    def take(self) -> bool:
        """Take one read for a list; False if none is left."""
        self.spent = self.used >= self._reads_max
        self.used += not self.spent
        return not self.spent

    def fits(self, ref: ObjectRef) -> bool:
        """Whether there are reads for one object more; it is fetched once, however often wanted."""
        return ref.key in self.wanted or self.used + self._cost(ref) <= self._reads_max

    def want(self, ref: ObjectRef) -> bool:
        """Take an object's reads; False if there are too few left."""
        if not self.fits(ref):
            return False
        self.used += 0 if ref.key in self.wanted else self._cost(ref)
        self.wanted.add(ref.key)
        return True

    def stop(self, position: SweepPosition) -> SweepPosition:
        """The round ends here."""
        self.spent = True
        return position

    def _cost(self, ref: ObjectRef) -> int:
        return self._costs.get(ref.kind, 1)


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
