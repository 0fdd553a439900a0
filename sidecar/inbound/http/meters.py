"""The admin role's view of meters."""

from datetime import UTC

from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.meter_models import (
    MeterAnswer,
    MeterList,
    MeterQueryAnswer,
    MeterQueryParameters,
    MeterRowAnswer,
)
from sidecar.inbound.http.problems import ProblemError
from sidecar.inbound.http.routing import Answer, Call
from sidecar.inbound.principals import is_name
from sidecar.services.meter_queries import MeterQueries, MeterQuery


async def list_meters(call: Call) -> Answer:
    """All meters."""
    return Answer(body=MeterList(items=[MeterAnswer.of(meter) for meter in _meters(call).meters()]))


async def query_meter(call: Call) -> Answer:
    """What a meter counted, window by window and group by group."""
    asked = call.query
    assert isinstance(asked, MeterQueryParameters)
    queries = _meters(call)
    name = call.request.match_info["name"]
    if not is_name(name):
        raise ProblemError.of_field("name", "is no meter's name")
    end = asked.to or queries.now()
    month = end.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = asked.from_ or month
    meter, rows = await queries.query(
        MeterQuery(
            meter=name,
            start=start,
            end=end,
            subjects=asked.subject,
            window_size=asked.windowSize,
            time_zone=asked.windowTimeZone,
            group_by=asked.groupBy,
            filters=asked.filterGroupBy,
        )
    )
    return Answer(
        body=MeterQueryAnswer(
            meter=meter.name,
            aggregation=meter.aggregation.value,
            **{"from": start},
            to=end,
            windowSize=asked.windowSize.value if asked.windowSize else None,
            data=[MeterRowAnswer.of(row) for row in rows],
        )
    )


def _meters(call: Call) -> MeterQueries:
    meters = call.request.app[ADMIN].meters
    assert meters is not None
    return meters
