"""Who calls over gRPC: the gateway's name and secret, from a call's metadata."""

import re
from collections.abc import Callable

from sidecar.inbound.grpc.engine import Call, GrpcError, GrpcStatus
from sidecar.services.hold_terms import MeterPrincipal

GATEWAY_HEADER = "x-sidecar-gateway"
TOKEN_HEADER = "x-sidecar-token"  # noqa: S105  The name of a header, not a secret.
"""Both are written by `sidecar envoy config`, on checks and on logs."""

DEFAULT_GATEWAY = "envoy"
_GATEWAY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", re.ASCII)
_BEARER = "bearer "

FindPrincipal = Callable[[str], MeterPrincipal | None]
"""The principal of a presented token, or None; compares in constant time."""


def gateway_id(call: Call, default: str = DEFAULT_GATEWAY) -> str:
    """
    The gateway's own name for itself.

    Raises:
        GrpcError: INVALID_ARGUMENT if it is no name.
    """
    name = call.text(GATEWAY_HEADER)
    if name is None:
        return default
    if _GATEWAY.fullmatch(name) is None:
        raise GrpcError(
            GrpcStatus.INVALID_ARGUMENT,
            f"{GATEWAY_HEADER} must be 1 to 64 letters, digits or _.:- and begin with one of the "
            "former two",
        )
    return name


def authenticate(call: Call, find: FindPrincipal) -> MeterPrincipal:
    """
    The principal behind x-sidecar-token, or behind a Bearer authorization.

    Raises:
        GrpcError: UNAUTHENTICATED if there is none.
    """
    token = call.text(TOKEN_HEADER)
    if token is None:
        authorization = call.text("authorization") or ""
        if authorization[: len(_BEARER)].lower() == _BEARER:
            token = authorization[len(_BEARER) :].strip()
    principal = find(token) if token else None
    if principal is None:
        raise GrpcError(
            GrpcStatus.UNAUTHENTICATED, f"{TOKEN_HEADER} holds no token of this service"
        )
    return principal


def authenticate_gateway(call: Call, find: FindPrincipal, gateway: str) -> None:
    """
    Refuse a call that may not speak for its gateway.

    Raises:
        GrpcError: UNAUTHENTICATED, or PERMISSION_DENIED for a token of other gateways.
    """
    principal = authenticate(call, find)
    if principal.gateways and gateway not in principal.gateways:
        raise GrpcError(
            GrpcStatus.PERMISSION_DENIED, f"the token is not for the gateway in {GATEWAY_HEADER}"
        )
