"""
Windows: half-open [start, end) spans of UTC time, a pure function of a rule and an instant.

Neighbours never overlap and leave no gap, so no reset job exists: the instant alone says
which window it is in.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS_PER_YEAR = 12
_MILLISECOND = timedelta(milliseconds=1)
_HOUR = timedelta(hours=1)


class CalendarUnit(StrEnum):
    """Units that a calendar window can have; a week starts on Monday (ISO 8601)."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Half-open span [start, end) of aware UTC instants."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        assert self.start < self.end, (self.start, self.end)

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    @property
    def start_ms(self) -> int:
        """Epoch milliseconds of the start."""
        return to_epoch_ms(self.start)

    @property
    def end_ms(self) -> int:
        """Epoch milliseconds of the end."""
        return to_epoch_ms(self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarWindow:
    """Calendar hours, days, weeks, months or years of a time zone."""

    unit: CalendarUnit
    tz: str = "UTC"

    def at(self, instant: datetime) -> Period:
        """
        The window that holds the instant.

        Args:
            instant: Aware; any zone.

        Returns:
            The period in UTC. Across a change of daylight saving a day has 23 or 25 hours.
        """
        assert instant.tzinfo is not None
        zone = zone_of(self.tz)
        midnight = instant.astimezone(zone).replace(
            hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0
        )
        unit = CalendarUnit.DAY if self.unit is CalendarUnit.HOUR else self.unit
        first, following = _span(unit, midnight)
        # Where the clock is put back to before midnight, a day has begun at its first midnight;
        # where it is put forward across midnight, the day begins a little after the change.
        while instant >= to_utc(following, zone):
            first, following = _span(unit, following)
        while instant < to_utc(first, zone):
            first, following = _span(unit, first - timedelta(days=1))
        period = Period(start=to_utc(first, zone), end=to_utc(following, zone))
        return _hour_of(period, instant) if self.unit is CalendarUnit.HOUR else period


def _hour_of(day: Period, instant: datetime) -> Period:
    """
    The hour of a local day.

    Hours are counted in UTC from local midnight: local clock arithmetic would fold the
    repeated hour of autumn into one. Where the clock moves by half an hour, the day's last
    window is the shorter one, so that neighbours still meet.
    """
    start = day.start + (instant - day.start) // _HOUR * _HOUR
    return Period(start=start, end=min(start + _HOUR, day.end))


def _span(unit: CalendarUnit, day: datetime) -> tuple[datetime, datetime]:
    """Local midnights that begin the unit around `day` and the one after it."""
    match unit:
        case CalendarUnit.DAY:
            return day, day + timedelta(days=1)
        case CalendarUnit.WEEK:
            first = day - timedelta(days=day.weekday())
            return first, first + timedelta(days=7)
        case CalendarUnit.MONTH:
            first = day.replace(day=1)
            return first, add_months(first, 1)
        case CalendarUnit.YEAR:
            first = day.replace(month=1, day=1)
            return first, first.replace(year=first.year + 1)
        case CalendarUnit.HOUR:
            raise AssertionError(unit)


def add_months(local: datetime, months: int) -> datetime:
    """The same day and time so many months on (or back); a shorter month gives its last day."""
    index = local.year * _MONTHS_PER_YEAR + local.month - 1 + months
    year, month = index // _MONTHS_PER_YEAR, index % _MONTHS_PER_YEAR + 1
    return local.replace(year=year, month=month, day=min(local.day, monthrange(year, month)[1]))


def to_utc(local: datetime, zone: ZoneInfo) -> datetime:
    """
    The UTC instant of a naive local time.

    With `fold=0`, as RFC 5545 reads a local time: one that the clock repeats is the first of the
    two, and one that the clock skips is later by what it skips (02:30 is then 03:30).

    Source: https://www.rfc-editor.org/rfc/rfc5545#section-3.3.5
    """
    return local.replace(tzinfo=zone).astimezone(UTC)


@lru_cache(maxsize=1_000)
def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name; each is read once, for windows are asked for per request."""
    return ZoneInfo(name)


def to_epoch_ms(instant: datetime) -> int:
    """Whole milliseconds since 1970 of an aware instant, rounded down."""
    return (instant - EPOCH) // _MILLISECOND


def from_epoch_ms(epoch_ms: int) -> datetime:
    """The aware UTC instant of whole milliseconds since 1970."""
    return EPOCH + epoch_ms * _MILLISECOND
