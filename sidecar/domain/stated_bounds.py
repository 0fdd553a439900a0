"""Bounds that a request's headers state: whose word they are decides what they are worth."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import Bound
from sidecar.domain.matching import RequestView
from sidecar.domain.requests import RequestFacts
from sidecar.domain.rules import EstimateFrom, EstimateRule, StatedBound, TokenSide

_DIGITS_MAX = 16


@dataclass(frozen=True, slots=True)
class Bounded:
    """An estimate and what is known of the request, after what its headers state."""

    rule: EstimateRule | None
    facts: RequestFacts


def read_stated(rule: EstimateRule | None, view: RequestView, facts: RequestFacts) -> Bounded:
    """
    Take the bounds that headers state, where the estimate reads them.

    A trusted header bounds the request as its body would. Any other one is the caller's wish: it
    can raise the default and never lower it, so that nobody holds less by asking for it.

    Raises:
        InvalidInput: A header stands twice, is no plain decimal count, or is beyond its most;
            `field` names it.
    """
    if rule is None or rule.source is not EstimateFrom.HEADER:
        return Bounded(rule, facts)
    counts = _counts(rule.stated, view)
    stated_input, stated_output = counts.get(TokenSide.INPUT), counts.get(TokenSide.OUTPUT)
    if rule.trusted:
        return Bounded(rule, replace(facts, input_bound=stated_input, output_bound=stated_output))
    raised = replace(
        rule,
        default_input=max(rule.default_input, stated_input or 0),
        default_output=max(rule.default_output, stated_output or 0),
    )
    return Bounded(raised, facts)


def bound_words(rule: EstimateRule | None, bound: Bound) -> str:
    """Why a bound is what it is, in words."""
    if bound is Bound.PROVEN:
        return "no response can exceed it"
    if rule is None:
        return "no estimate is for this route"
    match rule.source:
        case EstimateFrom.BODY:
            return "the body promises no bound"
        case EstimateFrom.NONE:
            return "the route's default is held, whatever the request says"
        case EstimateFrom.HEADER if rule.trusted:
            return "not all bounds are stated by a header"
        case EstimateFrom.HEADER:
            return "headers that the caller can set prove nothing"


def _counts(stated: tuple[StatedBound, ...], view: RequestView) -> Mapping[TokenSide, int]:
    """What the headers that are there say, in tokens."""
    found = {}
    for bound in stated:
        values = view.request.headers.get(bound.header)
        if values:
            found[bound.side] = _count(bound, values)
    return found


def _count(bound: StatedBound, values: tuple[str, ...]) -> int:
    if len(values) > 1:
        raise InvalidInput(f"header {bound.header} stands more than once", field=bound.header)
    text = values[0]
    # No sign, point, space or other script.
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(
            f"header {bound.header} must be a whole number in plain digits", field=bound.header
        )
    if len(text) > _DIGITS_MAX or int(text) > bound.most:
        raise InvalidInput(
            f"header {bound.header} must be a whole number from 0 to {bound.most}",
            field=bound.header,
        )
    return int(text)
