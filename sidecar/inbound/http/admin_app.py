"""The admin role's application, apart from a gateway's, which need not load what it serves."""

from collections.abc import Callable

from aiohttp import web

from sidecar.inbound.http.admin_edge import ADMIN, AdminUseCases
from sidecar.inbound.http.apps import IN_FLIGHT_MAX, make_app
from sidecar.inbound.http.edge import Edge, Ready
from sidecar.inbound.http.listening import hosts_answered
from sidecar.inbound.http.routing import Role
from sidecar.inbound.http.table import routes_for
from sidecar.inbound.listen_address import parse_listen
from sidecar.inbound.principals import AdminTokens
from sidecar.services.idempotency import IdempotencyStore


def admin_app(
    *,
    listen: str,
    use_cases: AdminUseCases,
    idempotency: IdempotencyStore,
    tokens: AdminTokens,
    ready: Ready,
    new_id: Callable[[str], str],
    hosts: frozenset[str] = frozenset(),
    in_flight_max: int = IN_FLIGHT_MAX,
) -> web.Application:
    """
    The admin role's REST API.

    Args:
        listen: Where it will be served; decides which Host counts.
        use_cases, idempotency: What it calls.
        tokens: Admin tokens; each /api/v1 route asks for one, wherever it is served.
        ready: What keeps the process from serving.
        new_id: A fresh id with a prefix such as "grt".
        hosts: More Host names to answer.
        in_flight_max: Requests in progress; more are answered 503.
    """
    edge = Edge(
        role=Role.ADMIN,
        new_id=new_id,
        ready=ready,
        known_hosts=hosts_answered(parse_listen(listen), hosts),
        in_flight_max=in_flight_max,
        admin_tokens=tokens,
        idempotency=idempotency,
    )
    app = make_app(edge, routes_for(edge.role))
    app[ADMIN] = use_cases
    return app
