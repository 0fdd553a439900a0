"""Errors as problem details (RFC 9457): one closed list of codes, one way to word each."""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from sidecar.domain.errors import (
    Conflict,
    Differs,
    InvalidInput,
    NotFound,
    SidecarError,
    StoreUnavailable,
)
from sidecar.inbound.denials import (
    PROBLEM_CONTENT_TYPE,
    PROBLEM_TYPE_PREFIX,
    STORE_RETRY_AFTER_SECONDS,
)
from sidecar.services.idempotency import KeyInProgress, KeyReused


class ProblemCode(StrEnum):
    """What went wrong, for programs; also the end of the problem's `type`."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    CONFLICT = "conflict"
    POLICY_REFUSED = "policy_refused"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IDEMPOTENCY_KEY_IN_PROGRESS = "idempotency_key_in_progress"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    EXPECTATION_FAILED = "expectation_failed"
    UNKNOWN_HOST = "unknown_host"
    INTERNAL_ERROR = "internal_error"
    STORE_UNAVAILABLE = "store_unavailable"
    OVERLOADED = "overloaded"


STATUS: Mapping[ProblemCode, HTTPStatus] = {
    ProblemCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ProblemCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ProblemCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ProblemCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ProblemCode.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    ProblemCode.REQUEST_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    ProblemCode.CONFLICT: HTTPStatus.CONFLICT,
    ProblemCode.POLICY_REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ProblemCode.IDEMPOTENCY_KEY_REUSED: HTTPStatus.CONFLICT,
    ProblemCode.IDEMPOTENCY_KEY_IN_PROGRESS: HTTPStatus.CONFLICT,
    ProblemCode.BODY_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ProblemCode.EXPECTATION_FAILED: HTTPStatus.EXPECTATION_FAILED,
    ProblemCode.UNKNOWN_HOST: HTTPStatus.MISDIRECTED_REQUEST,
    ProblemCode.INTERNAL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
    ProblemCode.STORE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ProblemCode.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
}

_RETRY_SOON = {"Retry-After": str(STORE_RETRY_AFTER_SECONDS)}


class FieldError(BaseModel):
    """One part of a request that cannot be used, and why."""

    model_config = ConfigDict(extra="forbid")

    field: str
    message: str


class ProblemBody(BaseModel):
    """Any error's body. `reference` also stands in our log where we logged the error."""

    model_config = ConfigDict(extra="forbid", title="Problem")

    type: str
    title: str
    status: int
    detail: str
    code: ProblemCode
    errors: list[FieldError] | None = None
    reference: str


class ProblemError(Exception):
    """An answer that is an error; raised by the edge itself."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})

    @classmethod
    def of_field(cls, field: str, message: str) -> "ProblemError":
        """An invalid request with one wrong part."""
        error = FieldError(field=field, message=message)
        return cls(ProblemCode.INVALID_REQUEST, f"{field}: {message}", errors=(error,))


def problem_of(error: SidecarError) -> ProblemError | None:
    """An error of the use cases as a problem, or None if it is a fault of ours."""
    match error:
        case InvalidInput():
            errors = (FieldError(field=error.field, message=str(error)),) if error.field else ()
            return ProblemError(ProblemCode.INVALID_REQUEST, str(error), errors=errors)
        case NotFound():
            return ProblemError(ProblemCode.NOT_FOUND, str(error))
        case KeyReused():
            return ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_REUSED,
                str(error),
                errors=tuple(
                    FieldError(field=name, message=message)
                    for name, message in error.fields.items()
                ),
            )
        case KeyInProgress():
            return ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_IN_PROGRESS, str(error), headers=_RETRY_SOON
            )
        case Differs():
            return ProblemError(
                ProblemCode.CONFLICT,
                str(error),
                errors=tuple(
                    FieldError(field=one.field, message=str(one)) for one in error.differences
                ),
            )
        case Conflict():
            return ProblemError(ProblemCode.CONFLICT, str(error))
        case StoreUnavailable():
            # The store's own words may name hosts; the caller needs to know only this.
            return ProblemError(
                ProblemCode.STORE_UNAVAILABLE,
                "a store did not answer in time; repeat the request, it is safe to repeat",
                headers=_RETRY_SOON,
            )
        case _:
            return None


def problem_response(problem: ProblemError, reference: str) -> web.Response:
    """The response that a problem becomes."""
    status = STATUS[problem.code]
    body = ProblemBody(
        type=PROBLEM_TYPE_PREFIX + problem.code.value,
        title=status.phrase,
        status=int(status),
        detail=problem.detail,
        code=problem.code,
        errors=list(problem.errors) or None,
        reference=reference,
    )
    return web.Response(
        status=int(status),
        body=body.model_dump_json(exclude_none=True).encode(),
        content_type=PROBLEM_CONTENT_TYPE,
        headers=problem.headers,
    )
