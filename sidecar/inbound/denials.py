"""
How a denial reads: deny reason to status, title and detail, one table for all edges.

Each edge puts the same answer into its own protocol, so that a caller meets the same words
whichever gateway asked.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from sidecar.domain.decisions import Deny, DenyReason, Dialect

PROBLEM_CONTENT_TYPE = "application/problem+json"
PROBLEM_TYPE_PREFIX = "urn:sidecar:problem:"
"""Before a code, the `type` of a problem (RFC 9457); a name, there is no page behind it."""

STORE_RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialWords:
    """A deny reason's answer where the rule has none of its own."""

    status: HTTPStatus
    title: str
    detail: str


DENIALS: Mapping[DenyReason, DenialWords] = {
    DenyReason.UNIDENTIFIED: DenialWords(
        status=HTTPStatus.UNAUTHORIZED,
        title="Credential required",
        detail="no usable credential was presented",
    ),
    DenyReason.UNKNOWN_CREDENTIAL: DenialWords(
        status=HTTPStatus.UNAUTHORIZED,
        title="Unknown credential",
        detail="the credential is not known",
    ),
    DenyReason.NO_AVAILABLE_CREDITS: DenialWords(
        status=HTTPStatus.PAYMENT_REQUIRED,
        title="No available credits",
        detail="the available credit does not cover this request",
    ),
    DenyReason.INVOICE_OVERDUE: DenialWords(
        status=HTTPStatus.PAYMENT_REQUIRED,
        title="Invoice overdue",
        detail="an invoice of this customer is overdue",
    ),
    DenyReason.SPEND_CAP_EXCEEDED: DenialWords(
        status=HTTPStatus.PAYMENT_REQUIRED,
        title="Spend cap exceeded",
        detail="this request would exceed the customer's spend cap",
    ),
    DenyReason.NOT_ENTITLED: DenialWords(
        status=HTTPStatus.FORBIDDEN,
        title="Not entitled",
        detail="the customer's plan does not include this request",
    ),
    DenyReason.BLOCKED: DenialWords(
        status=HTTPStatus.FORBIDDEN,
        title="Blocked",
        detail="the policy does not let this request pass",
    ),
    DenyReason.UNKNOWN_MODEL: DenialWords(
        status=HTTPStatus.FORBIDDEN,
        title="Unknown model",
        detail="the customer's plan has no price for this model",
    ),
    DenyReason.QUOTA_EXCEEDED: DenialWords(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        title="Quota exceeded",
        detail="this request would exceed the customer's quota",
    ),
    DenyReason.RATE_LIMITED: DenialWords(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        title="Rate limited",
        detail="too many requests in a short time",
    ),
    DenyReason.IN_FLIGHT_LIMIT: DenialWords(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        title="Too many requests in flight",
        detail="the customer has as many requests in flight as it may",
    ),
    DenyReason.INVALID_REQUEST: DenialWords(
        status=HTTPStatus.BAD_REQUEST,
        title="Invalid request",
        detail="the request cannot be judged as it is",
    ),
    DenyReason.STORE_UNAVAILABLE: DenialWords(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        title="Decision unavailable",
        detail="the decision could not be taken in time",
    ),
}


_KINDS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
"""What providers call an error, by status, where they agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialAnswer:
    """
    What the caller of the API gets; header names are lower case.

    `body` is a JSON value; with `empty` there is no body at all.
    """

    status: int
    headers: Mapping[str, str]
    body: object
    empty: bool = False

    def body_bytes(self) -> bytes:
        """The body as it goes over the wire."""
        if self.empty:
            return b""
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()


def word_denial(deny: Deny) -> DenialAnswer:
    """
    Word a denial: the rule's own status, headers and body first, the table for the rest.

    Retry-After stands only where waiting helps; no amount stands in a body unless the rule
    puts it there.
    """
    words = DENIALS[deny.reason]
    status = int(words.status if deny.status is None else deny.status)
    own_body = deny.body is not None or deny.empty_body
    headers = _default_headers(deny, status, own_body=own_body)
    headers.update({name.lower(): value for name, value in deny.headers.items()})
    if own_body:
        return DenialAnswer(status=status, headers=headers, body=deny.body, empty=deny.empty_body)
    return DenialAnswer(status=status, headers=headers, body=_DIALECTS[deny.dialect](deny, status))


def _default_headers(deny: Deny, status: int, *, own_body: bool) -> dict[str, str]:
    headers = {}
    if not deny.empty_body:
        problem = deny.dialect is Dialect.PROBLEM and not own_body
        headers["content-type"] = PROBLEM_CONTENT_TYPE if problem else "application/json"
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"  # A 401 must carry one (RFC 9110 15.5.2).
    retry_after = deny.retry_after_seconds
    if retry_after is None and deny.reason is DenyReason.STORE_UNAVAILABLE:
        retry_after = STORE_RETRY_AFTER_SECONDS
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    return headers


def _problem(deny: Deny, status: int) -> dict[str, object]:
    """Problem details (RFC 9457) with our `code`, `rule` and `reference`."""
    words = DENIALS[deny.reason]
    return {
        "type": PROBLEM_TYPE_PREFIX + deny.reason.value,
        "title": words.title,
        "status": status,
        "detail": deny.detail or words.detail,
        "code": deny.reason.value,
        "rule": deny.rule,
        "reference": deny.decision_id,
    }


def _openai(deny: Deny, status: int) -> dict[str, object]:
    """
    OpenAI's error object; its client libraries choose the exception by status and show `message`.

    Source: https://platform.openai.com/docs/guides/error-codes.
    """
    kind = {**_KINDS, int(HTTPStatus.PAYMENT_REQUIRED): "insufficient_quota"}.get(status)
    return {
        "error": {
            "message": _sentence(deny),
            "type": kind or _by_class(status, "invalid_request_error", "server_error"),
            "param": None,
            "code": deny.reason.value,
            "rule": deny.rule,
            "reference": deny.decision_id,
        }
    }


def _anthropic(deny: Deny, status: int) -> dict[str, object]:
    """
    Anthropic's error object.

    Source: https://docs.anthropic.com/en/api/errors.
    """
    kind = {**_KINDS, int(HTTPStatus.PAYMENT_REQUIRED): "billing_error"}.get(status)
    return {
        "type": "error",
        "error": {
            "type": kind or _by_class(status, "invalid_request_error", "api_error"),
            "message": _sentence(deny),
            "code": deny.reason.value,
            "rule": deny.rule,
        },
        "request_id": deny.decision_id,
    }


def _sentence(deny: Deny) -> str:
    return deny.detail or DENIALS[deny.reason].detail


def _by_class(status: int, client: str, server: str) -> str:
    return server if status >= HTTPStatus.INTERNAL_SERVER_ERROR else client


_DIALECTS: Mapping[Dialect, Callable[[Deny, int], dict[str, object]]] = {
    Dialect.PROBLEM: _problem,
    Dialect.OPENAI: _openai,
    Dialect.ANTHROPIC: _anthropic,
}
