"""The share of an amount or quantity that a part of a period has."""

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
