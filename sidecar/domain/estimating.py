"""What a request can use and cost at most, before it is known: the amount of its hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.domain.decisions import DenyReason
from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound
from sidecar.domain.matching import RequestView
from sidecar.domain.meter_values import TOKEN_VALUES
from sidecar.domain.meters import Meter
from sidecar.domain.pricing import RateCard
from sidecar.domain.quantities import estimate_quantities
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import EstimateRule, ModelLimits
from sidecar.domain.stated_bounds import read_stated


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A denial that needs no store: its reason, the rule, and words that are safe to show."""

    reason: DenyReason
    rule: str
    detail: str


@dataclass(frozen=True, slots=True)
class LargestUse:
    """
    The most that the request can use and cost, or why that cannot be said.

    `facts` are what is known of the request, with the bounds that its headers state. `parts` is
    what it costs at most by meter, in nano.
    """

    meters: tuple[Meter, ...]
    facts: RequestFacts
    tokens: int = 0
    quantities: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)
    bound: Bound = Bound.PROVEN
    refusal: Refusal | None = None

    @property
    def amount_nano(self) -> int:
        """What all of it costs at most."""
        return sum(self.parts.values())


def largest_use(
    view: RequestView,
    facts: RequestFacts,
    card: RateCard,
    meters: tuple[Meter, ...],
    *,
    estimate: EstimateRule | None,
    models: Mapping[str, ModelLimits],
) -> LargestUse:
    """
    Bound what a request can use, and price it.

    Args:
        view: The request.
        facts: What its body promises; where the estimate reads headers, nothing.
        card: The customer's prices.
        meters: Those that count the request.
        estimate: How the route's usage is bounded; None where nobody says.
        models: The policy's.
    """
    try:
        bounded = read_stated(estimate, view, facts)
    except InvalidInput as error:
        return LargestUse(meters, facts, refusal=_invalid(error))
    facts = bounded.facts
    priced = card.priced_meters() & {meter.name for meter in meters}
    if not card.prices_model(facts.model, priced):
        return LargestUse(
            meters,
            facts,
            refusal=Refusal(
                reason=DenyReason.UNKNOWN_MODEL,
                rule="prices",
                detail="the plan has no price for this model",
            ),
        )
    tokens, bound = _token_bounds(models, bounded.rule, facts)
    quantities = estimate_quantities(meters, tokens[0], tokens[1], len(view.request.body or b""))
    try:
        parts = card.upper_bounds(quantities, facts.model)
    except InvalidInput as error:
        return LargestUse(meters, facts, refusal=_invalid(error))
    return LargestUse(meters, facts, sum(tokens), quantities, parts, bound)


def _invalid(error: InvalidInput) -> Refusal:
    return Refusal(reason=DenyReason.INVALID_REQUEST, rule="estimate", detail=str(error))


def refuse_unbounded(
    estimate: EstimateRule | None, card: RateCard, meters: tuple[Meter, ...]
) -> Refusal | None:
    """Refuse to burn credit for what is priced by tokens and has no estimate: it holds nothing."""
    priced = card.priced_meters()
    by_tokens = any(m.name in priced and m.value in TOKEN_VALUES for m in meters)
    if not by_tokens or estimate is not None:
        return None
    return Refusal(
        reason=DenyReason.BLOCKED,
        rule="estimates",
        detail="no estimate says how much this route can use",
    )


def _token_bounds(
    models: Mapping[str, ModelLimits], rule: EstimateRule | None, facts: RequestFacts
) -> tuple[tuple[int, int], Bound]:
    """Input and output tokens that the hold covers, and whether no response can exceed them."""
    default_input = rule.default_input if rule else 0
    default_output = rule.default_output if rule else 0
    if facts.unread:
        # Whoever hides what a request says must not hold less for it.
        largest = [limits.max_input or 0 for limits in models.values()]
        longest = [limits.max_output or 0 for limits in models.values()]
        return (
            max(default_input, *largest, 0),
            max(default_output, *longest, 0),
        ), Bound.ESTIMATED
    limits = models.get(facts.model, ModelLimits())
    input_bound = _least(facts.input_bound, limits.max_input)
    model_output = None if limits.max_output is None else limits.max_output * facts.choices
    output_bound = _least(facts.output_bound, model_output)
    proven = input_bound is not None and output_bound is not None
    return (
        default_input if input_bound is None else input_bound,
        default_output if output_bound is None else output_bound,
    ), (Bound.PROVEN if proven else Bound.ESTIMATED)


def _least(*bounds: int | None) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None
