"""
Collecting: closed invoices to a billing provider, each paid once.

What is sent is named by a reference that is derived from ledger, invoice and attempt, and is
written down before it is sent. Whatever dies in between, the next worker asks about that
reference before it sends anything.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sidecar import telemetry
from sidecar.domain.collecting import (
    CollectOutcome,
    CollectRules,
    CollectState,
    CollectStep,
    CollectWay,
    collect_reference,
    next_collect_step,
)
from sidecar.domain.errors import InvalidInput, SidecarError
from sidecar.domain.minor_units import to_minor
from sidecar.services.collecting_ports import (
    Collection,
    CollectionRecord,
    DueInvoice,
    InvoicesDue,
    NewCollection,
    Try,
)
from sidecar.services.provider_ports import (
    CollectAnswer,
    CollectCapabilities,
    Demand,
    DemandLine,
    InvoiceCollector,
    Payer,
    Payers,
)
from sidecar.services.rounds import run_rounds

ADOPT_MAX = 500
"""Invoices that are taken over in one statement."""
_BACKOFF_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectStores:
    """The stores that collecting stands on."""

    record: CollectionRecord
    invoices: InvoicesDue
    customers: Payers


class CollectingWorker:
    """Collects what is due; any number may run, one at a time has an invoice."""

    def __init__(
        self,
        stores: CollectStores,
        collectors: Mapping[str, InvoiceCollector],
        *,
        rules: CollectRules,
        concurrency_max: int = 8,
        lease: timedelta = timedelta(seconds=120),
        interval_seconds: float = 5.0,
    ) -> None:
        """
        Wire the ports.

        Args:
            stores: Ports.
            collectors: By provider.
            rules: When to come back.
            concurrency_max: Invoices in progress at a time.
            lease: Must be longer than a collector's longest calls together.
            interval_seconds: Pause of `run` after a round that found nothing.
        """
        self._stores = stores
        self._collectors = collectors
        self._rules = rules
        self._concurrency_max = concurrency_max
        self._lease = lease
        self._interval_seconds = interval_seconds

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until stopped; failures of a store are counted and backed off."""
        await run_rounds(
            stop,
            self.collect_once,
            name="collecting",
            pause_seconds=self._interval_seconds,
            backoff_seconds_max=_BACKOFF_SECONDS_MAX,
            at_once=bool,
        )

    async def collect_once(self) -> int:
        """
        One round.

        1. Adopt closed invoices. *A crash:* one row an invoice, however often.
        2. Claim. *A crash:* the invoice waits until the lease ends.
        3. Ask about the reference, if it may have been sent. *A crash:* nothing has changed.
        4. Write down that it is about to be sent. *A crash:* the next worker asks about it, the
           provider does not know it, and the same reference is sent.
        5. Send; a provider without keys for repeats notes its draft before it makes it live.
           *A crash after the provider took it:* as in 3, and it is found.
        6. Keep the answer and end the lease. *A crash before it:* the provider says it again.

        Returns:
            How many invoices were looked at.

        Raises:
            StoreUnavailable: A step may or may not have happened; collect again.
        """
        await self._adopt()
        claimed = await self._stores.record.claim(
            sorted(self._collectors), limit=self._concurrency_max, lease=self._lease
        )
        async with asyncio.TaskGroup() as group:
            for collection in claimed:
                group.create_task(self._guarded(collection))
        return len(claimed)

    async def _adopt(self) -> None:
        due = await self._stores.invoices.due(limit=ADOPT_MAX)
        new = [
            NewCollection(
                customer_id=invoice.customer_id,
                invoice_id=invoice.invoice_id,
                provider=invoice.provider,
                currency=invoice.currency,
                attempts_max=self._rules.attempts_max,
            )
            for invoice in due
        ]
        if new:
            await self._stores.record.adopt(new)

    async def _guarded(self, collection: Collection) -> None:
        """One invoice's trouble keeps no other from being collected."""
        try:
            await self._collect(collection)
        except SidecarError as error:
            telemetry.WORKER_FAILURES.labels("collecting").inc()
            telemetry.get_logger().warning(
                "collection_failed", invoice_id=collection.invoice_id, error=str(error)
            )

    async def _collect(self, collection: Collection) -> None:
        collector = self._collectors[collection.provider]
        payer = await self._stores.customers.read(collection.customer_id, collection.provider)
        if payer is None:
            # Erased since. What was sent can still be asked about.
            payer = Payer(customer_id=collection.customer_id, provider=collection.provider)
        if collection.tries:
            demand = _demand(collection, payer, None, collector.capabilities)
            answer = await collector.verify(demand)
            if answer.outcome is not CollectOutcome.ABSENT:
                await self._finish(collection, answer)
                return
        invoice = await self._stores.invoices.read(
            collection.customer_id,
            collection.invoice_id,
            lines_max=collector.capabilities.lines_max,
        )
        await self._send(collection, payer, invoice, collector)

    async def _send(
        self,
        collection: Collection,
        payer: Payer,
        invoice: DueInvoice | None,
        collector: InvoiceCollector,
    ) -> None:
        """Steps 4 to 6; what must not be sent ends instead."""
        if invoice is None and not collection.tries:
            await self._end(collection, CollectState.WITHDRAWN, "nothing is due any more")
            return
        trying, problem = _plan(collection, payer, invoice, collector.capabilities)
        if problem:
            await self._finish(
                collection, CollectAnswer(outcome=CollectOutcome.REFUSED, detail=problem)
            )
            return
        tried = await self._stores.record.note_try(collection, trying)

        async def note(name: str) -> None:
            await self._stores.record.note_provider_reference(tried, name)

        demand = _demand(tried, payer, invoice, collector.capabilities)
        await self._finish(tried, await collector.collect(demand, note))

    async def _finish(self, collection: Collection, answer: CollectAnswer) -> None:
        step = next_collect_step(
            answer.outcome,
            attempt=collection.attempt,
            attempts_max=collection.attempts_max,
            unclear=collection.unclear,
            rules=self._rules,
            asked_to_wait=answer.wait,
        )
        await self._keep(collection, answer, step)
        telemetry.COLLECTIONS.labels(collection.provider, answer.outcome.value).inc()
        if step.state is CollectState.FAILED:
            telemetry.get_logger().error(
                "collection_parked",
                customer_id=collection.customer_id,
                invoice_id=collection.invoice_id,
                reference=collection.reference,
                detail=answer.detail,
            )

    async def _end(self, collection: Collection, state: CollectState, detail: str) -> None:
        answer = CollectAnswer(outcome=CollectOutcome.ABSENT, detail=detail)
        step = CollectStep(state=state, wait=None, attempt=collection.attempt)
        await self._keep(collection, answer, step)
        telemetry.COLLECTIONS.labels(collection.provider, state.value).inc()

    async def _keep(self, collection: Collection, answer: CollectAnswer, step: CollectStep) -> None:
        reference = collection.reference
        if step.attempt != collection.attempt:
            ledger_id = await self._stores.record.ledger_id()
            reference = collect_reference(ledger_id, collection.invoice_id, step.attempt)
        await self._stores.record.finish(collection, answer, step, next_reference=reference)


