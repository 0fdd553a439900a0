"""
Window kinds beside the calendar's: anchored to a day, of fixed length, and rolling.

Each is a pure function of its fields and an instant, as in `periods`. Anchors are whole
milliseconds, since stores keep starts and ends as milliseconds.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sidecar.domain.errors import InvalidInput
from sidecar.domain.periods import (
    EPOCH,
    CalendarUnit,
    CalendarWindow,
    Period,
    add_months,
    from_epoch_ms,
    to_epoch_ms,
    to_utc,
    zone_of,
)

ANCHOR_MIN = EPOCH
ANCHOR_MAX = datetime(2200, 1, 1, tzinfo=UTC)
EVERY_MAX = 1_000
SECONDS_MAX = 100 * 366 * 86_400
SLICES_MAX = 1_000
"""Each decision of a rolling window adds up one count more than it has slices."""

_MS_PER_SECOND = 1_000
_MICROSECONDS_PER_MS = 1_000
_MONTHS_PER_YEAR = 12
_DAYS = {CalendarUnit.DAY: 1, CalendarUnit.WEEK: 7}
_MONTHS = {CalendarUnit.MONTH: 1, CalendarUnit.YEAR: _MONTHS_PER_YEAR}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchoredWindow:
    """
    Every so many days, weeks, months or years from an anchor, as billing periods are.

    A start has the anchor's local time of day, across daylight saving. Months and years keep
    the anchor's day: the 31st is the last day of a shorter month and the 31st again after it,
    since each start is computed from the anchor.

    The anchor itself always begins a window, even if it is the second of two equal local times.
    Every other start is read as by `to_utc`: the first of two, and later where the clock skips.
    Where a zone skips a whole day (Samoa on 2011-12-30), the starts of that day and the
    next are one instant; no empty window lies between them.

    Raises:
        InvalidInput: A field is out of range, the unit is the hour, or the zone is unknown.
    """

    anchor: datetime
    every: int = 1
    unit: CalendarUnit
    tz: str = "UTC"

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor", _utc_anchor(self.anchor))
        _check_range("every", self.every, EVERY_MAX)
        if self.unit is CalendarUnit.HOUR:
            raise InvalidInput("unit must be day, week, month or year", field="unit")
        try:
            zone_of(self.tz)
        except (KeyError, ValueError, OSError) as error:
            # A name of a folder or one that is too long is an OSError.
            raise InvalidInput("tz must be an IANA time zone", field="tz") from error

    def at(self, instant: datetime) -> Period:
        """
        The window that holds the instant, be it before or after the anchor.

        Args:
            instant: Aware; any zone.

        Returns:
            The period in UTC.
        """
        assert instant.tzinfo is not None
        index = self._index_near(instant)
        while (start := self._start(index)) > instant:
            index -= 1
        # The date can be one too low where the clock is put back across midnight.
        while (end := self._start(index + 1)) <= instant:
            index, start = index + 1, end
        return Period(start=start, end=end)

    def _index_near(self, instant: datetime) -> int:
        """The window's number, from 0 at the anchor, within one or two of the right one."""
        zone = zone_of(self.tz)
        anchor, local = self.anchor.astimezone(zone), instant.astimezone(zone)
        if self.unit in _DAYS:
            return (local.date() - anchor.date()).days // (_DAYS[self.unit] * self.every)
        months = (local.year - anchor.year) * _MONTHS_PER_YEAR + local.month - anchor.month
        return months // (_MONTHS[self.unit] * self.every)

    def _start(self, index: int) -> datetime:
        if index == 0:
            return self.anchor
        zone = zone_of(self.tz)
        anchor = self.anchor.astimezone(zone).replace(tzinfo=None, fold=0)
        count = index * self.every
        if self.unit in _DAYS:
            return to_utc(anchor + timedelta(days=_DAYS[self.unit] * count), zone)
        return to_utc(add_months(anchor, _MONTHS[self.unit] * count), zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedWindow:
    """
    Spans of one fixed length from an anchor, in both directions; no time zone moves them.

    Raises:
        InvalidInput: A field is out of range.
    """

    seconds: int
    anchor: datetime = EPOCH

    def __post_init__(self) -> None:
        _check_range("seconds", self.seconds, SECONDS_MAX)
        object.__setattr__(self, "anchor", _utc_anchor(self.anchor))

    def at(self, instant: datetime) -> Period:
        """The window, in UTC, that holds the aware instant."""
        assert instant.tzinfo is not None
        span = timedelta(seconds=self.seconds)
        start = self.anchor + (instant - self.anchor) // span * span
        return Period(start=start, end=start + span)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingWindow:
    """
    The last `seconds`, counted in equal slices; a slice leaves the count as a whole.

    The current slice and `slices` whole ones before it are counted. A span of `seconds` that
    ends within the current slice begins no earlier than the first of these, so whoever is
    admitted last in a span has seen all others of the span counted. Its own admission kept that
    count within the limit, so the span holds no more than the limit.

    This asks that an amount is counted in the slice of the instant it was decided at. The
    price is caution: an amount counts for up to one slice longer than `seconds`.

    Raises:
        InvalidInput: A field is out of range, or a slice would not be whole milliseconds.
    """

    seconds: int
    slices: int

    def __post_init__(self) -> None:
        _check_range("seconds", self.seconds, SECONDS_MAX)
        _check_range("slices", self.slices, SLICES_MAX)
        if self.seconds * _MS_PER_SECOND % self.slices:
            raise InvalidInput(
                f"{self.seconds} seconds cannot be cut into {self.slices} slices of whole"
                " milliseconds",
                field="slices",
            )

    @property
    def slice_ms(self) -> int:
        """Length of a slice in milliseconds."""
        return self.seconds * _MS_PER_SECOND // self.slices

    def at(self, instant: datetime) -> Period:
        """The slice, in UTC, that holds the aware instant; slices are counted from 1970."""
        assert instant.tzinfo is not None
        start_ms = to_epoch_ms(instant) // self.slice_ms * self.slice_ms
        return Period(start=from_epoch_ms(start_ms), end=from_epoch_ms(start_ms + self.slice_ms))

    def covered(self, instant: datetime) -> Period:
        """
        What counts at the aware instant: its slice and `slices` whole ones before it.

        It reaches back less than `seconds` and one slice from the instant.
        """
        current = self.at(instant)
        return Period(start=current.start - timedelta(seconds=self.seconds), end=current.end)

    def leaves_ms(self, period: Period) -> int:
        """
        Epoch milliseconds of the first instant at which a slice does not count any more.

        Args:
            period: One of this window's slices.
        """
        assert period == self.at(period.start), period
        return period.end_ms + self.seconds * _MS_PER_SECOND


Window = CalendarWindow | AnchoredWindow | FixedWindow | RollingWindow
"""Any kind of window. `at` names the counter that an instant belongs to."""


def _utc_anchor(anchor: datetime) -> datetime:
    """
    The anchor in UTC.

    Two datetimes of one and the same zone are compared and subtracted by their wall clocks, so
    one in a zone that changes its clock would not equal, or measure, what it should.
    """
    if anchor.tzinfo is None or not ANCHOR_MIN <= anchor < ANCHOR_MAX:
        raise InvalidInput(
            f"anchor must have a zone and lie in [{ANCHOR_MIN.date()}, {ANCHOR_MAX.date()})",
            field="anchor",
        )
    anchor = anchor.astimezone(UTC)
    if anchor.microsecond % _MICROSECONDS_PER_MS:
        raise InvalidInput("anchor must be a whole millisecond", field="anchor")
    return anchor


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise InvalidInput(f"{name} must be from 1 to {most}", field=name)
