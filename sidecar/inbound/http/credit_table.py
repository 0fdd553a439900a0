"""Rows of the route table about credit; `table` has them all."""

from http import HTTPStatus

from pydantic import BaseModel

from sidecar.inbound.http import credit_models, paging, recurring, recurring_models
from sidecar.inbound.http import credits as grants
from sidecar.inbound.http.routing import Auth, Handler, Role, Route

_OK = HTTPStatus.OK
_CREATED = HTTPStatus.CREATED
_NOT_FOUND = HTTPStatus.NOT_FOUND
_CUSTOMER = "/api/v1/customers/{customer_id}"
_GRANT_FIELDS = ("amount", "currency", "kind", "priority", "effective_at", "expires_at", "meters")


def _withdrawal(
    verb: str,
    handler: Handler,
    summary: str,
    body: type[BaseModel] = credit_models.WithdrawalBody,
) -> Route:
    return Route(
        method="POST",
        path=f"/api/v1/grants/{{grant_id}}/{verb}",
        handler=handler,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary=summary,
        statuses=(_CREATED, _NOT_FOUND),
        request_model=body,
        response_model=credit_models.WithdrawalAnswer,
        shown_fields=("customer_id", "amount"),
    )


GRANT_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path=f"{_CUSTOMER}/balance",
        handler=grants.get_balance,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read the live balance",
        statuses=(_OK, _NOT_FOUND),
        response_model=credit_models.BalanceAnswer,
    ),
    Route(
        method="GET",
        path=f"{_CUSTOMER}/grants/live",
        handler=grants.list_live_grants,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List the grants that checks see, in the order in which they burn",
        statuses=(_OK, _NOT_FOUND),
        response_model=credit_models.LiveGrantList,
    ),
    Route(
        method="POST",
        path="/api/v1/grants",
        handler=grants.post_grant,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Give credit",
        statuses=(_CREATED, _NOT_FOUND),
        request_model=credit_models.GrantBody,
        response_model=credit_models.GrantAnswer,
        shown_fields=("customer_id", *_GRANT_FIELDS),
    ),
    Route(
        method="GET",
        path="/api/v1/grants",
        handler=grants.list_grants,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List a customer's grants by id",
        statuses=(_OK, _NOT_FOUND),
        query_model=paging.CustomerPageQuery,
        response_model=credit_models.GrantPage,
    ),
    Route(
        method="GET",
        path="/api/v1/grants/{grant_id}",
        handler=grants.get_grant,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read a grant",
        statuses=(_OK, _NOT_FOUND),
        query_model=credit_models.CustomerQuery,
        response_model=credit_models.GrantAnswer,
    ),
    _withdrawal(
        "void", grants.void_grant, "Take back what is free of a grant; without an amount, end it"
    ),
    _withdrawal(
        "refund", grants.refund_grant, "Take back what is free of a grant: it was paid back"
    ),
    _withdrawal(
        "dispute",
        grants.dispute_grant,
        "Take back what was given, spent or not: the payment was reversed",
        credit_models.DisputeBody,
    ),
    Route(
        method="GET",
        path="/api/v1/withdrawals",
        handler=grants.list_withdrawals,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List a customer's withdrawals by id",
        statuses=(_OK, _NOT_FOUND),
        query_model=paging.CustomerPageQuery,
        response_model=credit_models.WithdrawalPage,
    ),
)

RECURRING_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/v1/grant-schedules",
        handler=recurring.post_schedule,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Give credit in each period of a calendar",
        statuses=(_CREATED, _NOT_FOUND),
        request_model=recurring_models.ScheduleBody,
        response_model=recurring_models.ScheduleAnswer,
        shown_fields=(
            *("customer_id", "amount", "currency", "kind", "priority", "meters", "unit"),
            *("every", "tz", "anchor", "starts_at", "ends_at", "rollover"),
        ),
    ),
    Route(
        method="GET",
        path="/api/v1/grant-schedules",
        handler=recurring.list_schedules,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List a customer's schedules by id, also those that have ended",
        statuses=(_OK, _NOT_FOUND),
        query_model=paging.CustomerPageQuery,
        response_model=recurring_models.SchedulePage,
    ),
    Route(
        method="GET",
        path="/api/v1/grant-schedules/{schedule_id}",
        handler=recurring.get_schedule,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read a schedule",
        statuses=(_OK, _NOT_FOUND),
        query_model=credit_models.CustomerQuery,
        response_model=recurring_models.ScheduleAnswer,
    ),
    Route(
        method="DELETE",
        path="/api/v1/grant-schedules/{schedule_id}",
        handler=recurring.end_schedule,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="End a schedule; grants that are issued stay",
        statuses=(_OK, _NOT_FOUND),
        query_model=credit_models.CustomerQuery,
        response_model=recurring_models.ScheduleAnswer,
    ),
    Route(
        method="POST",
        path=f"{_CUSTOMER}/top-ups",
        handler=grants.post_top_up,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Give credit for a payment, once per reference",
        statuses=(_CREATED, _NOT_FOUND),
        request_model=credit_models.TopUpBody,
        response_model=credit_models.GrantAnswer,
        shown_fields=("amount", "currency", "reference"),
    ),
    Route(
        method="PUT",
        path=f"{_CUSTOMER}/top-up-rule",
        handler=recurring.put_top_up_rule,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Ask for a payment by itself when credit runs low",
        statuses=(_OK, _NOT_FOUND),
        request_model=recurring_models.TopUpRuleBody,
        response_model=recurring_models.TopUpRuleAnswer,
        shown_fields=("threshold", "amount", "target"),
    ),
    Route(
        method="GET",
        path=f"{_CUSTOMER}/top-up-rule",
        handler=recurring.get_top_up_rule,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read the rule for automatic top-ups",
        statuses=(_OK, _NOT_FOUND),
        response_model=recurring_models.TopUpRuleAnswer,
    ),
    Route(
        method="DELETE",
        path=f"{_CUSTOMER}/top-up-rule",
        handler=recurring.delete_top_up_rule,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Ask for no further payment; answers the rule that was",
        statuses=(_OK, _NOT_FOUND),
        response_model=recurring_models.TopUpRuleAnswer,
    ),
    Route(
        method="GET",
        path=f"{_CUSTOMER}/top-up-attempts",
        handler=recurring.list_top_up_attempts,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List payments that were asked for by themselves, the newest first",
        statuses=(_OK, _NOT_FOUND),
        query_model=paging.LimitQuery,
        response_model=recurring_models.TopUpAttemptList,
    ),
)
