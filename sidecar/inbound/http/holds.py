"""The admin role's view of holds in flight."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from sidecar.domain.holds import Bound, HoldState
from sidecar.domain.money import format_amount
from sidecar.domain.periods import from_epoch_ms
from sidecar.inbound.http.admin import customer_id_of
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.field_types import (
    CustomerId,
    Instant,
    NanoInt,
    PageLimit,
    QueryModel,
    ResponseModel,
    SignedAmountText,
)
from sidecar.inbound.http.paging import LimitQuery
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.open_holds import HoldPosition
from sidecar.services.ports import StoredHold

_PAGE_DEFAULT = 50

HoldCursor = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,4}\.[0-9]{1,15}\.[0-9a-f]{40}$",
        description="`next` of the page before.",
    ),
]


class HoldsQuery(QueryModel):
    """Which page, of one customer's holds if it is named."""

    limit: PageLimit = _PAGE_DEFAULT
    after: HoldCursor | None = None
    customer_id: CustomerId | None = None


class HoldAnswer(ResponseModel):
    """
    A hold in flight.

    `served` says that a sign of life of its stream was seen, `due` that it has expired and the
    sweep ends it next. `bound` says how sure it is that its usage stays within the amount.
    """

    id: str
    customer_id: str
    user_id: str
    credential_id: str
    state: HoldState
    amount: SignedAmountText
    amount_nano: NanoInt
    currency: str
    plan: str
    price_version: str
    model: str
    route: str
    gateway: str
    bound: Bound
    decided_at: Instant
    expires_at: Instant
    age_seconds: int
    served: bool
    due: bool

    @classmethod
    def of(cls, hold: StoredHold, now: datetime) -> "HoldAnswer":
        """From the live store's record."""
        terms = hold.terms
        decided_at = from_epoch_ms(terms.decided_at_ms)
        return cls(
            id=terms.hold_id,
            customer_id=terms.customer_id,
            user_id=terms.user_id,
            credential_id=terms.credential_id,
            state=hold.state,
            amount=format_amount(terms.amount_nano),
            amount_nano=terms.amount_nano,
            currency=terms.currency,
            plan=terms.plan,
            price_version=terms.price_version,
            model=terms.model,
            route=terms.route,
            gateway=terms.gateway_id,
            bound=terms.bound,
            decided_at=decided_at,
            expires_at=from_epoch_ms(terms.expires_at_ms),
            # The store's clock may be ahead of ours.
            age_seconds=max(0, int((now - decided_at).total_seconds())),
            served=hold.served,
            due=hold.due,
        )


class HoldList(ResponseModel):
    """Open holds, at most `limit`; `more` says that there are others."""

    items: list[HoldAnswer]
    next: None = None
    more: bool


class OpenHoldPage(ResponseModel):
    """A page of open holds; one with `customer_id` may be short and not the last."""

    items: list[HoldAnswer]
    next: str | None


async def list_open_holds(call: Call) -> Answer:
    """A page of all holds in flight, or of one customer's."""
    assert isinstance(call.query, HoldsQuery)
    query, cases = call.query, call.request.app[ADMIN]
    if query.customer_id is not None:
        await cases.accounts.read_customer(query.customer_id)  # One that is not there is a 404.
    page = await cases.holds.page(
        limit=query.limit, after=_position(query.after), customer_id=query.customer_id or ""
    )
    now = cases.accounts.now()
    return Answer(
        body=OpenHoldPage(
            items=[HoldAnswer.of(hold, now) for hold in page.holds],
            next=None if page.next is None else _cursor(page.next),
        )
    )


async def list_customer_holds(call: Call) -> Answer:
    """A customer's holds in flight."""
    assert isinstance(call.query, LimitQuery)
    accounts, limit = call.request.app[ADMIN].accounts, call.query.limit
    found = await accounts.list_open_holds(customer_id_of(call), limit=limit + 1)
    now = accounts.now()
    return Answer(
        body=HoldList(
            items=[HoldAnswer.of(hold, now) for hold in found[:limit]], more=len(found) > limit
        )
    )


def _cursor(position: HoldPosition) -> str:
    return f"{position.shard}.{position.expires_at_ms}.{position.hold_id}"


def _position(cursor: str | None) -> HoldPosition | None:
    if cursor is None:
        return None
    shard, expires_at_ms, hold_id = cursor.split(".")
    return HoldPosition(shard=int(shard), expires_at_ms=int(expires_at_ms), hold_id=hold_id)
