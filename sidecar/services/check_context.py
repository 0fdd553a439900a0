"""What one check carries from step to step."""

from dataclasses import dataclass

from sidecar.domain.customers import NOBODY, CustomerFacts
from sidecar.domain.holds import HoldTerms
from sidecar.domain.matching import RequestView
from sidecar.domain.planning import Ask, CheckPlan
from sidecar.domain.policy import Policy
from sidecar.domain.requests import AccessRequest, RequestFacts
from sidecar.domain.thawing import quickly_made
from sidecar.services.ports import PlaceHold


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckContext:
    """The request, as the one policy snapshot of its check looks at it."""

    policy: Policy
    request: AccessRequest
    view: RequestView


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one check asked of the store, and for whom."""

    context: CheckContext
    customer: CustomerFacts = NOBODY
    facts: RequestFacts = RequestFacts()
    plan: CheckPlan
    hold: PlaceHold
    credential_headers: tuple[str, ...] = ()


def place_demand(
    context: CheckContext, customer: CustomerFacts, plan: CheckPlan, *, ttl_ms: int
) -> PlaceHold:
    """
    What a check asks of the store by its plan.

    Args:
        context: The request, under one policy.
        customer: Whose it is.
        plan: As it was planned; one that asks nothing has no demand.
        ttl_ms: How long the hold lives without a sign of life.
    """
    request = context.request
    card = plan.card
    assert card is not None
    terms = HoldTerms(
        hold_id=request.hold_id,
        gateway_id=request.gateway_id,
        customer_id=customer.customer_id,
        team_id=customer.team_id,
        user_id=customer.user_id,
        credential_id=customer.credential_id,
        plan=customer.plan,
        currency=card.currency,
        amount_nano=plan.amount_nano,
        price_version=card.version,
        estimate=plan.quantities,
        model=plan.model,
        route=_route_name(context),
        policy_version=context.policy.version,
        noted=plan.noted,
        bound=plan.bound,
        quota_lines=plan.quota_lines,
        request_id=request.request_id,
    )
    return PlaceHold(
        terms=terms,
        customer=customer,
        credit_required=plan.credit_required,
        invoices=plan.invoices,
        counters=plan.counters,
        fingerprint=f"{request.method} {context.view.path} {plan.amount_nano}",
        ttl_ms=ttl_ms,
        deadline=request.deadline,
        probe=plan.ask is Ask.PROBE,
        prepaid=card.billing.burns_credit,
        owes=card.billing.invoices_rest,
        parts=plan.parts,
    )


def _route_name(context: CheckContext) -> str:
    """The first route pattern that matched: bounded by the policy, unlike the client's path."""
    patterns, routes = context.policy.routes.patterns, context.view.routes
    return patterns[min(routes)] if routes else ""
