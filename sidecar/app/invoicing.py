"""The parts about invoices, made over their stores; and which of them work in the background."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sidecar.app.workers import Run
from sidecar.outbound.postgres.invoice_book import PostgresInvoiceBook
from sidecar.outbound.postgres.invoice_reading import PostgresInvoiceRecord
from sidecar.outbound.postgres.pool import Pool
from sidecar.services.control_ports import UsageStream
from sidecar.services.invoice_making import CardShelf, InvoiceMaker
from sidecar.services.invoice_rounds import InvoicingOptions, InvoicingWorker
from sidecar.services.invoicing import InvoiceService
from sidecar.services.ports import Clock, Policies, RateCards
from sidecar.settings import Settings

_PREVIEW_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicingParts:
    """The use cases, and the background work by name."""

    invoices: InvoiceService
    workers: dict[str, Run]


def make_invoicing(
    settings: Settings,
    *,
    pool: Pool,
    stream: UsageStream,
    rate_cards: RateCards,
    policies: Policies,
    clock: Clock,
    shard_of: Callable[[str], int],
) -> InvoicingParts:
    """Make the parts over the database of record and the shards' streams."""
    book = PostgresInvoiceBook(pool, sum_seconds_max=settings.invoice_sum_seconds)
    # Somebody waits for a preview, and holds one of a few connections meanwhile.
    record = PostgresInvoiceRecord(
        pool, sum_seconds_max=min(settings.invoice_sum_seconds, _PREVIEW_SECONDS_MAX)
    )
    maker, previewer = (
        InvoiceMaker(
            record=one,
            cards=CardShelf(one, rate_cards),
            policies=policies,
            late=settings.invoice_late_usage,
        )
        for one in (book, record)
    )
    worker = InvoicingWorker(
        book=book,
        stream=stream,
        maker=maker,
        clock=clock,
        shard_of=shard_of,
        options=InvoicingOptions(
            grace=timedelta(seconds=settings.invoice_grace_seconds),
            since=settings.invoice_from,
            batch_max=settings.invoice_batch_max,
            interval_seconds=settings.invoice_interval_seconds,
        ),
    )
    return InvoicingParts(
        invoices=InvoiceService(record=record, maker=previewer, clock=clock),
        workers={"invoicing": worker.run},
    )
