"""The routes of the gateway role, and those that every role has."""

from http import HTTPStatus

from sidecar.inbound.http import check, gateway_models, system, usage
from sidecar.inbound.http.routing import Auth, Role, Route

_OK = HTTPStatus.OK


def system_routes(role: Role, openapi_auth: Auth) -> tuple[Route, ...]:
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


GATEWAY_ROUTES: tuple[Route, ...] = (
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
    *system_routes(Role.GATEWAY, Auth.CHECK),
)
