"""Rows of the route table about reports to the billing provider; `table` has them all."""

from http import HTTPStatus

from sidecar.inbound.http import settlement_models, settlements, top_up_sessions
from sidecar.inbound.http.routing import Auth, Role, Route

_OK = HTTPStatus.OK
_NOT_FOUND = HTTPStatus.NOT_FOUND

SETTLEMENT_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/v1/settlements",
        handler=settlements.list_settlements,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List quantities to report to the billing provider, by number",
        statuses=(_OK,),
        query_model=settlement_models.SettlementsQuery,
        response_model=settlement_models.SettlementPage,
    ),
    Route(
        method="GET",
        path="/api/v1/settlements/{settlement_number}",
        handler=settlements.get_settlement,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read a quantity to report",
        statuses=(_OK, _NOT_FOUND),
        response_model=settlement_models.SettlementAnswer,
    ),
    Route(
        method="POST",
        path="/api/v1/settlements/{settlement_number}/retry",
        handler=settlements.retry_settlement,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Send a failed quantity again, if the provider is known not to have counted it",
        statuses=(_OK, _NOT_FOUND),
        response_model=settlement_models.SettlementAnswer,
    ),
    Route(
        method="GET",
        path="/api/v1/settlement-reconciliations",
        handler=settlements.list_reconciliations,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List comparisons of what was reported with the provider's sums, the newest first",
        statuses=(_OK,),
        query_model=settlement_models.ReconciliationsQuery,
        response_model=settlement_models.ReconciliationList,
    ),
    Route(
        method="POST",
        path="/api/v1/customers/{customer_id}/top_up_sessions",
        handler=top_up_sessions.post_top_up_session,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Make a page at the provider on which a customer pays for credit",
        statuses=(HTTPStatus.CREATED, _NOT_FOUND),
        request_model=top_up_sessions.TopUpSessionBody,
        response_model=top_up_sessions.TopUpSessionAnswer,
        shown_fields=("amount", "currency"),
    ),
)
