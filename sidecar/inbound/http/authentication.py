"""Who sent a request: its token to a principal, or 401; and whether its Host is ours."""

from aiohttp import web

from sidecar.inbound.grpc.metadata import GATEWAY_HEADER, TOKEN_HEADER
from sidecar.inbound.http.edge import EDGE, Edge
from sidecar.inbound.http.problems import ProblemCode, ProblemError
from sidecar.inbound.http.routing import Auth, Principal
from sidecar.inbound.principals import TOKEN_LENGTH_MAX, bearer_token, is_name
from sidecar.services.hold_terms import MeterPrincipal

DEFAULT_GATEWAY = "http"


def authenticate(auth: Auth, request: web.Request) -> Principal | None:
    """
    Find the principal that a route asks for.

    Returns:
        None only where the route is open to anyone here and no token was presented (a token
        that is wrong is refused even there, since its sender relies on it), and where the
        handler verifies who has signed the body.

    Raises:
        ProblemError: 401.
    """
    edge = request.app[EDGE]
    if auth in (Auth.OPEN, Auth.SIGNATURE):
        return None
    presented = _presented(request)
    if presented is None:
        if auth is Auth.CHECK and edge.checks_open:
            return None
        raise _unauthenticated("a token is needed")
    principal = _find(auth, edge, presented)
    if principal is None:
        raise _unauthenticated("the token is not known")
    return principal


def gateway_id(request: web.Request, principal: Principal | None) -> str:
    """
    The id of the gateway that calls: its own word, within what its token covers.

    Raises:
        ProblemError: 400 for an id that is none, 403 for one that the token does not cover.
    """
    named = request.headers.getall(GATEWAY_HEADER, [])
    covered = principal.gateways if isinstance(principal, MeterPrincipal) else frozenset()
    if not named:
        if len(covered) == 1:
            return next(iter(covered))
        gateway = DEFAULT_GATEWAY
    elif len(named) > 1 or not is_name(named[0]):
        raise ProblemError.of_field(
            GATEWAY_HEADER, "must be given once: 1 to 64 of A-Z a-z 0-9 _ . : -"
        )
    else:
        gateway = named[0]
    if covered and gateway not in covered:
        raise ProblemError(
            ProblemCode.FORBIDDEN, f"the token does not cover the gateway {gateway!r}"
        )
    return gateway


def check_host(edge: Edge, request: web.Request) -> None:
    """
    Refuse a Host that is not ours.

    On loopback a web page could otherwise reach us through a name of its own that it points
    at 127.0.0.1 (DNS rebinding).

    Raises:
        ProblemError: 421.
    """
    if edge.known_hosts is None:
        return
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or host_name(hosts[0]) not in edge.known_hosts:
        raise ProblemError(
            ProblemCode.UNKNOWN_HOST, "this server does not answer for the Host of the request"
        )


def host_name(host: str) -> str:
    """The name of a Host value, lower case, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _presented(request: web.Request) -> str | None:
    authorizations = request.headers.getall("Authorization", [])
    tokens = request.headers.getall(TOKEN_HEADER, [])
    if not authorizations and not tokens:
        return None
    if len(authorizations) + len(tokens) > 1:
        raise _unauthenticated("present one token, once")
    token = bearer_token(authorizations[0]) if authorizations else tokens[0].strip()
    if not token or len(token) > TOKEN_LENGTH_MAX:
        raise _unauthenticated(f"present the token as a Bearer or in {TOKEN_HEADER}")
    return token


def _find(auth: Auth, edge: Edge, presented: str) -> Principal | None:
    if auth is Auth.ADMIN:
        return edge.admin_tokens.find(presented) if edge.admin_tokens else None
    return edge.gateway_tokens.find(presented) if edge.gateway_tokens else None


def _unauthenticated(detail: str) -> ProblemError:
    return ProblemError(
        ProblemCode.UNAUTHENTICATED,
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="sidecar"'},
    )
