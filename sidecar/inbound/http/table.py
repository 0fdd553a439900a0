"""The one route table: a resource is added here, and nowhere else."""

from http import HTTPStatus

from sidecar.inbound.http import admin, admin_models, check, gateway_models, system, usage
from sidecar.inbound.http.routing import Auth, Role, Route

_OK = HTTPStatus.OK
_CREATED = HTTPStatus.CREATED
_NOT_FOUND = HTTPStatus.NOT_FOUND
_CUSTOMER = "/api/v1/customers/{customer_id}"


def _system_routes(role: Role, openapi_auth: Auth) -> tuple[Route, ...]:
    """What each role answers about itself."""
    return (
        Route(
            method="GET",
            path="/metrics",
            handler=system.get_metrics,
            role=role,
            auth=Auth.OPEN,
            summary="Metrics in Prometheus' text format",
            statuses=(_OK,),
            response_type="text/plain",
        ),
        Route(
            method="GET",
            path="/healthz",
            handler=system.get_health,
            role=role,
            auth=Auth.OPEN,
            summary="Whether the process answers",
            statuses=(_OK,),
            response_model=system.Health,
        ),
        Route(
            method="GET",
            path="/readyz",
            handler=system.get_readiness,
            role=role,
            auth=Auth.OPEN,
            summary="Whether the process can serve; 503 with the problems if not",
            statuses=(_OK,),
            response_model=system.Readiness,
        ),
        Route(
            method="GET",
            path="/api/v1/openapi.json",
            handler=system.get_openapi,
            role=role,
            auth=openapi_auth,
            summary="This document",
            statuses=(_OK,),
            response_model=system.OpenApiDocument,
        ),
    )


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/check",
        handler=check.post_check,
        role=Role.GATEWAY,
        auth=Auth.CHECK,
        summary="Decide on a request; 200 for a denial too",
        statuses=(_OK,),
        request_model=gateway_models.CheckBody,
        response_model=gateway_models.CheckAnswer,
    ),
    Route(
        method="POST",
        path="/v1/usage",
        handler=usage.post_usage,
        role=Role.GATEWAY,
        auth=Auth.METER,
        summary="Report what requests used",
        statuses=(HTTPStatus.ACCEPTED,),
        request_model=gateway_models.UsageBatch,
        response_model=gateway_models.UsageResults,
    ),
    *_system_routes(Role.GATEWAY, Auth.CHECK),
    Route(
        method="POST",
        path="/api/v1/customers",
        handler=admin.post_customer,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Create a customer",
        statuses=(_CREATED,),
        request_model=admin_models.CustomerBody,
        response_model=admin_models.CustomerAnswer,
    ),
    Route(
        method="GET",
        path="/api/v1/customers",
        handler=admin.list_customers,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List customers by id",
        statuses=(_OK,),
        query_model=admin_models.PageQuery,
        response_model=admin_models.CustomerPage,
    ),
    Route(
        method="GET",
        path=_CUSTOMER,
        handler=admin.get_customer,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read a customer",
        statuses=(_OK, _NOT_FOUND),
        response_model=admin_models.CustomerAnswer,
    ),
    Route(
        method="GET",
        path=f"{_CUSTOMER}/balance",
        handler=admin.get_balance,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read the live balance",
        statuses=(_OK, _NOT_FOUND),
        response_model=admin_models.BalanceAnswer,
    ),
    Route(
        method="GET",
        path=f"{_CUSTOMER}/standing",
        handler=admin.get_standing,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read the standing",
        statuses=(_OK, _NOT_FOUND),
        response_model=admin_models.StandingAnswer,
    ),
    Route(
        method="PUT",
        path=f"{_CUSTOMER}/standing",
        handler=admin.put_standing,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Set the standing",
        statuses=(_OK, _NOT_FOUND),
        request_model=admin_models.StandingBody,
        response_model=admin_models.StandingAnswer,
    ),
    Route(
        method="GET",
        path=f"{_CUSTOMER}/holds",
        handler=admin.list_holds,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List open holds",
        statuses=(_OK, _NOT_FOUND),
        query_model=admin_models.LimitQuery,
        response_model=admin_models.HoldList,
    ),
    Route(
        method="POST",
        path="/api/v1/credentials",
        handler=admin.post_credential,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Issue a credential; its secret is shown once",
        statuses=(_CREATED, _NOT_FOUND),
        request_model=admin_models.CredentialBody,
        response_model=admin_models.IssuedCredentialAnswer,
        secret_fields=("secret",),
    ),
    Route(
        method="GET",
        path="/api/v1/credentials",
        handler=admin.list_credentials,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List a customer's credentials by id",
        statuses=(_OK, _NOT_FOUND),
        query_model=admin_models.CustomerPageQuery,
        response_model=admin_models.CredentialPage,
    ),
    Route(
        method="POST",
        path="/api/v1/grants",
        handler=admin.post_grant,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Give credit",
        statuses=(_CREATED, _NOT_FOUND),
        request_model=admin_models.GrantBody,
        response_model=admin_models.GrantAnswer,
    ),
    Route(
        method="GET",
        path="/api/v1/grants",
        handler=admin.list_grants,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List a customer's grants by id",
        statuses=(_OK, _NOT_FOUND),
        query_model=admin_models.CustomerPageQuery,
        response_model=admin_models.GrantPage,
    ),
    *_system_routes(Role.ADMIN, Auth.ADMIN),
)


def routes_for(role: Role) -> tuple[Route, ...]:
    """The rows that one application serves."""
    return tuple(route for route in ROUTES if route.role is role)
