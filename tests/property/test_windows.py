"""Anchored, fixed and rolling windows: they meet, keep their anchor, and never admit too much."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta, timezone
from itertools import accumulate
from zoneinfo import ZoneInfo

import pytest
from fixtures.instants import INSTANTS, ZONES, zone_and_instants
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.periods import EPOCH, CalendarUnit, Period, from_epoch_ms, to_epoch_ms
from sidecar.domain.windows import AnchoredWindow, FixedWindow, RollingWindow

DAY, WEEK, MONTH, YEAR = (
    CalendarUnit.DAY, CalendarUnit.WEEK, CalendarUnit.MONTH, CalendarUnit.YEAR,
)  # fmt: skip
MICROSECOND = timedelta(microseconds=1)
UNITS = st.sampled_from([DAY, WEEK, MONTH, YEAR])
EVERY = st.sampled_from([1, 1, 2, 3, 5, 12]) | st.integers(1, 100)
BERLIN, SAMOA = "Europe/Berlin", "Pacific/Apia"


def utc(text: str) -> datetime:
    """The UTC instant of a text that names no zone."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(text: str, zone: str, fold: int = 0) -> datetime:
    """The UTC instant of a local time."""
    naive = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return naive.astimezone(UTC)


def walls(window, first: datetime, count: int) -> list[str]:
    """Local times of that many starts in a row, from the window that holds `first`."""
    found = []
    period = window.at(first)
    for _ in range(count):
        wall = period.start.astimezone(ZoneInfo(window.tz)).replace(tzinfo=None)
        found.append(wall.isoformat(" ", "minutes"))
        period = window.at(period.end)
    return found


@st.composite
def anchored(draw) -> tuple[AnchoredWindow, datetime]:
    zone, anchor, instant = draw(zone_and_instants(2))
    if draw(st.booleans()):
        # A time of day that a change moves: the anchor's wall clock is that of the change.
        near = timedelta(days=draw(st.integers(-400, 400)))
        anchor = max(EPOCH, min(instant + near, utc("2199-12-31")))
    window = AnchoredWindow(anchor=anchor, every=draw(EVERY), unit=draw(UNITS), tz=zone)
    return window, instant


FIXED = st.tuples(
    st.builds(
        FixedWindow,
        seconds=st.integers(1, 100_000) | st.sampled_from([18_000, 86_400, 10**9]),
        anchor=INSTANTS.map(lambda instant: instant.replace(microsecond=0)) | st.just(EPOCH),
    ),
    INSTANTS,
)


@st.composite
def rolling_windows(draw) -> RollingWindow:
    slices = draw(st.integers(1, 12))
    # Slices of 5 ms to a minute and more, uneven to the second too.
    return RollingWindow(seconds=draw(st.integers(1, 20)) * slices, slices=slices * draw(PARTS))


PARTS = st.sampled_from([1, 2, 5, 8])
ROLLING = st.tuples(rolling_windows(), INSTANTS)
SKIPPED_DAY = AnchoredWindow(anchor=utc("2011-12-01T20:00"), unit=DAY, tz=SAMOA)
# A minute after midnight the clock is put back, so that the date is the day's before again.
MIDNIGHT_TWICE = AnchoredWindow(
    anchor=local("2010-01-01", "America/St_Johns"), unit=DAY, tz="America/St_Johns"
)
SECOND_OF_TWO = AnchoredWindow(anchor=local("2026-10-25T02:30", BERLIN, 1), unit=DAY, tz=BERLIN)


@given(anchored() | FIXED | ROLLING, st.integers(0, 999))
@example((SKIPPED_DAY, utc("2011-12-30T20:00")), 0)
@example((SECOND_OF_TWO, utc("2026-10-25T01:00")), 990)
@example((MIDNIGHT_TWICE, utc("2010-11-07T03:00")), 990)
def test_an_instant_is_in_its_window_and_neighbours_meet(case, thousandths) -> None:
    window, instant = case
    period = window.at(instant)
    assert instant in period
    assert window.at(period.end).start == period.end
    assert window.at(period.start - MICROSECOND).end == period.start
    inside = period.start + (period.end - period.start) * thousandths // 1_000
    for other in (period.start, inside, period.end - MICROSECOND):
        assert window.at(other) == period
    assert from_epoch_ms(to_epoch_ms(period.start)) == period.start


@given(anchored() | FIXED | ROLLING, st.integers(-12, 12))
def test_windows_in_a_row_leave_nothing_out(case, steps) -> None:
    window, instant = case
    period = window.at(instant)
    reached = period
    for _ in range(abs(steps)):
        reached = window.at(reached.end if steps > 0 else reached.start - MICROSECOND)
    for _ in range(abs(steps)):
        reached = window.at(reached.start - MICROSECOND if steps > 0 else reached.end)
    assert reached == period


