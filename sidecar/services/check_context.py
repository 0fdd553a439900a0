"""What one check carries from step to step."""

from dataclasses import dataclass

from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.matching import RequestView
from sidecar.domain.planning import CheckPlan
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.services.ports import PlaceHold


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckContext:
    """The request, as the one policy snapshot of its check looks at it."""

    policy: Policy
    request: AccessRequest
    view: RequestView


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one check asked of the store, and for whom."""

    context: CheckContext
    customer: CustomerFacts = NOBODY
    facts: RequestFacts = RequestFacts()
    plan: CheckPlan
    hold: PlaceHold
    credential_headers: tuple[str, ...] = ()
