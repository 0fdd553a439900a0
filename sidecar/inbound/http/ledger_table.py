"""Rows of the route table about the ledger; `table` has them all."""

from http import HTTPStatus

from sidecar.inbound.http import ledger, paging
from sidecar.inbound.http.routing import Auth, Role, Route

_OK = HTTPStatus.OK

LEDGER_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/v1/reconcile",
        handler=ledger.post_reconcile,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Compare a customer's live balance with the ledger, and mend it if asked to",
        statuses=(_OK, HTTPStatus.NOT_FOUND),
        request_model=ledger.ReconcileBody,
        response_model=ledger.ReconcileAnswer,
        shown_fields=("customer_id", "fix"),
    ),
    Route(
        method="GET",
        path="/api/v1/reconcile",
        handler=ledger.list_reconcile_runs,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List what the last comparisons of all customers found, the newest first",
        statuses=(_OK,),
        query_model=paging.LimitQuery,
        response_model=ledger.ReconcileRunList,
    ),
    Route(
        method="GET",
        path="/api/v1/ledger/roots",
        handler=ledger.list_roots,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List the ledger's signed roots by number",
        statuses=(_OK,),
        query_model=ledger.RootsQuery,
        response_model=ledger.LedgerRootPage,
    ),
)
