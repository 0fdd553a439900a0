"""Rows of the route table about invoices; `table` has them all."""

from http import HTTPStatus

from pydantic import BaseModel

from sidecar.inbound.http import invoice_models, invoices, paging
from sidecar.inbound.http.routing import Auth, Handler, Role, Route

_OK = HTTPStatus.OK
_CREATED = HTTPStatus.CREATED
_NOT_FOUND = HTTPStatus.NOT_FOUND
_INVOICE = "/api/v1/invoices/{invoice_id}"
_CUSTOMER = "/api/v1/customers/{customer_id}"


def _read(
    path: str,
    handler: Handler,
    summary: str,
    answer: type[BaseModel],
    query: type[BaseModel] | None = None,
) -> Route:
    return Route(
        method="GET",
        path=path,
        handler=handler,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary=summary,
        statuses=(_OK, _NOT_FOUND),
        query_model=query,
        response_model=answer,
    )


INVOICE_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/v1/invoices",
        handler=invoices.list_invoices,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List invoices, that which ended last first",
        statuses=(_OK,),
        query_model=invoice_models.InvoicesQuery,
        response_model=invoice_models.InvoicePage,
    ),
    _read(
        _INVOICE,
        invoices.get_invoice,
        "Read an invoice with its lines",
        invoice_models.WholeInvoiceAnswer,
    ),
    _read(
        f"{_INVOICE}/lines/{{line_number}}/events",
        invoices.list_line_events,
        "List the usage events that a line was added up from",
        invoice_models.LineEventPage,
        invoice_models.EventsQuery,
    ),
    _read(
        f"{_INVOICE}/credit_notes",
        invoices.list_credit_notes,
        "List an invoice's credit notes, the oldest first",
        invoice_models.CreditNoteList,
        paging.LimitQuery,
    ),
    Route(
        method="POST",
        path=f"{_INVOICE}/credit_notes",
        handler=invoices.post_credit_note,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Credit a part of an invoice",
        statuses=(_CREATED, _NOT_FOUND),
        request_model=invoice_models.CreditNoteBody,
        response_model=invoice_models.CreditNoteAnswer,
        shown_fields=("amount", "lines"),
    ),
    Route(
        method="POST",
        path=f"{_INVOICE}/void",
        handler=invoices.void_invoice,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Credit all that is left of an invoice; its number stays",
        statuses=(_CREATED, _NOT_FOUND),
        request_model=invoice_models.VoidBody,
        response_model=invoice_models.CreditNoteAnswer,
    ),
    _read(
        f"{_CUSTOMER}/invoice-preview",
        invoices.preview_invoice,
        "Say what the running period comes to, as far as its usage is settled",
        invoice_models.WholeInvoiceAnswer,
    ),
    Route(
        method="POST",
        path=f"{_CUSTOMER}/invoices/close",
        handler=invoices.close_invoice,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Have a period that is over closed without grace",
        statuses=(HTTPStatus.ACCEPTED, _NOT_FOUND),
        response_model=invoice_models.ClosingAnswer,
    ),
    Route(
        method="PUT",
        path=f"{_CUSTOMER}/billing-anchor",
        handler=invoices.put_anchor,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Say at which day and time of the month periods begin",
        statuses=(_OK, _NOT_FOUND),
        request_model=invoice_models.AnchorBody,
        response_model=invoice_models.AnchorAnswer,
        shown_fields=("anchor",),
    ),
    _read(
        "/api/v1/trace/{hold_id}",
        invoices.get_trace,
        "Follow a request's hold to ledger, report and invoice line",
        invoice_models.TraceAnswer,
        invoice_models.TraceQuery,
    ),
)
