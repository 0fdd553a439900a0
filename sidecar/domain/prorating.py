"""The share of an amount or quantity that a part of a period has."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sidecar.domain.periods import Period

_MICROSECOND = timedelta(microseconds=1)


def prorate(whole: int, span: Period, period: Period) -> int:
    """
    What of `whole`, spread evenly over the period, lies in the span.

    Exact: the parts of spans that together are the period add up to `whole`, since each is the
    difference of what is due by its end and what was due by its start.

    Args:
        whole: Zero or more, in any unit.
        span: Within the period.
        period: What `whole` is for.
    """
    assert period.start <= span.start < span.end <= period.end, (span, period)
    length = (period.end - period.start) // _MICROSECOND

    def due_by(instant: timedelta) -> int:
        return whole * (instant // _MICROSECOND) // length

    return due_by(span.end - period.start) - due_by(span.start - period.start)


def shares(parts: Iterable[tuple[int, Sequence[Period]]], period: Period) -> list[int]:
    """
    What of each amount of a period is due for the time it counted, all of them rounded once.

    A part is what the exact sum up to it, rounded down, is more than that before it. So the parts
    add up to the exact sum rounded down: never more than the largest amount where no two spans
    overlap, and the amount itself where it is the same for the whole period.

    Args:
        parts: Amounts of zero or more, each with when it counted, in a stable order.
        period: What the amounts are for; all spans are within it.
    """
    length = (period.end - period.start) // _MICROSECOND
    exact = given = 0
    found = []
    for whole, spans in parts:
        for span in spans:
            assert period.start <= span.start < span.end <= period.end, (span, period)
            exact += whole * ((span.end - span.start) // _MICROSECOND)
        found.append(exact // length - given)
        given = exact // length
    return found
