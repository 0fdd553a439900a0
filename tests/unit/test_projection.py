"""Projected exhaustion: the formula of `projection`, against exact arithmetic."""

from datetime import datetime, timedelta
from fractions import Fraction

from fixtures.notice_parts import AT
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.projection import SPAN_MIN, UsedSample, seconds_left

HOUR = timedelta(hours=1)
amounts = st.integers(1, 4 * 10**18)
ages = st.integers(3_600, 40 * 86_400)


def sample(age_seconds: int, used_nano: int) -> UsedSample:
    return UsedSample(at=AT - timedelta(seconds=age_seconds), used_nano=used_nano)


def lasts(available: int, used: int, *samples: UsedSample, now: datetime = AT) -> int | None:
    return seconds_left(available, used, samples, now)


def test_the_pace_of_a_day_is_carried_on():
    assert lasts(7_200, 2_400, sample(24 * 3_600, 0)) == 72 * 3_600


def test_the_shorter_of_two_estimates_counts():
    day, week = sample(86_400, 900), sample(7 * 86_400, 0)
    assert lasts(1_000, 1_000, day, week) == lasts(1_000, 1_000, week) == 7 * 86_400
    assert lasts(1_000, 1_000, sample(86_400, 500), week) == 2 * 86_400


def test_nothing_used_or_nothing_known_lasts_for_as_long_as_one_can_tell():
    assert lasts(1, 5) is None
    assert lasts(1, 5, sample(86_400, 5)) is None
    # A correction may give back more than was used since.
    assert lasts(1, 5, sample(86_400, 9)) is None
    assert lasts(1, 5, sample(int(SPAN_MIN.total_seconds()) - 1, 0)) is None


def test_what_is_used_up_lasts_no_second():
    assert lasts(0, 5) == lasts(-3, 5, sample(86_400, 0)) == 0


@given(amounts, amounts, st.lists(st.tuples(ages, st.integers(0, 4 * 10**18)), max_size=2))
def test_the_estimate_is_the_exact_quotient_rounded_down(available, used, windows):
    samples = [sample(age, before) for age, before in windows]
    exact = [Fraction(available * age, used - before) for age, before in windows if used > before]
    found = seconds_left(available, used, samples, AT)
    if not exact:
        assert found is None
    else:
        assert found is not None
        assert found <= min(exact) < found + 1


@given(amounts, amounts, ages, st.integers(0, 10**18))
def test_more_credit_never_lasts_shorter_and_more_usage_never_longer(available, used, age, more):
    before = sample(age, 0)
    base = lasts(available, used, before)
    assert lasts(available + more, used, before) >= base
    assert lasts(available, used + more, before) <= base
