"""From an HTTP request to a checked call of one operation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sidecar.standins.stripe_errors import ApiError, not_modelled
from sidecar.standins.stripe_schema import Operation, StripeSchema

_KEY = re.compile(r"(sk|rk)_(test|live)_[A-Za-z0-9_]{3,240}")
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z]{1,30})?")
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that the description allows."""

    operation: Operation
    path: str
    ids: Mapping[str, str]
    params: Mapping[str, Any]
    http_key: str | None

    @property
    def keeps_answer(self) -> bool:
        """Whether the answer is kept for replay: writes with an Idempotency-Key."""
        return self.operation.method == "POST" and self.http_key is not None


async def parse_call(request: web.Request, schema: StripeSchema) -> Call:
    """
    Check key, version, path, content type and parameters of a request.

    Raises:
        ApiError: As Stripe would refuse it; 501 for what the stand-in has not.
    """
    _check_headers(request)
    operation, ids = schema.find(request.method, request.path)
    if request.path.startswith("/v2/"):
        raise not_modelled("the v2 API")
    return Call(
        operation=operation,
        path=request.path,
        ids=ids,
        params=operation.parse_params(await _form_text(request)),
        http_key=request.headers.get("idempotency-key") or None,
    )


def _check_headers(request: web.Request) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise ApiError(
            401,
            "You did not provide an API key. You need to provide your API key in the "
            "Authorization header, using Bearer auth (e.g. 'Authorization: Bearer "
            "YOUR_SECRET_KEY').",
        )
    if not _KEY.fullmatch(key):
        raise ApiError(401, "Invalid API Key provided.")  # Without the key: answers get logged.
    version = request.headers.get("stripe-version")
    if version is not None and not _VERSION.fullmatch(version):
        raise ApiError(400, "Invalid Stripe API version.")
    if "stripe-account" in request.headers:
        raise not_modelled("connected accounts")


async def _form_text(request: web.Request) -> str:
    if request.method != "POST":
        return request.rel_url.raw_query_string
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise ApiError(413, "The request body is too large.") from error
    if body and request.content_type != _FORM:
        raise ApiError(400, f"Invalid request (check that your POST content type is {_FORM}).")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "Invalid request: the body is not a form in UTF-8.") from error
