"""Which plan a customer was on when, and so which prices were in force."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sidecar.domain.card_schedules import Timeline
from sidecar.domain.periods import Period
from sidecar.domain.rate_cards import RateCard


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStart:
    """From an instant on a customer is on a plan."""

    since: datetime
    plan: str


def plan_spans(history: Sequence[PlanStart], period: Period) -> list[tuple[str, Period]]:
    """
    The plans of a period, each with its part of it, in order of time and without gaps.

    Args:
        history: In order of time, at least one. The first plan counts from before its start too:
            what was before nobody wrote down.
        period: Half-open, as the parts are.
    """
    spans: list[tuple[str, Period]] = []
    ends = [start.since for start in history[1:]]
    begun = period.start
    for start, end in zip(history, [*ends, period.end], strict=True):
        until = min(end, period.end)
        if until <= begun:
            continue
        if spans and spans[-1][0] == start.plan:
            spans[-1] = start.plan, Period(start=spans[-1][1].start, end=until)
        else:
            spans.append((start.plan, Period(start=begun, end=until)))
        begun = until
    return spans


def cards_within(
    spans: Sequence[tuple[str, Period]], timeline_of: Callable[[str], Timeline | None]
) -> Iterator[tuple[RateCard, Period]]:
    """Each card in force with its part of the period; plans that nobody knows have none."""
    for plan, span in spans:
        timeline = timeline_of(plan)
        if timeline is not None:
            yield from timeline.within(span)
