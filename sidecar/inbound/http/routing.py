"""What a row of the route table is, and what a handler is given and gives back."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus

from aiohttp import web
from pydantic import BaseModel

from sidecar.inbound.principals import AdminPrincipal
from sidecar.services.hold_terms import MeterPrincipal
from sidecar.services.idempotency import IdempotencyClaim

WRITING_METHODS = frozenset({"POST", "PUT", "PATCH"})


PATH_ID_CHARS_MAX = 64
_OWN_FORMS = {
    "hold_id": "^[0-9a-f]{40}$",
    "line_number": "^[1-9][0-9]{0,5}$",
    "settlement_number": "^[1-9][0-9]{0,17}$",
}
"""What is no id of the usual form."""
_LONGER_IDS = {"grant_id": 191, "invoice_id": 191, "object_key": 191}
"""Named after a payment or a schedule, after a customer, after a provider."""


def path_id_chars(parameter: str) -> int:
    """The longest id that a parameter of a path takes."""
    return _LONGER_IDS.get(parameter, PATH_ID_CHARS_MAX)


def path_id_pattern(parameter: str) -> str:
    """What a parameter of a path looks like."""
    usual = f"^[A-Za-z0-9][A-Za-z0-9_.:-]{{0,{path_id_chars(parameter) - 1}}}$"
    return _OWN_FORMS.get(parameter, usual)


def is_path_id(parameter: str, text: str) -> bool:
    """Whether the text can be what the parameter names."""
    # `$` alone would take a line break at the end.
    return "\n" not in text and re.match(path_id_pattern(parameter), text, re.ASCII) is not None


class Role(StrEnum):
    """Which application serves a route; they listen apart."""

    GATEWAY = "gateway"
    ADMIN = "admin"


class Auth(StrEnum):
    """Who may call a route."""

    OPEN = "open"
    CHECK = "check"
    """Anyone where the listener is loopback or a unix socket, elsewhere a gateway token."""
    METER = "meter"
    """A gateway token, always."""
    ADMIN = "admin"
    """An admin token, always."""
    SIGNATURE = "signature"
    """Whoever can sign the body: its handler verifies that before anything else."""


Principal = MeterPrincipal | AdminPrincipal


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authenticated request: its checked query and body, and who sent it."""

    request: web.Request
    principal: Principal | None
    query: BaseModel | None = None
    body: BaseModel | None = None
    claim: IdempotencyClaim | None = None
    """Present where the sender gave an Idempotency-Key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A success with a JSON body; errors are raised."""

    body: BaseModel
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Answer | web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    One row: everything the applications and the OpenAPI document know of a resource.

    `statuses` begins with the success, then those errors that are the route's own; the ones
    that come with its kind (a body, a principal) are added. `secret_fields` of an answer are
    shown once: a repeat under the same Idempotency-Key reads null there. `shown_fields` of a body
    are told in the 409 of a key that was used with other ones.
    """

    method: str
    path: str
    handler: Handler
    role: Role
    auth: Auth
    summary: str
    statuses: tuple[HTTPStatus, ...]
    request_model: type[BaseModel] | None = None
    query_model: type[BaseModel] | None = None
    response_model: type[BaseModel] | None = None
    response_type: str = "application/json"
    secret_fields: tuple[str, ...] = ()
    shown_fields: tuple[str, ...] = ()

    @property
    def takes_key(self) -> bool:
        """Whether the route is a write that an Idempotency-Key makes repeatable."""
        return self.auth is Auth.ADMIN and self.method in WRITING_METHODS

    @property
    def all_statuses(self) -> tuple[HTTPStatus, ...]:
        """Each status that the route may answer, the success first."""
        found = [*self.statuses, HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.EXPECTATION_FAILED]
        found += [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE]
        if self.auth is Auth.SIGNATURE:
            found += [
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.NOT_FOUND,
                HTTPStatus.REQUEST_TIMEOUT,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            ]
        elif self.auth is not Auth.OPEN:
            found += [HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED]
        if self.auth in (Auth.CHECK, Auth.METER):
            found.append(HTTPStatus.FORBIDDEN)
        if self.request_model is not None:
            found += [
                HTTPStatus.REQUEST_TIMEOUT,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            ]
        if self.takes_key:
            found.append(HTTPStatus.CONFLICT)
        return (self.statuses[0], *sorted({*found} - {self.statuses[0]}))
