"""The admin role's resources of credit that comes by itself: schedules, automatic top-ups."""

from http import HTTPStatus

from sidecar.domain.grants import PRIORITY_DEFAULT, GrantKind
from sidecar.domain.money import parse_amount
from sidecar.domain.periods import CalendarUnit
from sidecar.domain.schedules import GrantSchedule
from sidecar.domain.top_ups import TopUpRule
from sidecar.inbound.http.admin import customer_id_of, path_name
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.credit_models import CustomerQuery
from sidecar.inbound.http.credits import keyed_id
from sidecar.inbound.http.paging import CustomerPageQuery, LimitQuery, page_of, read_cursor
from sidecar.inbound.http.recurring_models import (
    ScheduleAnswer,
    ScheduleBody,
    SchedulePage,
    TopUpAttemptAnswer,
    TopUpAttemptList,
    TopUpRuleAnswer,
    TopUpRuleBody,
)
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.schedules import ScheduleService
from sidecar.services.top_ups import TopUpService


async def post_schedule(call: Call) -> Answer:
    """Record a schedule; its grants are issued by the settlement role."""
    assert isinstance(call.body, ScheduleBody)
    body = call.body
    least, most = 0, 0
    if body.rollover is not None:
        least = parse_amount(body.rollover.min, field="rollover.min")
        most = parse_amount(body.rollover.max, field="rollover.max")
    schedule = await _schedules(call).create(
        GrantSchedule(
            schedule_id=keyed_id(call, "grs"),
            customer_id=body.customer_id,
            amount_nano=parse_amount(body.amount),
            currency=body.currency,
            unit=CalendarUnit(body.unit),
            every=body.every,
            tz=body.tz,
            anchor=body.anchor or body.starts_at,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
            kind=GrantKind(body.kind),
            priority=PRIORITY_DEFAULT if body.priority is None else body.priority,
            meters=tuple(body.meters),
            rolls_least_nano=least,
            rolls_most_nano=most,
        )
    )
    return Answer(status=HTTPStatus.CREATED, body=ScheduleAnswer.of(schedule))


async def list_schedules(call: Call) -> Answer:
    """A page of a customer's schedules, by id."""
    assert isinstance(call.query, CustomerPageQuery)
    query = call.query
    found = await _schedules(call).list(
        query.customer_id, after=read_cursor(query), limit=query.limit + 1
    )
    page, following = page_of(found, query, lambda one: one.schedule_id)
    items = [ScheduleAnswer.of(item) for item in page]
    return Answer(body=SchedulePage(items=items, next=following))


async def get_schedule(call: Call) -> Answer:
    """One schedule."""
    assert isinstance(call.query, CustomerQuery)
    found = await _schedules(call).read(call.query.customer_id, path_name(call, "schedule_id"))
    return Answer(body=ScheduleAnswer.of(found))


async def end_schedule(call: Call) -> Answer:
    """Issue no further grant; again changes nothing."""
    assert isinstance(call.query, CustomerQuery)
    found = await _schedules(call).end(call.query.customer_id, path_name(call, "schedule_id"))
    return Answer(body=ScheduleAnswer.of(found))


async def put_top_up_rule(call: Call) -> Answer:
    """Set a customer's rule."""
    assert isinstance(call.body, TopUpRuleBody)
    body, customer_id = call.body, customer_id_of(call)
    rule = await _top_ups(call).put_rule(
        customer_id,
        TopUpRule(
            threshold_nano=parse_amount(body.threshold, field="threshold"),
            amount_nano=None if body.amount is None else parse_amount(body.amount),
            target_nano=None if body.target is None else parse_amount(body.target, field="target"),
        ),
    )
    return Answer(body=TopUpRuleAnswer.of(customer_id, rule))


async def get_top_up_rule(call: Call) -> Answer:
    """A customer's rule."""
    customer_id = customer_id_of(call)
    return Answer(body=TopUpRuleAnswer.of(customer_id, await _top_ups(call).read_rule(customer_id)))


async def delete_top_up_rule(call: Call) -> Answer:
    """Ask for no further payment."""
    customer_id = customer_id_of(call)
    return Answer(
        body=TopUpRuleAnswer.of(customer_id, await _top_ups(call).delete_rule(customer_id))
    )


async def list_top_up_attempts(call: Call) -> Answer:
    """Payments that were asked for, the newest first."""
    assert isinstance(call.query, LimitQuery)
    limit = call.query.limit
    found = await _top_ups(call).list_attempts(customer_id_of(call), limit=limit + 1)
    items = [TopUpAttemptAnswer.of(item) for item in found[:limit]]
    return Answer(body=TopUpAttemptList(items=items, more=len(found) > limit))


def _schedules(call: Call) -> ScheduleService:
    return call.request.app[ADMIN].schedules


def _top_ups(call: Call) -> TopUpService:
    return call.request.app[ADMIN].top_ups
