"""Webhooks in, and the admin role's view of what became of them."""

from typing import Annotated, Literal

from pydantic import Field

from sidecar.domain.errors import NotFound
from sidecar.inbound.http.admin import path_name
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.bodies import read_bytes
from sidecar.inbound.http.field_types import Instant, ResponseModel
from sidecar.inbound.http.paging import PageQuery, page_of, read_cursor
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.inbox_ports import InboxObject, InboxState, ObjectKind, Receipt

_HEADERS_MAX = 64


class WebhookAnswer(ResponseModel):
    """What the webhook was: the provider may forget it."""

    outcome: Receipt


class InboxQuery(PageQuery):
    """Which page, of objects in one state if it is named."""

    state: Literal["idle", "pending", "parked"] | None = None


class InboxObjectAnswer(ResponseModel):
    """
    An object that webhooks named.

    `events` counts what asked for it, `attempts` the tries since it was last handled. `reason` says
    why it waits or is parked.
    """

    id: str
    provider: str
    kind: ObjectKind
    object_id: str
    state: InboxState
    reason: str
    events: Annotated[int, Field(ge=0)]
    attempts: Annotated[int, Field(ge=0)]
    event_type: str
    livemode: bool | None
    wanted_at: Instant
    retry_at: Instant
    handled_at: Instant | None

    @classmethod
    def of(cls, found: InboxObject) -> "InboxObjectAnswer":
        """From the record."""
        return cls(
            id=found.ref.key,
            provider=found.ref.provider,
            kind=found.ref.kind,
            object_id=found.ref.object_id,
            state=found.state,
            reason=found.reason,
            events=found.events,
            attempts=found.attempts,
            event_type=found.event_type,
            livemode=found.livemode,
            wanted_at=found.wanted_at,
            retry_at=found.retry_at,
            handled_at=found.handled_at,
        )


class InboxPage(ResponseModel):
    """A page of objects, by id."""

    items: list[InboxObjectAnswer]
    next: str | None


async def post_webhook(call: Call) -> Answer:
    """
    Take a webhook in: its signature is verified over the bytes as they came.

    A repeat is a success: the provider sends it again until it hears one.
    """
    webhooks = call.request.app[ADMIN].webhooks
    provider = path_name(call, "provider")
    webhooks.receiver.check_provider(provider)
    body = await read_bytes(call.request, webhooks.body_bytes_max)
    headers: dict[str, str] = {}
    for name, value in list(call.request.headers.items())[:_HEADERS_MAX]:
        key = name.lower()
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return Answer(
        body=WebhookAnswer(outcome=await webhooks.receiver.receive(provider, headers, body))
    )


async def list_webhooks(call: Call) -> Answer:
    """A page of the objects that webhooks named, by id."""
    assert isinstance(call.query, InboxQuery)
    query = call.query
    found = await call.request.app[ADMIN].webhooks.inbox.list(
        state=None if query.state is None else InboxState(query.state),
        after=read_cursor(query),
        limit=query.limit + 1,
    )
    page, following = page_of(found, query, lambda one: one.ref.key)
    return Answer(body=InboxPage(items=[InboxObjectAnswer.of(one) for one in page], next=following))


async def retry_webhook(call: Call) -> Answer:
    """Have an object fetched now, whatever became of it before."""
    key = path_name(call, "object_key")
    found = await call.request.app[ADMIN].webhooks.inbox.retry(key)
    if found is None:
        raise NotFound(f"no webhook has named an object {key!r}")
    return Answer(body=InboxObjectAnswer.of(found))