@given(anchored() | FIXED | ROLLING, ZONES)
def test_the_zone_that_an_instant_is_written_in_does_not_matter(case, zone) -> None:
    window, instant = case
    assert window.at(instant.astimezone(ZoneInfo(zone))) == window.at(instant)


@given(anchored())
def test_the_anchor_begins_a_window(case) -> None:
    window, _ = case
    assert window.at(window.anchor).start == window.anchor


@given(anchored())
def test_no_start_is_left_out(case) -> None:
    window, instant = case
    period = window.at(instant)
    longest = timedelta(days={DAY: 1, WEEK: 7, MONTH: 31, YEAR: 366}[window.unit])
    # Half a day for what a clock is put back by.
    assert period.end - period.start <= window.every * longest + timedelta(hours=12)


@given(anchored())
def test_starts_have_the_anchors_day_and_local_time(case) -> None:
    window, instant = case
    zone = ZoneInfo(window.tz)
    anchor = window.anchor.astimezone(zone).replace(tzinfo=None, fold=0)
    start = window.at(instant).start.astimezone(zone).replace(tzinfo=None)
    named = [
        named
        for days in (0, 1)
        if is_step(
            window, anchor, named := datetime.combine(start - timedelta(days), anchor.time())
        )
    ]
    if start in named:
        return
    # The rule names a local time that the clock skipped: the start is later by what it skipped.
    assert start in [wall + skipped_at(wall, zone) for wall in named]


def skipped_at(wall: datetime, zone: ZoneInfo) -> timedelta:
    """What the clock skips around a local time that does not exist; 0 for one that does."""
    before, after = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return max(after - before, timedelta())


def is_step(window, anchor, named) -> bool:
    """Whether the local time is a whole number of steps from the anchor's; a second reading."""
    days = (named.date() - anchor.date()).days
    months = (named.year - anchor.year) * 12 + named.month - anchor.month
    clamped = named.day == min(anchor.day, monthrange(named.year, named.month)[1])
    return {
        DAY: days % window.every == 0,
        WEEK: days % (7 * window.every) == 0,
        MONTH: clamped and months % window.every == 0,
        YEAR: clamped and months % (12 * window.every) == 0,
    }[window.unit]


@pytest.mark.parametrize(
    ("anchor", "every", "unit", "first", "starts"),
    [
        # The 31st comes back after shorter months.
        ("2026-01-31", 1, MONTH, "2026-02-01", "01-31 02-28 03-31 04-30 05-31 06-30 07-31 08-31"),
        ("2027-10-31", 1, MONTH, "2028-02-10", "01-31 02-29 03-31"),
        ("2026-01-30", 1, MONTH, "2026-02-01", "01-30 02-28 03-30"),
        # From a short month the day does not grow.
        ("2026-02-28", 1, MONTH, "2026-03-01", "02-28 03-28 04-28"),
        ("2026-11-30", 3, MONTH, "2026-12-01", "11-30 02-28 05-30 08-30"),
        # Before the anchor.
        ("2026-08-31", 1, MONTH, "2024-02-15", "01-31 02-29 03-31 04-30"),
        ("2028-02-29", 1, YEAR, "2025-01-01", "02-29 02-28 02-28 02-28 02-29 02-28"),
        ("2024-02-29", 4, YEAR, "2030-01-01", "02-29 02-29"),
        ("2026-01-07", 2, WEEK, "2026-01-21", "01-21 02-04 02-18"),
        ("2026-01-07", 2, WEEK, "2026-01-06", "12-24 01-07"),
        ("2026-01-01", 10, DAY, "2025-12-31", "12-22 01-01 01-11"),
    ],
)
def test_starts_from_an_anchor(anchor, every, unit, first, starts) -> None:
    window = AnchoredWindow(anchor=utc(anchor), every=every, unit=unit)
    expected = starts.split()
    assert [wall[5:10] for wall in walls(window, utc(first), len(expected))] == expected


@pytest.mark.parametrize(
    ("zone", "anchor", "first", "starts"),
    [
        # 02:30 is skipped on 29 March, and comes twice on 25 October.
        (BERLIN, "2026-03-01T02:30", "2026-03-28T12:00", "28 02:30, 29 03:30, 30 02:30"),
        (BERLIN, "2026-03-01T02:30", "2026-10-24T12:00", "24 02:30, 25 02:30, 26 02:30"),
        ("Australia/Lord_Howe", "2026-09-01T02:15", "2026-10-03T12:00", "03 02:15, 04 02:45"),
        ("America/Sao_Paulo", "2018-10-01T00:00", "2018-11-03T12:00", "03 00:00, 04 01:00"),
        (SAMOA, "2011-12-01T10:00", "2011-12-28T12:00", "28 10:00, 29 10:00, 31 10:00, 01 10:00"),
        ("Asia/Kathmandu", "2026-01-01T00:00", "2026-05-01T12:00", "01 00:00, 02 00:00"),
        ("Africa/Casablanca", "2026-01-01T02:30", "2026-03-21T12:00", "21 02:30, 22 03:30"),
    ],
)  # fmt: skip
def test_days_across_changes_of_the_clock(zone, anchor, first, starts) -> None:
    window = AnchoredWindow(anchor=local(anchor, zone), unit=DAY, tz=zone)
    expected = starts.split(", ")
    assert [wall[8:] for wall in walls(window, local(first, zone), len(expected))] == expected


