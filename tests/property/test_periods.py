"""Windows: neighbours meet, none overlap, across each change of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from fixtures.instants import INSTANTS, ZONES, zone_and_instants
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.domain.periods import (
    CalendarUnit,
    CalendarWindow,
    Period,
    from_epoch_ms,
    to_epoch_ms,
)

CASES = zone_and_instants().flatmap(
    lambda pair: st.tuples(
        st.builds(CalendarWindow, unit=st.sampled_from(CalendarUnit), tz=st.just(pair[0])),
        st.just(pair[1]) | INSTANTS,
    )
)
# Half an hour is taken back here, so that the hours of that day do not meet the day's end.
LORD_HOWE = CalendarWindow(unit=CalendarUnit.HOUR, tz="Australia/Lord_Howe")
LORD_HOWE_SPRING = datetime(2026, 10, 3, 15, 45, tzinfo=UTC)


@given(CASES)
@example((LORD_HOWE, LORD_HOWE_SPRING))
def test_an_instant_is_in_its_window_and_neighbours_meet(case) -> None:
    window, instant = case
    period = window.at(instant)
    assert instant in period
    assert window.at(period.start) == period
    assert window.at(period.end).start == period.end
    assert window.at(period.start - timedelta(microseconds=1)).end == period.start
    assert period.end not in period


@given(CASES, st.integers(0, 999_999))
@example((LORD_HOWE, LORD_HOWE_SPRING), 990_000)
def test_each_instant_of_a_window_gives_that_window(case, millionths) -> None:
    window, instant = case
    period = window.at(instant)
    inside = period.start + (period.end - period.start) * millionths // 1_000_000
    assert window.at(inside) == period


@given(CASES, ZONES)
def test_the_zone_that_an_instant_is_written_in_does_not_matter(case, zone) -> None:
    window, instant = case
    assert window.at(instant.astimezone(ZoneInfo(zone))) == window.at(instant)


@given(INSTANTS, ZONES)
def test_days_weeks_months_and_years_begin_where_the_local_calendar_says(instant, zone) -> None:
    local = instant.astimezone(ZoneInfo(zone))
    first_days = {
        CalendarUnit.DAY: local.date(),
        CalendarUnit.WEEK: local.date() - timedelta(days=local.weekday()),
        CalendarUnit.MONTH: local.date().replace(day=1),
        CalendarUnit.YEAR: local.date().replace(month=1, day=1),
    }
    for unit, day in first_days.items():
        start = CalendarWindow(unit=unit, tz=zone).at(instant).start
        before = start - timedelta(microseconds=1)
        # Where that midnight, or the whole day, is skipped, the window begins with what follows.
        assert start.astimezone(ZoneInfo(zone)).date() >= day
        assert before.astimezone(ZoneInfo(zone)).date() < day


@given(INSTANTS)
def test_epoch_milliseconds_go_there_and_back_rounding_down(instant) -> None:
    back = from_epoch_ms(to_epoch_ms(instant))
    assert timedelta() <= instant - back < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("unit", "tz", "instant", "hours"),
    [
        (CalendarUnit.DAY, "Europe/Berlin", "2026-03-29T10:00:00+00:00", 23),
        (CalendarUnit.DAY, "Europe/Berlin", "2026-10-25T10:00:00+00:00", 25),
        (CalendarUnit.DAY, "UTC", "2026-10-25T10:00:00+00:00", 24),
        (CalendarUnit.WEEK, "America/New_York", "2026-03-08T10:00:00+00:00", 167),
        (CalendarUnit.MONTH, "UTC", "2028-02-10T00:00:00+00:00", 29 * 24),
        (CalendarUnit.YEAR, "UTC", "2028-02-10T00:00:00+00:00", 366 * 24),
        (CalendarUnit.HOUR, "Europe/Berlin", "2026-10-25T00:30:00+00:00", 1),
        (CalendarUnit.HOUR, "Australia/Lord_Howe", "2026-10-03T15:45:00+00:00", 1),
        (CalendarUnit.HOUR, "Australia/Lord_Howe", "2026-10-04T12:45:00+00:00", 0.5),
    ],
)
def test_lengths_across_changes_of_the_clock(unit, tz, instant, hours) -> None:
    period = CalendarWindow(unit=unit, tz=tz).at(datetime.fromisoformat(instant))
    assert period.end - period.start == timedelta(hours=hours)


def test_a_day_begins_at_its_first_midnight_only() -> None:
    # One minute after midnight the clock was put back to 23:01.
    window = CalendarWindow(unit=CalendarUnit.DAY, tz="America/St_Johns")
    midnight = datetime(2010, 11, 7, 2, 30, tzinfo=UTC)
    for minutes in (0, 1, 30, 61):
        assert window.at(midnight + timedelta(minutes=minutes)).start == midnight
    hour = CalendarWindow(unit=CalendarUnit.HOUR, tz=window.tz).at(midnight + timedelta(minutes=30))
    assert hour == Period(start=midnight, end=midnight + timedelta(hours=1))


def test_a_day_whose_midnight_is_skipped_begins_after_the_change() -> None:
    # At 23:30 the clock was put forward to 00:30; the first half hour is still the old day.
    window = CalendarWindow(unit=CalendarUnit.DAY, tz="America/Toronto")
    change = datetime(1919, 3, 31, 4, 30, tzinfo=UTC)
    start = change + timedelta(minutes=30)
    assert window.at(change).end == window.at(start - timedelta(microseconds=1)).end == start
    assert window.at(start).start == start


def test_the_hour_that_autumn_repeats_is_two_windows() -> None:
    window = CalendarWindow(unit=CalendarUnit.HOUR, tz="Europe/Berlin")
    first = window.at(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    second = window.at(datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    assert first.end == second.start


def test_hours_begin_at_the_zones_own_half_hours() -> None:
    window = CalendarWindow(unit=CalendarUnit.HOUR, tz="Asia/Kolkata")
    assert window.at(datetime(2026, 5, 1, 0, 45, tzinfo=UTC)) == Period(
        start=datetime(2026, 5, 1, 0, 30, tzinfo=UTC), end=datetime(2026, 5, 1, 1, 30, tzinfo=UTC)
    )
