"""What HTTP applications are made with, and a gateway's; handlers find it by keys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from sidecar.inbound.http.finishing import Finishing
from sidecar.inbound.http.routing import Role
from sidecar.inbound.principals import AdminTokens, GatewayTokens
from sidecar.services.check import CheckService
from sidecar.services.idempotency import IdempotencyStore
from sidecar.services.metering import MeteringService
from sidecar.services.ports import Clock

Ready = Callable[[], Sequence[str]]
"""What keeps the process from serving, in words for an operator; nothing if it is ready."""


@dataclass(slots=True, kw_only=True)
class Edge:
    """
    What every route of one application shares.

    `known_hosts` are the Host names that are answered (None: any). `checks_open` says that
    checks need no token here. `in_flight_max` bounds the requests in progress, and with
    them the memory that their bodies take.
    """

    role: Role
    new_id: Callable[[str], str]
    ready: Ready
    known_hosts: frozenset[str] | None
    in_flight_max: int
    gateway_tokens: GatewayTokens | None = None
    admin_tokens: AdminTokens | None = None
    checks_open: bool = False
    idempotency: IdempotencyStore | None = None
    openapi: bytes = b""
    in_flight: int = 0
    finishing: Finishing = field(default_factory=Finishing)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayUseCases:
    """What the gateway role's routes call."""

    checks: CheckService
    metering: MeteringService
    clock: Clock
    random_bytes: Callable[[int], bytes]
    check_deadline_ms: int


EDGE = web.AppKey("edge", Edge)
GATEWAY = web.AppKey("gateway", GatewayUseCases)
