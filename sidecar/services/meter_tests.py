"""What each meter would take from one captured request and response, and why not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.holds import HoldTerms
from sidecar.domain.invoice_prices import invoice_amount
from sidecar.domain.matching import Match, RequestView
from sidecar.domain.noting import note_request
from sidecar.domain.policy import Policy
from sidecar.domain.quantities import MeteredQuantities, estimate_quantities, measure_quantities
from sidecar.domain.requests import AccessRequest
from sidecar.domain.rules import MeterRule
from sidecar.domain.usage import UsageReport
from sidecar.services.rating import measured

TEST_HOLD = "0" * 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedEvent:
    """A request, its customer, and what was reported of its response."""

    request: AccessRequest
    path: str
    customer: CustomerFacts
    report: UsageReport
    asked_model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPrice:
    """What the quantity alone would cost on a plan, as the first usage of the period."""

    plan: str
    currency: str
    amount_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterVerdict:
    """
    One meter's word; `reason` says why it takes nothing, or what is odd about what it takes.

    `problem` is the reason under which the whole report would be set aside.
    """

    meter: str
    matched: bool
    reason: str = ""
    quantity: int | None = None
    estimated: bool = False
    text_hash: str = ""
    problem: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    prices: tuple[PlanPrice, ...] = ()


def try_meters(policy: Policy, event: CapturedEvent) -> list[MeterVerdict]:
    """Each meter's verdict, in the policy's order; each is measured by itself."""
    view = policy.view(event.request, event.path)
    return [_verdict(policy, rule, view, event) for rule in policy.meters]


def _verdict(
    policy: Policy, rule: MeterRule, view: RequestView, event: CapturedEvent
) -> MeterVerdict:
    meter = rule.meter
    unmet = first_unmet(rule.match, view)
    if unmet:
        return MeterVerdict(meter=meter.name, matched=False, reason=unmet)
    terms = HoldTerms(
        hold_id=TEST_HOLD,
        gateway_id="",
        customer_id=event.customer.customer_id,
        plan=event.customer.plan,
        currency="",
        amount_nano=0,
        price_version="",
        estimate=estimate_quantities([meter], 0, 0, len(event.request.body or b"")),
        team_id=event.customer.team_id,
        user_id=event.customer.user_id,
        credential_id=event.customer.credential_id,
        model=event.asked_model,
        route=event.report.route,
        noted=note_request([meter], view, event.customer),
    )
    taken = measure_quantities({meter.name: meter}, terms.estimate, measured(event.report, terms))
    return _word(policy, rule, event, taken)


def _word(
    policy: Policy, rule: MeterRule, event: CapturedEvent, taken: MeteredQuantities
) -> MeterVerdict:
    name = rule.meter.name
    if taken.refusal:
        return MeterVerdict(
            meter=name,
            matched=True,
            problem=taken.refusal,
            reason=f"value {rule.meter.value[:200]!r} gives no count: the report is quarantined",
        )
    reason = taken.skipped.get(name, "")
    if name in taken.estimated:
        reason = (
            f"value {rule.meter.value[:200]!r} is not there; "
            f"on_missing: {rule.meter.on_missing.value}"
        )
    observed = taken.observed.get(name)
    if observed is None or name in taken.skipped:
        return MeterVerdict(meter=name, matched=False, reason=reason)
    model = event.report.model or event.asked_model
    return MeterVerdict(
        meter=name,
        matched=True,
        reason=reason,
        quantity=observed.quantity,
        estimated=name in taken.estimated,
        text_hash=observed.text_hash,
        groups=observed.groups,
        prices=tuple(_prices(policy, event, name, observed.quantity, model)),
    )


def _prices(
    policy: Policy, event: CapturedEvent, meter: str, quantity: int, model: str
) -> list[PlanPrice]:
    """As each plan would have it at the event's instant, were the customer on it."""
    found = []
    for name in sorted(policy.cards):
        card = policy.card_for(name, event.customer.customer_id, event.request.received_at)
        line = None if card is None else card.line_for(meter, model)
        if card is not None and line is not None:
            amount = invoice_amount(line[1], quantity)
            found.append(PlanPrice(plan=name, currency=card.currency, amount_nano=amount))
    return found


def first_unmet(match: tuple[Match, ...], view: RequestView) -> str:
    """
    Why a request does not fit, in the order that conditions are looked at; "" if it does.

    Of several alternatives the first one's reason is told.
    """
    if not match or any(one.accepts(view) for one in match):
        return ""
    first = match[0]
    parts: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("routes", lambda: Match(routes=first.routes).accepts(view)),
        ("methods", lambda: Match(methods=first.methods).accepts(view)),
        ("headers", lambda: Match(headers=first.headers).accepts(view)),
        ("hosts", lambda: Match(hosts=first.hosts).accepts(view)),
        ("query", lambda: Match(query=first.query).accepts(view)),
        ("sources", lambda: Match(sources=first.sources).accepts(view)),
        ("context", lambda: Match(context=first.context).accepts(view)),
        ("body", lambda: Match(body=first.body).accepts(view)),
    )
    unmet = next((name for name, holds in parts if not holds()), "match")
    others = f" (nor any of {len(match) - 1} alternatives)" if len(match) > 1 else ""
    return f"match.{unmet} does not fit{others}"
