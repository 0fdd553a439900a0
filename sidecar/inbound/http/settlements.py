"""The admin API's words about what is reported to the billing provider."""

from sidecar.inbound.http.admin import path_name
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.routing import Answer, Call
from sidecar.inbound.http.settlement_models import (
    ReconciliationAnswer,
    ReconciliationList,
    ReconciliationsQuery,
    SettlementAnswer,
    SettlementPage,
    SettlementsQuery,
)


async def list_settlements(call: Call) -> Answer:
    """A page of quantities to report, by number."""
    assert isinstance(call.query, SettlementsQuery)
    query = call.query
    found = await call.request.app[ADMIN].reports.settlements.list(
        customer_id=query.customer_id or "",
        state=query.state,
        after=int(query.after or 0),
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    following = str(page[-1].number) if len(found) > query.limit else None
    return Answer(
        body=SettlementPage(items=[SettlementAnswer.of(one) for one in page], next=following)
    )


async def get_settlement(call: Call) -> Answer:
    """One quantity to report."""
    found = await call.request.app[ADMIN].reports.settlements.read(_number(call))
    return Answer(body=SettlementAnswer.of(found))


async def retry_settlement(call: Call) -> Answer:
    """Send a failed one again, under its next name."""
    found = await call.request.app[ADMIN].reports.settlements.retry(_number(call))
    return Answer(body=SettlementAnswer.of(found))


async def list_reconciliations(call: Call) -> Answer:
    """What comparisons with the provider's sums last said."""
    assert isinstance(call.query, ReconciliationsQuery)
    query = call.query
    found = await call.request.app[ADMIN].reports.reconciliations.list(
        customer_id=query.customer_id or "", outcome=query.outcome, limit=query.limit + 1
    )
    items = [ReconciliationAnswer.of(one) for one in found[: query.limit]]
    return Answer(body=ReconciliationList(items=items, more=len(found) > query.limit))


def _number(call: Call) -> int:
    return int(path_name(call, "settlement_number"))
