"""From an HTTP request to a checked call of one operation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sidecar.standins.stripe_access import Access
from sidecar.standins.stripe_errors import ApiError, not_modelled
from sidecar.standins.stripe_schema import Operation, StripeSchema

_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z]{1,30})?")
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that the description allows."""

    operation: Operation
    path: str
    ids: Mapping[str, str]
    params: Mapping[str, Any]
    http_key: str | None
    api_key: str

    @property
    def keeps_answer(self) -> bool:
        """Whether the answer is kept for replay: writes with an Idempotency-Key."""
        return self.operation.method == "POST" and self.http_key is not None


async def parse_call(request: web.Request, schema: StripeSchema, access: Access) -> Call:
    """
    Check key, version, path, content type and parameters of a request.

    Raises:
        ApiError: As Stripe would refuse it; 501 for what the stand-in has not.
    """
    key = _check_headers(request, access)
    operation, ids = schema.find(request.method, request.path)
    return Call(
        operation=operation,
        path=request.path,
        ids=ids,
        params=operation.parse_params(await _text(request, operation)),
        http_key=request.headers.get("idempotency-key") or None,
        api_key=key,
    )


def _check_headers(request: web.Request, access: Access) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise ApiError(
            401,
            "You did not provide an API key. You need to provide your API key in the "
            "Authorization header, using Bearer auth (e.g. 'Authorization: Bearer "
            "YOUR_SECRET_KEY').",
        )
    access.check_key(key)
    version = request.headers.get("stripe-version")
    if version is not None and not _VERSION.fullmatch(version):
        raise ApiError(400, "Invalid Stripe API version.")
    if "stripe-account" in request.headers:
        raise not_modelled("connected accounts")
    return key


async def _text(request: web.Request, operation: Operation) -> str:
    if request.method != "POST":
        return request.rel_url.raw_query_string
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise ApiError(413, "The request body is too large.") from error
    expected = _JSON if operation.takes_json else _FORM
    if body and request.content_type != expected:
        raise ApiError(400, f"Invalid request (check that your POST content type is {expected}).")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "Invalid request: the body is not a form in UTF-8.") from error
