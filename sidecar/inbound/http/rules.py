"""What the admin API does with rules."""

from typing import Annotated

from pydantic import Field

from sidecar.inbound.http.admin import customer_id_of
from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.field_types import Instant, ResponseModel
from sidecar.inbound.http.paging import LimitQuery
from sidecar.inbound.http.problems import FieldError, ProblemCode, ProblemError
from sidecar.inbound.http.routing import Answer, Call


class ReloadAnswer(ResponseModel):
    """The policy that is in force after a reload."""

    policy_version: str
    rules: int


class ThresholdAnswer(ResponseModel):
    """A threshold that usage has reached in a period."""

    quota: str
    subject: Annotated[
        str, Field(description="Whose: empty for the customer, else such as user=ada.")
    ]
    period_start: Instant
    percent: int
    used: Annotated[str, Field(description="In the quota's unit, money in nano; a whole number.")]
    limit: str


class ThresholdList(ResponseModel):
    """The newest first; `more` says that there are others."""

    items: list[ThresholdAnswer]
    more: bool


async def list_thresholds(call: Call) -> Answer:
    """What a customer's usage has reached."""
    assert isinstance(call.query, LimitQuery)
    use_cases, limit = call.request.app[ADMIN], call.query.limit
    customer = await use_cases.accounts.read_customer(customer_id_of(call))
    found = await use_cases.thresholds.list_reached(customer.customer_id, limit=limit + 1)
    return Answer(
        body=ThresholdList(
            items=[
                ThresholdAnswer(
                    quota=one.quota,
                    subject=one.subject,
                    period_start=one.period_start,
                    percent=one.percent,
                    used=str(one.used),
                    limit=str(one.limit),
                )
                for one in found[:limit]
            ],
            more=len(found) > limit,
        )
    )


async def reload_rules(call: Call) -> Answer:
    """
    Read the policy files again, here and on every gateway.

    Raises:
        ProblemError: The files cannot be used; the answer lists where, and the last good
            policy stays in force.
    """
    reloaded = await call.request.app[ADMIN].reloads.reload()
    if reloaded.problems:
        raise ProblemError(
            ProblemCode.POLICY_REFUSED,
            f"the policy files cannot be used; {reloaded.policy_version} stays in force",
            errors=tuple(_error(problem) for problem in reloaded.problems),
        )
    return Answer(body=ReloadAnswer(policy_version=reloaded.policy_version, rules=reloaded.rules))


def _error(problem: str) -> FieldError:
    """A problem's place, and what is wrong there."""
    place, separator, message = problem.partition(": ")
    return FieldError(field=place if separator else "", message=message or place)
