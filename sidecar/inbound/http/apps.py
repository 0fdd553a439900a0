"""The gateway's application, and how each is made of its routes."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web

from sidecar.domain.errors import ConfigError
from sidecar.inbound.http.bodies import BODY_BYTES_MAX
from sidecar.inbound.http.edge import (
    EDGE,
    GATEWAY,
    Edge,
    GatewayUseCases,
    Ready,
)
from sidecar.inbound.http.endpoint import (
    answer_expectation,
    frame,
    make_endpoint,
    secure_headers,
)
from sidecar.inbound.http.gateway_table import GATEWAY_ROUTES
from sidecar.inbound.http.listening import hosts_answered
from sidecar.inbound.http.openapi import openapi_document
from sidecar.inbound.http.routing import Role, Route
from sidecar.inbound.listen_address import is_private, parse_listen
from sidecar.inbound.principals import GatewayTokens
from sidecar.services.check import CheckService
from sidecar.services.metering import MeteringService
from sidecar.services.ports import Clock

CHECK_DEADLINE_MS = 500
IN_FLIGHT_MAX = 512
_DRAIN_SECONDS = 2.0


def gateway_app(
    *,
    listen: str,
    checks: CheckService,
    metering: MeteringService,
    clock: Clock,
    tokens: GatewayTokens | None,
    ready: Ready,
    new_id: Callable[[str], str],
    hosts: frozenset[str] = frozenset(),
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    check_deadline_ms: int = CHECK_DEADLINE_MS,
    in_flight_max: int = IN_FLIGHT_MAX,
) -> web.Application:
    """
    The gateway role: checks and usage.

    Args:
        listen: Where it will be served; decides whether checks are open and which Host counts.
        checks, metering, clock: What it calls.
        tokens: Gateway tokens. Without any, checks work on a private address and usage is
            refused.
        ready: What keeps the process from serving.
        new_id: A fresh id with a prefix such as "err".
        hosts: More Host names to answer.
        random_bytes: A source of unguessable bytes, for hold ids.
        check_deadline_ms: How long a check may take, from its body to its answer.
        in_flight_max: Requests in progress; more are answered 503.

    Raises:
        ConfigError: If others than this machine could connect and there is no token.
    """
    address = parse_listen(listen)
    private = is_private(address)
    if not private and not tokens:
        raise ConfigError(
            f"the gateway role does not listen on {address} without a gateway token file"
        )
    edge = Edge(
        role=Role.GATEWAY,
        new_id=new_id,
        ready=ready,
        known_hosts=hosts_answered(address, hosts),
        in_flight_max=in_flight_max,
        gateway_tokens=tokens,
        checks_open=private,
    )
    app = make_app(edge, GATEWAY_ROUTES)
    app[GATEWAY] = GatewayUseCases(
        checks=checks,
        metering=metering,
        clock=clock,
        random_bytes=random_bytes,
        check_deadline_ms=check_deadline_ms,
    )
    return app


def make_app(edge: Edge, routes: Sequence[Route]) -> web.Application:
    """An application that serves these routes."""
    app = web.Application(middlewares=[frame], client_max_size=BODY_BYTES_MAX)
    edge.openapi = openapi_document(edge.role, routes, checks_open=edge.checks_open)
    app[EDGE] = edge
    for route in routes:
        endpoint = make_endpoint(route)
        # A probe may ask with HEAD; aiohttp leaves the body out.
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        for method in methods:
            app.router.add_route(method, route.path, endpoint, expect_handler=answer_expectation)
    app.on_response_prepare.append(secure_headers)
    app.cleanup_ctx.append(_finish)
    return app


async def _finish(app: web.Application) -> AsyncIterator[None]:
    """At the end of serving: abandoned holds are still given back."""
    yield
    await app[EDGE].finishing.drain(_DRAIN_SECONDS)
