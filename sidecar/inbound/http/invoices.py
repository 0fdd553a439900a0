"""The admin role's resources of invoices: thin words between JSON and the use cases."""

from http import HTTPStatus

from sidecar.domain.money import parse_amount
from sidecar.domain.periods import from_epoch_ms
from sidecar.inbound.http.admin import customer_id_of, path_name
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.credits import keyed_id
from sidecar.inbound.http.invoice_models import (
    AnchorAnswer,
    AnchorBody,
    ClosingAnswer,
    CreditNoteAnswer,
    CreditNoteBody,
    CreditNoteList,
    EventsQuery,
    InvoiceAnswer,
    InvoicePage,
    InvoicesQuery,
    LineEventAnswer,
    LineEventPage,
    TraceAnswer,
    TracedLineAnswer,
    TraceQuery,
    VoidBody,
    WholeInvoiceAnswer,
)
from sidecar.inbound.http.paging import LimitQuery
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.invoicing import InvoiceService
from sidecar.services.invoicing_ports import CreditNote, CreditNoteLine, InvoiceFilter


async def list_invoices(call: Call) -> Answer:
    """A page of invoices, that which ended last first."""
    assert isinstance(call.query, InvoicesQuery)
    query = call.query
    position = None
    if query.after is not None:
        end_ms, _, last_id = query.after.partition(".")
        position = from_epoch_ms(int(end_ms)), last_id
    which = InvoiceFilter(
        customer_id=query.customer_id,
        state=query.state,
        ends_from=query.ends_from,
        ends_before=query.ends_before,
    )
    found = await _invoices(call).list(which, before=position, limit=query.limit + 1)
    page = found[: query.limit]
    following = None
    if len(found) > query.limit:
        following = f"{page[-1].period.end_ms}.{page[-1].invoice_id}"
    items = [InvoiceAnswer(**InvoiceAnswer.fields_of(one)) for one in page]
    return Answer(body=InvoicePage(items=items, next=following))


async def get_invoice(call: Call) -> Answer:
    """One invoice with its lines."""
    invoice = await _invoices(call).read(path_name(call, "invoice_id"))
    return Answer(body=WholeInvoiceAnswer.of(invoice))


async def preview_invoice(call: Call) -> Answer:
    """The running period's invoice as far as usage is settled."""
    preview = await _invoices(call).preview(customer_id_of(call))
    body = WholeInvoiceAnswer.of(preview.invoice, preview.unknown_versions, preview.unknown_plans)
    return Answer(body=body)


async def close_invoice(call: Call) -> Answer:
    """Have a period that is over closed without grace."""
    customer_id = customer_id_of(call)
    period = await _invoices(call).close(customer_id)
    return Answer(
        status=HTTPStatus.ACCEPTED,
        body=ClosingAnswer(
            customer_id=customer_id, period_start=period.start, period_end=period.end
        ),
    )


async def put_anchor(call: Call) -> Answer:
    """When the customer's periods begin."""
    assert isinstance(call.body, AnchorBody)
    cursor = await _invoices(call).set_anchor(customer_id_of(call), call.body.anchor)
    return Answer(
        body=AnchorAnswer(
            customer_id=cursor.customer_id,
            anchor=cursor.anchor,
            period_start=cursor.closed_until,
            period_end=cursor.period_end,
        )
    )


async def post_credit_note(call: Call) -> Answer:
    """Credit a part of an invoice; named after an Idempotency-Key as a grant is."""
    assert isinstance(call.body, CreditNoteBody)
    body = call.body
    note = await _invoices(call).credit(
        CreditNote(
            credit_note_id=keyed_id(call, "crn"),
            customer_id="",
            invoice_id=path_name(call, "invoice_id"),
            amount_nano=0 if body.amount is None else parse_amount(body.amount),
            reason=body.reason,
            lines=tuple(
                CreditNoteLine(
                    line_number=line.line_number,
                    amount_nano=parse_amount(line.amount, field="lines"),
                )
                for line in body.lines
            ),
        )
    )
    return Answer(status=HTTPStatus.CREATED, body=CreditNoteAnswer.of(note))


async def list_credit_notes(call: Call) -> Answer:
    """An invoice's credit notes, the oldest first."""
    assert isinstance(call.query, LimitQuery)
    limit = call.query.limit
    found = await _invoices(call).list_credit_notes(path_name(call, "invoice_id"), limit=limit + 1)
    items = [CreditNoteAnswer.of(note) for note in found[:limit]]
    return Answer(body=CreditNoteList(items=items, more=len(found) > limit))


async def void_invoice(call: Call) -> Answer:
    """Credit all that is left of an invoice."""
    assert isinstance(call.body, VoidBody)
    note = await _invoices(call).void(
        path_name(call, "invoice_id"), credit_note_id=keyed_id(call, "crn"), reason=call.body.reason
    )
    return Answer(status=HTTPStatus.CREATED, body=CreditNoteAnswer.of(note))


async def list_line_events(call: Call) -> Answer:
    """Which usage events a line was added up from."""
    assert isinstance(call.query, EventsQuery)
    query = call.query
    number = path_name(call, "line_number")
    hold_id, _, kind = (query.after or ".").partition(".")
    found = await _invoices(call).list_line_events(
        path_name(call, "invoice_id"), int(number), after=(hold_id, kind), limit=query.limit + 1
    )
    page = found[: query.limit]
    following = f"{page[-1].hold_id}.{page[-1].kind}" if len(found) > query.limit else None
    items = [LineEventAnswer.of(event) for event in page]
    return Answer(body=LineEventPage(items=items, next=following))


async def get_trace(call: Call) -> Answer:
    """From a request's hold to ledger, report and invoice line."""
    assert isinstance(call.query, TraceQuery)
    hold_id = path_name(call, "hold_id")
    found = await _invoices(call).trace(hold_id, customer_id=call.query.customer_id)
    return Answer(
        body=TraceAnswer(hold_id=hold_id, lines=[TracedLineAnswer.of(line) for line in found])
    )


def _invoices(call: Call) -> InvoiceService:
    return call.request.app[ADMIN].invoices
