"""Recurring grants: which periods they cover, and what is given for each."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.grants import Rollover
from sidecar.domain.periods import CalendarUnit
from sidecar.domain.schedules import GrantSchedule, check_schedule, issue_next

ANCHOR = datetime(2026, 1, 31, 12, tzinfo=UTC)
MONTHLY = GrantSchedule(
    schedule_id="grs_1",
    customer_id="cus_a",
    amount_nano=10,
    currency="USD",
    unit=CalendarUnit.MONTH,
    anchor=ANCHOR,
    starts_at=ANCHOR,
    rolls_least_nano=1,
    rolls_most_nano=5,
    next_start=ANCHOR,
)


def issued(schedule: GrantSchedule, now: datetime, count: int):
    terms = []
    while schedule.next_start is not None and len(terms) < count:
        issue = issue_next(schedule, now)
        terms += [] if issue.terms is None else [issue.terms]
        schedule = replace(schedule, next_start=issue.next_start)
    return terms


def test_the_31st_is_the_last_day_of_a_shorter_month_and_comes_back():
    starts = [terms.effective_at.day for terms in issued(MONTHLY, ANCHOR, 5)]
    assert starts == [31, 28, 31, 30, 31]


def test_a_period_in_a_zone_keeps_the_local_hour_across_daylight_saving():
    anchor = datetime(2026, 3, 28, 8, tzinfo=UTC)
    schedule = replace(
        MONTHLY,
        unit=CalendarUnit.DAY,
        tz="Europe/Berlin",
        anchor=anchor,
        starts_at=anchor,
        next_start=anchor,
    )
    assert [terms.effective_at.hour for terms in issued(schedule, anchor, 2)] == [8, 7]


units = st.sampled_from([unit for unit in CalendarUnit if unit is not CalendarUnit.HOUR])


@given(
    unit=units,
    every=st.integers(1, 5),
    tz=st.sampled_from(["UTC", "America/New_York", "Pacific/Apia"]),
    days=st.integers(0, 20_000),
    least=st.integers(0, 5),
)
def test_grants_meet_without_gap_or_overlap_and_name_the_one_before(unit, every, tz, days, least):
    anchor = datetime(2000, 1, 31, 23, 30, tzinfo=UTC) + timedelta(days=days)
    schedule = replace(
        MONTHLY,
        unit=unit,
        every=every,
        tz=tz,
        anchor=anchor,
        starts_at=anchor,
        next_start=anchor,
        rolls_least_nano=least,
    )
    check_schedule(schedule)
    terms = issued(schedule, anchor, 6)
    assert terms[0].effective_at == anchor
    assert terms[0].rollover is None
    for before, after in pairwise(terms):
        assert before.effective_at < before.expires_at == after.effective_at
        assert after.rollover == Rollover(
            from_grant_id=before.grant_id, least_nano=least, most_nano=5
        )
        assert schedule.due_at(after.effective_at) == before.effective_at
    assert len({one.grant_id for one in terms}) == len(terms)


def test_the_first_occurrence_starts_with_the_schedule_or_after_it():
    assert MONTHLY.first_start() == ANCHOR
    later = replace(MONTHLY, starts_at=ANCHOR + timedelta(microseconds=1))
    assert later.first_start() == datetime(2026, 2, 28, 12, tzinfo=UTC)
    earlier = replace(MONTHLY, starts_at=ANCHOR - timedelta(days=40))
    assert earlier.first_start() == datetime(2025, 12, 31, 12, tzinfo=UTC)


def test_an_end_is_not_part_of_the_schedule_and_cuts_no_period():
    march = datetime(2026, 3, 31, 12, tzinfo=UTC)
    terms = issued(replace(MONTHLY, ends_at=march), ANCHOR, 9)
    assert [one.effective_at.month for one in terms] == [1, 2]
    assert terms[-1].expires_at == march
    terms = issued(replace(MONTHLY, ends_at=march + timedelta(seconds=1)), ANCHOR, 9)
    assert terms[-1].expires_at == datetime(2026, 4, 30, 12, tzinfo=UTC)


def test_periods_that_ended_before_anybody_issued_them_are_left_out():
    now = datetime(2030, 7, 31, 12, tzinfo=UTC)
    terms = issued(MONTHLY, now, 1)
    assert terms[0].effective_at == now
    before = issued(MONTHLY, now - timedelta(microseconds=1), 1)
    assert before[0].expires_at == now


def test_a_schedule_that_ended_meanwhile_gives_nothing_more():
    ended = replace(MONTHLY, ends_at=datetime(2026, 3, 1, tzinfo=UTC))
    issue = issue_next(ended, datetime(2030, 1, 1, tzinfo=UTC))
    assert (issue.terms, issue.next_start) == (None, None)
    assert issue_next(replace(MONTHLY, next_start=None), ANCHOR).terms is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schedule_id": ""}, "id"),
        ({"schedule_id": "s" * 201}, "id"),
        ({"schedule_id": "with blank"}, "id"),
        ({"amount_nano": 0}, "amount"),
        ({"unit": CalendarUnit.HOUR}, "unit"),
        ({"every": 0}, "every"),
        ({"tz": "Mars/Olympus"}, "tz"),
        ({"anchor": ANCHOR.replace(tzinfo=None)}, "anchor"),
        ({"ends_at": ANCHOR}, "ends_at"),
        ({"rolls_least_nano": 6}, "rollover"),
        ({"rolls_least_nano": -1}, "rollover"),
        ({"priority": 101}, "priority"),
        ({"meters": ("a", "a")}, "meters"),
    ],
)
def test_what_cannot_be_given_is_refused(change, field):
    with pytest.raises(InvalidInput) as caught:
        check_schedule(replace(MONTHLY, **change))
    assert caught.value.field == field
