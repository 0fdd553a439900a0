"""What the admin API tells of notices."""

from typing import Annotated

from pydantic import Field

from sidecar.domain.notices import Channel, NoticeKind
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.field_types import (
    CustomerId,
    Instant,
    PageLimit,
    QueryModel,
    ResponseModel,
)
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.notice_ports import DeliveryFact, DeliveryState, StoredNotice

_PAGE_DEFAULT = 50

NumberCursor = Annotated[
    str, Field(pattern=r"^[1-9][0-9]{0,17}$", description="`next` of the page before.")
]


class NoticesQuery(QueryModel):
    """Which page, of one customer's notices or of those with a delivery in a state."""

    limit: PageLimit = _PAGE_DEFAULT
    after: NumberCursor | None = None
    customer_id: CustomerId | None = None
    state: DeliveryState | None = None


class DeliveryAnswer(ResponseModel):
    """One addressee on one channel; `target` is empty, `customer`, or a hash of an address."""

    channel: Channel
    target: str
    state: DeliveryState
    attempts: int
    next_attempt_at: Instant | None
    finished_at: Instant | None
    detail: str

    @classmethod
    def of(cls, fact: DeliveryFact) -> "DeliveryAnswer":
        """From the record."""
        return cls(
            channel=fact.to.channel,
            target=fact.to.target,
            state=fact.state,
            attempts=fact.attempts,
            next_attempt_at=fact.next_attempt_at,
            finished_at=fact.finished_at,
            detail=fact.detail,
        )


class NoticeAnswer(ResponseModel):
    """
    A fact to tell; no deliveries where nobody is to be told, or while it is not routed yet.

    `customer_id` is empty where it is about the installation; `amounts_nano` are whole numbers.
    """

    id: str
    kind: NoticeKind
    customer_id: str
    facts: dict[str, str]
    amounts_nano: dict[str, str]
    occurred_at: Instant
    created_at: Instant
    routed: bool
    deliveries: list[DeliveryAnswer]

    @classmethod
    def of(cls, stored: StoredNotice) -> "NoticeAnswer":
        """From the record."""
        notice = stored.notice
        return cls(
            id=stored.notice_id,
            kind=notice.kind,
            customer_id=notice.customer_id,
            facts=dict(notice.facts),
            amounts_nano={name: str(nano) for name, nano in notice.amounts.items()},
            occurred_at=notice.occurred_at,
            created_at=stored.created_at,
            routed=stored.routed,
            deliveries=[DeliveryAnswer.of(fact) for fact in stored.deliveries],
        )


class NoticePage(ResponseModel):
    """A page of notices, the newest first."""

    items: list[NoticeAnswer]
    next: str | None


async def list_notices(call: Call) -> Answer:
    """A page of notices."""
    query = call.query
    assert isinstance(query, NoticesQuery)
    found = await call.request.app[ADMIN].notices.list(
        before=None if query.after is None else int(query.after),
        limit=query.limit + 1,
        customer_id=query.customer_id or "",
        state=query.state,
    )
    page = found[: query.limit]
    following = str(page[-1].number) if len(found) > query.limit else None
    return Answer(
        body=NoticePage(items=[NoticeAnswer.of(stored) for stored in page], next=following)
    )


async def retry_notice(call: Call) -> Answer:
    """Make failed deliveries pending again, with all their tries. Raises NotFound."""
    notice_id = call.request.match_info["notice_id"]
    return Answer(body=NoticeAnswer.of(await call.request.app[ADMIN].notices.retry(notice_id)))
