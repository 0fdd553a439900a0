"""Windows: neighbours meet, none overlap, across each change of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.domain.periods import (
    CalendarUnit,
    CalendarWindow,
    Period,
    from_epoch_ms,
    to_epoch_ms,
)

ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana",
     "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo",
     "Africa/Casablanca", "Asia/Beirut", "Antarctica/Troll"]
) | st.sampled_from(sorted(available_timezones() - {"localtime"}))  # fmt: skip
INSTANTS = st.datetimes(datetime(2012, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  Hypothesis adds the zone.
WINDOWS = st.builds(CalendarWindow, unit=st.sampled_from(CalendarUnit), tz=ZONES)
# Half an hour is taken back here, so that the hours of that day do not meet the day's end.
LORD_HOWE = CalendarWindow(unit=CalendarUnit.HOUR, tz="Australia/Lord_Howe")
LORD_HOWE_SPRING = datetime(2026, 10, 3, 15, 45, tzinfo=UTC)


@given(WINDOWS, INSTANTS)
@example(LORD_HOWE, LORD_HOWE_SPRING)
def test_an_instant_is_in_its_window_and_neighbours_meet(window, instant) -> None:
    period = window.at(instant)
    assert instant in period
    assert window.at(period.start) == period
    assert window.at(period.end).start == period.end
    assert window.at(period.start - timedelta(microseconds=1)).end == period.start
    assert period.end not in period


@given(WINDOWS, INSTANTS, st.integers(0, 999_999))
@example(LORD_HOWE, LORD_HOWE_SPRING, 990_000)
def test_each_instant_of_a_window_gives_that_window(window, instant, millionths) -> None:
    period = window.at(instant)
    inside = period.start + (period.end - period.start) * millionths // 1_000_000
    assert window.at(inside) == period


@given(WINDOWS, INSTANTS, ZONES)
def test_the_zone_that_an_instant_is_written_in_does_not_matter(window, instant, zone) -> None:
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
