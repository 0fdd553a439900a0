"""What both roles answer about themselves: metrics, liveness, readiness, the OpenAPI document."""

from http import HTTPStatus
from typing import Literal

from aiohttp import web
from pydantic import ConfigDict

from sidecar import telemetry
from sidecar.inbound.http.edge import EDGE
from sidecar.inbound.http.field_types import ResponseModel
from sidecar.inbound.http.routing import Answer, Call

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Health(ResponseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseModel):
    """The process can serve."""

    status: Literal["ready"] = "ready"


class Unreadiness(ResponseModel):
    """What keeps the process from serving."""

    status: Literal["not_ready"] = "not_ready"
    problems: list[str]


class OpenApiDocument(ResponseModel):
    """An OpenAPI 3.1 document."""

    model_config = ConfigDict(extra="allow")

    openapi: Literal["3.1.0"]


async def get_metrics(call: Call) -> web.StreamResponse:
    """All metrics in Prometheus' text format."""
    del call
    return web.Response(
        body=telemetry.metrics_text(), headers={"Content-Type": METRICS_CONTENT_TYPE}
    )


async def get_health(call: Call) -> Answer:
    """Whether the process answers; it asks no store, so that a store's outage restarts nobody."""
    del call
    return Answer(body=Health())


async def get_readiness(call: Call) -> Answer:
    """Whether the process can serve, as it knows already: no store is asked here."""
    problems = list(call.request.app[EDGE].ready())
    if problems:
        return Answer(status=HTTPStatus.SERVICE_UNAVAILABLE, body=Unreadiness(problems=problems))
    return Answer(body=Readiness())


async def get_openapi(call: Call) -> web.StreamResponse:
    """The OpenAPI document of this role's routes."""
    return web.Response(body=call.request.app[EDGE].openapi, content_type="application/json")
