"""
How far usage can go beyond what a hold sets aside, where the hold is an estimate.

A proven hold is never exceeded. An estimated one is, by at most the difference that is
stated here, or without a bound where nothing in the policy limits the usage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidecar.domain.errors import InvalidInput
from sidecar.domain.meters import Meter
from sidecar.domain.money import format_amount
from sidecar.domain.pricing import RateCard
from sidecar.domain.quantities import estimate_quantities
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import ModelLimits

_INPUT = frozenset({"usage.input", "usage.cache_read", "usage.cache_creation", "usage.total"})
_OUTPUT = frozenset({"usage.output", "usage.reasoning", "usage.total"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Overshoot:
    """
    The most that a request can cost beyond its hold, in nano.

    `unbounded` names what nothing limits; `most_nano` is then None.
    """

    held_nano: int
    most_nano: int | None
    unbounded: tuple[str, ...] = ()

    @property
    def beyond_nano(self) -> int | None:
        """The difference; None where there is no bound."""
        return None if self.most_nano is None else max(0, self.most_nano - self.held_nano)

    def words(self, currency: str) -> str:
        """The bound in words."""
        held = f"{format_amount(self.held_nano)} {currency}"
        if self.most_nano is None:
            return f"{held} is held; no bound, since nothing limits {' and '.join(self.unbounded)}"
        most, beyond = format_amount(self.most_nano), format_amount(self.beyond_nano or 0)
        return f"{held} is held, at most {most} can be used: {beyond} beyond the hold"


def overshoot(
    models: Mapping[str, ModelLimits],
    card: RateCard,
    meters: Iterable[Meter],
    facts: RequestFacts,
    held_nano: int,
    *,
    request_bytes: int = 0,
) -> Overshoot:
    """
    The most that a request can cost beyond its hold.

    Args:
        models: The policy's limits of models.
        card: The plan's prices.
        meters: Those that count the request.
        facts: What the body promised; nothing for a body that was not read.
        held_nano: What the hold sets aside.
        request_bytes: The body's length.
    """
    priced = [meter for meter in meters if card.line_for(meter.name, facts.model) is not None]
    limits = models.get(facts.model, ModelLimits())
    longest = None if limits.max_output is None else limits.max_output * facts.choices
    most_input = _least(facts.input_bound, limits.max_input)
    most_output = _least(facts.output_bound, longest)
    unbounded = []
    model = f"model {facts.model!r}" if facts.model else "a model that the policy does not know"
    if most_input is None and any(meter.value in _INPUT for meter in priced):
        unbounded.append(f"the input tokens of {model}")
    if most_output is None and any(meter.value in _OUTPUT for meter in priced):
        unbounded.append(f"the output tokens of {model}")
    unbounded += [
        f"meter {meter.name!r}, which only the response tells"
        for meter in priced
        if not meter.bounded
    ]
    if unbounded:
        return Overshoot(held_nano=held_nano, most_nano=None, unbounded=tuple(unbounded))
    quantities = estimate_quantities(priced, most_input or 0, most_output or 0, request_bytes)
    try:
        most = card.upper_bound(quantities, facts.model)
    except InvalidInput:
        return Overshoot(held_nano=held_nano, most_nano=None, unbounded=("the amount",))
    return Overshoot(held_nano=held_nano, most_nano=max(most, held_nano))


def _least(*bounds: int | None) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None
