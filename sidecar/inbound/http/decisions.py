"""Recorded decisions, as the admin API shows them."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from sidecar.domain.decision_records import DecisionRecord, readable
from sidecar.domain.errors import NotFound
from sidecar.domain.periods import from_epoch_ms
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.field_types import (
    CustomerId,
    Instant,
    PageLimit,
    QueryModel,
    ResponseModel,
)
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.decision_ports import PLACE_PATTERN

_DECISION_ID = re.compile(r"dec_[0-9a-f]{32}", re.ASCII)
_PAGE_DEFAULT = 50
_START = datetime(2000, 1, 1, tzinfo=UTC)
_END = datetime(2100, 1, 1, tzinfo=UTC)


class DecisionsQuery(QueryModel):
    """Which decisions: of a customer, and of [since, until)."""

    limit: PageLimit = _PAGE_DEFAULT
    after: Annotated[str, Field(pattern=PLACE_PATTERN)] | None = None
    customer_id: CustomerId | None = None
    since: Instant | None = None
    until: Instant | None = None


class DecisionAnswer(ResponseModel):
    """A decision: what it was, and under `record` all that is kept of what it was made from."""

    id: str
    decided_at: Instant
    customer_id: str
    allow: bool
    code: str
    rule: str
    policy_version: str
    record: Annotated[
        dict[str, Any], Field(description="The kept facts, numbers and outcome; see the docs.")
    ]

    @classmethod
    def of(cls, record: DecisionRecord) -> "DecisionAnswer":
        """From a record."""
        return cls(
            id=record.decision_id,
            decided_at=from_epoch_ms(record.instant_ms),
            customer_id=record.customer_id,
            allow=record.allow,
            code=record.code,
            rule=record.rule,
            policy_version=record.policy_version,
            record=readable(record),
        )


class DecisionPage(ResponseModel):
    """A page of decisions, in the order of time."""

    items: list[DecisionAnswer]
    next: str | None


async def list_decisions(call: Call) -> Answer:
    """A page of recorded decisions."""
    query = call.query
    assert isinstance(query, DecisionsQuery)
    found = await call.request.app[ADMIN].decisions.page(
        since=query.since or _START,
        until=query.until or _END,
        customer_id=query.customer_id or "",
        after=query.after or "",
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    return Answer(
        body=DecisionPage(
            items=[DecisionAnswer.of(record) for _, record in page],
            next=page[-1][0] if len(found) > query.limit else None,
        )
    )


async def get_decision(call: Call) -> Answer:
    """One recorded decision."""
    decision_id = call.request.match_info["decision_id"]
    record = None
    if _DECISION_ID.fullmatch(decision_id):
        record = await call.request.app[ADMIN].decisions.find(decision_id)
    if record is None:
        raise NotFound("there is no record of this decision")
    return Answer(body=DecisionAnswer.of(record))