@pytest.mark.parametrize(
    ("zone", "anchor", "instant", "hours"),
    [
        (BERLIN, "2026-01-01T12:00", "2026-03-29T06:00", 23),
        (BERLIN, "2026-01-01T12:00", "2026-10-25T06:00", 25),
        (BERLIN, "2026-01-01T12:00", "2026-10-25T16:00", 24),
        ("UTC", "2026-01-01T12:00", "2026-10-25T06:00", 24),
        ("Australia/Lord_Howe", "2026-01-01T12:00", "2026-10-04T06:00", 23.5),
        ("Australia/Lord_Howe", "2026-01-01T12:00", "2026-04-05T06:00", 24.5),
        # The first of two equal local times begins the day, the second does not.
        (BERLIN, "2026-01-01T02:30", "2026-10-25T12:00", 25),
        (BERLIN, "2026-01-01T02:30", "2026-10-24T12:00", 24),
        # The day that Samoa left out is no window, and makes none longer.
        (SAMOA, "2011-12-01T10:00", "2011-12-29T12:00", 24),
    ],
)
def test_lengths_of_days_across_changes_of_the_clock(zone, anchor, instant, hours) -> None:
    window = AnchoredWindow(anchor=local(anchor, zone), unit=DAY, tz=zone)
    period = window.at(local(instant, zone))
    assert period.end - period.start == timedelta(hours=hours)


def test_an_anchor_at_the_second_of_two_equal_local_times_is_kept() -> None:
    period = SECOND_OF_TWO.at(SECOND_OF_TWO.anchor)
    assert period.start == utc("2026-10-25T01:30")
    assert period.end == utc("2026-10-26T01:30")
    # Other years' starts are the first of the two.
    yearly = AnchoredWindow(anchor=utc("2020-10-25T01:30"), unit=YEAR, tz=BERLIN)
    assert yearly.at(utc("2026-12-01")).start == utc("2026-10-25T00:30")


def test_anchors_that_are_one_instant_make_equal_windows_and_others_do_not() -> None:
    zone = ZoneInfo(BERLIN)
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold) for fold in (0, 1))
    assert FixedWindow(seconds=60, anchor=first) != FixedWindow(seconds=60, anchor=second)
    in_utc = AnchoredWindow(anchor=utc("2026-10-25T00:30"), unit=DAY)
    assert {AnchoredWindow(anchor=first, unit=DAY)} == {in_utc}


def test_fixed_windows_run_on_through_a_change_of_the_clock() -> None:
    zone = ZoneInfo(BERLIN)
    window = FixedWindow(seconds=5 * 3_600, anchor=datetime(2026, 3, 28, 22, tzinfo=zone))
    period = window.at(datetime(2026, 3, 29, 3, 30, tzinfo=zone))
    assert period == Period(start=utc("2026-03-28T21:00"), end=utc("2026-03-29T02:00"))
    assert window.at(utc("2026-03-28T20:59")).start == utc("2026-03-28T16:00")


@given(FIXED)
def test_fixed_windows_are_whole_spans_from_the_anchor(case) -> None:
    window, instant = case
    period, span = window.at(instant), timedelta(seconds=window.seconds)
    assert period.end - period.start == span
    assert (period.start - window.anchor) % span == timedelta()


@given(ROLLING)
def test_a_slice_counts_while_it_is_covered_and_not_after(case) -> None:
    window, instant = case
    counted, covered = window.at(instant), window.covered(instant)
    slice_length = counted.end - counted.start
    assert slice_length * window.slices == timedelta(seconds=window.seconds)
    assert covered.end == counted.end
    assert covered.start == counted.start - window.slices * slice_length
    reach = instant - covered.start
    assert timedelta(seconds=window.seconds) <= reach
    assert reach < timedelta(seconds=window.seconds) + slice_length
    leaves = from_epoch_ms(window.leaves_ms(counted))
    assert window.covered(leaves - MICROSECOND).start == counted.start
    assert window.covered(leaves).start == counted.end


