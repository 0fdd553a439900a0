"""Explanations of decisions over the admin API."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from sidecar.inbound.http.admin_edge import ADMIN
from sidecar.inbound.http.field_types import (
    AmountText,
    CustomerId,
    Instant,
    Labels,
    OverdueDays,
    PlanName,
    RequestModel,
    ResponseModel,
    Text128,
)
from sidecar.inbound.http.gateway_models import HeaderValues
from sidecar.inbound.http.problems import ProblemError
from sidecar.inbound.http.routing import Answer, Call
from sidecar.services.asking import Asked
from sidecar.services.explanation import as_data

_USED_MAX = 200


class ExplainBody(RequestModel):
    """
    A request to explain, or the id of a recorded decision.

    With `live` the customer and its numbers are the store's. Without it they are as given;
    what is not given refuses nothing.
    """

    decision_id: Annotated[
        str | None, Field(pattern=r"^dec_[0-9a-f]{32}$", description="Instead of a request.")
    ] = None
    method: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")] = "GET"
    path: Annotated[str, Field(max_length=16_384, description="With its query.")] = "/"
    host: Annotated[str, Field(max_length=1_024)] = ""
    headers: Annotated[dict[str, HeaderValues], Field(default_factory=dict, max_length=200)]
    context: Annotated[dict[str, str], Field(default_factory=dict, max_length=200)]
    source_ip: Annotated[str, Field(max_length=64)] = ""
    body: Annotated[str | None, Field(description="The body as text.")] = None
    customer_id: CustomerId | None = None
    plan: PlanName | None = None
    labels: Annotated[Labels, Field(default_factory=dict)]
    user_id: Text128 = ""
    team_id: Text128 = ""
    credential_id: Text128 = ""
    credit: AmountText | None = None
    used: Annotated[
        dict[str, Annotated[str, Field(pattern=r"^\d{1,15}(\.\d{1,9})?$")]],
        Field(
            default_factory=dict,
            max_length=_USED_MAX,
            description="By quota, or by the rule that limits: whole numbers or amounts, as text.",
        ),
    ]
    standing: Literal["good", "grace", "delinquent"] = "good"
    overdue_days: OverdueDays | None = None
    overdue: AmountText | None = None
    disputed: bool = False
    at: Instant | None = None
    live: bool = False

    def asked(self) -> Asked:
        """As the use case takes it. Raises ProblemError for a text that is no UTF-8."""
        try:
            body = None if self.body is None else self.body.encode()
        except UnicodeEncodeError as error:
            raise ProblemError.of_field("body", "is no text that UTF-8 can hold") from error
        return Asked(
            method=self.method,
            path=self.path,
            host=self.host,
            source_ip=self.source_ip,
            headers=[(name, one) for name, values in self.headers.items() for one in values],
            context=self.context,
            body=body,
            customer_id=self.customer_id,
            plan=self.plan,
            labels=self.labels,
            user_id=self.user_id,
            team_id=self.team_id,
            credential_id=self.credential_id,
            credit=self.credit,
            used=self.used,
            standing=self.standing,
            overdue_days=self.overdue_days,
            overdue=self.overdue,
            disputed=self.disputed,
            at=self.at,
        )


class ExplanationAnswer(ResponseModel):
    """
    A decision, explained: each rule of the policy, the hold, the numbers and the answer.

    Amounts are in nano. `recorded` and `agrees` are of a recorded decision.
    """

    policy_version: str
    method: str
    path: str
    customer: str
    plan: str
    at: Instant
    rules: list[dict[str, Any]]
    answer: dict[str, Any]
    hold: dict[str, Any] | None
    numbers: dict[str, Any] | None
    notes: list[str]
    decision_id: str
    recorded: str
    agrees: bool | None


async def post_explain(call: Call) -> Answer:
    """Say which rule decides a request, and why the others do not."""
    body = call.body
    assert isinstance(body, ExplainBody)
    explanations = call.request.app[ADMIN].explanations
    if body.decision_id is not None:
        found = await explanations.explain_decision(body.decision_id)
    else:
        found = await explanations.explain(body.asked(), live=body.live)
    data = as_data(found)
    data["at"] = datetime.fromisoformat(data["at"])
    return Answer(body=ExplanationAnswer(**data))