def _plan(
    collection: Collection,
    payer: Payer,
    invoice: DueInvoice | None,
    capabilities: CollectCapabilities,
) -> tuple[Try, str]:
    """What the next try is to be, and why it must not be made ("" if it may)."""
    if collection.tries:
        # The reference is known to have been used so: it is sent as it was, or not at all.
        trying = Try(amount_minor=collection.amount_minor, way=collection.way)
        if invoice is None:
            return trying, "nothing is due any more, and the provider knows nothing of it"
    else:
        assert invoice is not None
        if invoice.metered_by:
            return Try(amount_minor=0, way=payer.way), (
                f"{invoice.metered_by} rates this customer's usage itself: it would be paid twice"
            )
        try:
            minor = to_minor(invoice.due_nano, invoice.currency, collection.provider)
            if invoice.due_minor is not None:
                minor = invoice.due_minor
        except InvalidInput as error:
            return Try(amount_minor=0, way=payer.way), str(error)
        trying = Try(amount_minor=minor, way=payer.way)
    return trying, _problem(collection, trying, payer, capabilities)


def _problem(
    collection: Collection, trying: Try, payer: Payer, capabilities: CollectCapabilities
) -> str:
    if not payer.collect:
        return f"{collection.provider} does not collect this customer's invoices any more"
    if trying.amount_minor <= 0:
        return "what is due is less than the currency's smallest unit"
    if trying.way not in capabilities.currencies:
        return f"{collection.provider} cannot collect by {trying.way.value}"
    if collection.currency not in capabilities.currencies[trying.way]:
        return f"{collection.provider} takes no {collection.currency} by {trying.way.value}"
    if trying.way is CollectWay.CARD and not payer.authorization_code:
        return "the saved card is gone"
    return ""


def _demand(
    collection: Collection,
    payer: Payer,
    invoice: DueInvoice | None,
    capabilities: CollectCapabilities,
) -> Demand:
    return Demand(
        invoice_id=collection.invoice_id,
        number=collection.invoice_id if invoice is None else invoice.number,
        reference=collection.reference,
        way=collection.way,
        currency=collection.currency,
        amount_minor=collection.amount_minor,
        payer=payer,
        lines=() if invoice is None else demand_lines(collection, invoice, capabilities.lines_max),
        due_at=None if invoice is None else invoice.due_at,
        retried=collection.tries > 1,
        provider_reference=collection.provider_reference,
    )


def demand_lines(
    collection: Collection, invoice: DueInvoice, lines_max: int
) -> tuple[DemandLine, ...]:
    """
    The invoice's lines in minor units, if they say exactly what is due; else none.

    They do not where credit has paid a part, where lines were rounded apart, or where one is
    not above zero: then one line for all is the truth.
    """
    lines = tuple(
        DemandLine(
            text=line.text,
            amount_minor=to_minor(line.amount_nano, invoice.currency, collection.provider)
            if line.amount_minor is None
            else line.amount_minor,
        )
        for line in invoice.lines
    )
    exact = sum(line.amount_minor for line in lines) == collection.amount_minor
    if not exact or len(lines) > lines_max or any(line.amount_minor <= 0 for line in lines):
        return ()
    return lines