@st.composite
def arrivals(draw) -> tuple[RollingWindow, list[tuple[int, int]]]:
    """A window, and requests as (milliseconds, amount) in the order of their instants."""
    window = draw(rolling_windows())
    part = window.slice_ms
    gap = st.integers(0, 2 * part) | st.sampled_from(
        [0, 1, part - 1, part, part + 1, window.seconds * 1_000 - 1, window.seconds * 1_000]
    )
    first = draw(st.integers(0, 2 * part))
    gaps = draw(st.lists(gap, min_size=1, max_size=60))
    amounts = draw(st.lists(st.integers(1, 3), min_size=len(gaps), max_size=len(gaps)))
    return window, list(zip(accumulate(gaps, initial=first), amounts, strict=False))


@given(arrivals(), st.integers(1, 8))
@example((RollingWindow(seconds=10, slices=2), [(4_999, 1), (10_000, 1), (15_000, 1)]), 1)
def test_no_span_of_a_rolling_window_holds_more_than_the_limit(case, limit) -> None:
    window, requests = case
    counts: dict[int, int] = {}
    admitted: list[tuple[int, int]] = []
    for at_ms, amount in requests:
        covered = window.covered(from_epoch_ms(at_ms))
        used = sum(
            count
            for start_ms, count in counts.items()
            if covered.start_ms <= start_ms < covered.end_ms
        )
        if used + amount <= limit:
            start_ms = window.at(from_epoch_ms(at_ms)).start_ms
            counts[start_ms] = counts.get(start_ms, 0) + amount
            admitted.append((at_ms, amount))
    for start_ms, _ in admitted:
        # Both ends are in: more than the half-open span asks.
        end_ms = start_ms + window.seconds * 1_000
        assert sum(amount for ms, amount in admitted if start_ms <= ms <= end_ms) <= limit


def test_a_rolling_limit_is_free_again_after_the_window_and_one_slice() -> None:
    window = RollingWindow(seconds=10, slices=2)
    assert window.at(from_epoch_ms(4_999)) == Period(start=EPOCH, end=from_epoch_ms(5_000))
    assert window.covered(from_epoch_ms(14_999)).start_ms == 0
    assert window.covered(from_epoch_ms(15_000)).start_ms == 5_000
    assert window.leaves_ms(window.at(from_epoch_ms(4_999))) == 15_000


@pytest.mark.parametrize(
    ("field", "build"),
    [
        ("every", lambda: AnchoredWindow(anchor=EPOCH, every=0, unit=DAY)),
        ("every", lambda: AnchoredWindow(anchor=EPOCH, every=1_001, unit=DAY)),
        ("unit", lambda: AnchoredWindow(anchor=EPOCH, unit=CalendarUnit.HOUR)),
        ("tz", lambda: AnchoredWindow(anchor=EPOCH, unit=DAY, tz="Nowhere/Else")),
        ("tz", lambda: AnchoredWindow(anchor=EPOCH, unit=DAY, tz="../UTC")),
        ("tz", lambda: AnchoredWindow(anchor=EPOCH, unit=DAY, tz="America")),
        ("anchor", lambda: AnchoredWindow(anchor=EPOCH.replace(tzinfo=None), unit=DAY)),
        ("anchor", lambda: AnchoredWindow(anchor=EPOCH - MICROSECOND, unit=DAY)),
        ("anchor", lambda: AnchoredWindow(anchor=utc("2200-01-01"), unit=DAY)),
        ("anchor", lambda: FixedWindow(seconds=1, anchor=EPOCH + MICROSECOND)),
        ("anchor", lambda: FixedWindow(
            seconds=1, anchor=datetime(2026, 1, 1, tzinfo=timezone(MICROSECOND)))),
        ("seconds", lambda: FixedWindow(seconds=0)),
        ("seconds", lambda: RollingWindow(seconds=0, slices=1)),
        ("slices", lambda: RollingWindow(seconds=60, slices=0)),
        ("slices", lambda: RollingWindow(seconds=60, slices=1_001)),
        ("slices", lambda: RollingWindow(seconds=1, slices=3)),
    ],
)  # fmt: skip
def test_fields_out_of_range_are_refused(field, build) -> None:
    with pytest.raises(InvalidInput) as caught:
        build()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "window",
    [
        AnchoredWindow(anchor=utc("2199-12-31"), every=1_000, unit=YEAR, tz="Asia/Tokyo"),
        AnchoredWindow(anchor=EPOCH, every=1_000, unit=YEAR, tz="America/New_York"),
        FixedWindow(seconds=100 * 366 * 86_400, anchor=utc("2199-12-31")),
    ],
)
def test_the_widest_windows_stay_within_what_a_datetime_can_say(window) -> None:
    for instant in (EPOCH, utc("2105-01-01"), utc("2199-12-31")):
        assert instant in window.at(instant)
