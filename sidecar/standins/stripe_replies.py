"""What goes back to the client, and how a failing network delivers it."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aiohttp import web

from sidecar.standins.stripe_errors import ApiError

_JSON = "application/json"
_HTML = "<html><body><h1>upstream answered</h1></body></html>"


class Delivery(Enum):
    """How an answer travels: whole, not at all, by half, never within the timeout, or as HTML."""

    SEND = 1
    DROP = 2
    TRUNCATE = 3
    HANG = 4
    NOT_JSON = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer and its delivery."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.SEND

    @property
    def sent_status(self) -> int:
        """The status that the client sees; 0 if it sees none."""
        return 0 if self.delivery in (Delivery.DROP, Delivery.HANG) else self.status


def success_reply(body: Mapping[str, Any]) -> Reply:
    """A 200."""
    return Reply(status=200, body=_encode(body))


def error_reply(error: ApiError) -> Reply:
    """An error in Stripe's shape."""
    return Reply(status=error.status, body=_encode(error.body()), headers=error.headers)


def lost_reply(delivery: Delivery) -> Reply:
    """No answer at all, of a request that had no effect."""
    return Reply(status=0, body=b"", delivery=delivery)


def server_error_reply() -> Reply:
    """Stripe's own failure."""
    message = "Sorry! There was an error while talking to Stripe."
    return error_reply(ApiError(500, message, kind="api_error"))


def rate_limited() -> ApiError:
    """The account's limit is reached. Source: docs.stripe.com/rate-limits."""
    return ApiError(
        429,
        "Too many requests hit the API too quickly. We recommend an exponential backoff of your "
        "requests.",
        code="rate_limit",
        headers={"stripe-rate-limited-reason": "global-rate"},
    )


def lock_timeout() -> ApiError:
    """Another call holds the object. Source: docs.stripe.com/rate-limits."""
    return ApiError(
        429,
        "This object cannot be accessed right now because another API request or Stripe "
        "process is currently accessing it. If you see this error intermittently, retry "
        "the request.",
        code="lock_timeout",
    )


async def deliver(
    request: web.Request,
    reply: Reply,
    headers: Mapping[str, str],
    *,
    stopping: asyncio.Event,
    timeout_seconds: float,
) -> web.StreamResponse:
    """
    Send the reply as its delivery says.

    Args:
        request: Whose connection is used or broken.
        reply: What to send.
        headers: Beside the reply's own.
        stopping: Ends a hanging delivery early.
        timeout_seconds: How long a hanging delivery keeps the connection.
    """
    everything = {**headers, **reply.headers}
    if reply.delivery is Delivery.TRUNCATE:
        return await _truncate(request, reply, everything)
    if reply.delivery is Delivery.NOT_JSON:
        return web.Response(
            status=reply.status, text=_HTML, headers=everything, content_type="text/html"
        )
    if reply.delivery is Delivery.HANG:
        with contextlib.suppress(TimeoutError):  # Should the client not have given up by then.
            await asyncio.wait_for(stopping.wait(), timeout_seconds)
    if reply.delivery is not Delivery.SEND and request.transport is not None:
        request.transport.abort()
    # aiohttp wants a response even where nobody is there to read it.
    return web.Response(
        status=reply.status or 500, body=reply.body, headers=everything, content_type=_JSON
    )


async def _truncate(
    request: web.Request, reply: Reply, headers: Mapping[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_type = _JSON
    response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    if request.transport is not None:
        request.transport.close()  # Sends what was written, then ends too early.
    return response


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, indent=2).encode()
