"""Whatever a provider counted, its sum is right once mended, or people hear of it."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.report_reconciliation import (
    EXACT_MAX,
    ReportedRow,
    agrees,
    expected_sum,
    judge_hour,
    judge_hours,
    pick,
)

HOUR = datetime(2026, 11, 20, 10, tzinfo=UTC)
QUANTITIES = st.integers(min_value=1, max_value=10**9)


@st.composite
def reported(draw):
    """Rows, and how many copies of each the provider has counted."""
    rows = []
    counted = []
    for number in range(draw(st.integers(0, 8))):
        copies = draw(st.integers(0, 2))
        row = ReportedRow(
            row_id=number + 1,
            hour=HOUR,
            quantity=draw(st.one_of(QUANTITIES, st.integers(1, 4))),
            sure=draw(st.booleans()),
            copies=copies,
            cancellable=draw(st.booleans()),
        )
        rows.append(row)
        counted.append(draw(st.integers(0, 1 + copies)))
    return rows, counted


def mended(rows, found, verdict) -> Decimal:
    """What the provider says once the verdict was carried out."""
    quantities = {row.row_id: row.quantity for row in rows}
    return (
        found
        + sum(quantities[number] for number in verdict.resend)
        - sum(quantities[number] for number in verdict.cancel)
        + verdict.correct
    )


@given(reported())
def test_what_is_mended_makes_the_sum_right(case):
    rows, counted = case
    found = Decimal(sum(row.quantity * count for row, count in zip(rows, counted, strict=True)))
    verdict = judge_hour(HOUR, rows, found)
    if verdict.explained:
        assert mended(rows, found, verdict) == expected_sum(rows)
        cancellable = {row.row_id for row in rows if row.cancellable and row.copies}
        assert set(verdict.cancel) <= cancellable
        assert len(set(verdict.cancel)) == len(verdict.cancel)
        doubted = {row.row_id for row in rows if not row.sure}
        assert set(verdict.confirm) <= doubted
        assert doubted <= {*verdict.confirm, *verdict.resend}
        assert not {*verdict.confirm} & {*verdict.resend}


@given(reported(), st.data())
def test_what_was_counted_once_or_never_is_always_explained(case, data):
    rows, _ = case
    counted = [row for row in rows if data.draw(st.booleans())]
    found = Decimal(sum(row.quantity for row in counted))
    verdict = judge_hour(HOUR, rows, found)
    assert verdict.explained
    assert mended(rows, found, verdict) == expected_sum(rows)
    assert verdict.same == (found == expected_sum(rows))


@given(reported(), st.data())
def test_what_was_counted_twice_and_never_missed_is_always_explained(case, data):
    rows, _ = case
    extra = [row for row in rows if row.copies and data.draw(st.booleans())]
    found = Decimal(expected_sum(rows) + sum(row.quantity for row in extra))
    verdict = judge_hour(HOUR, rows, found)
    assert verdict.explained
    assert not verdict.resend
    assert mended(rows, found, verdict) == expected_sum(rows)


@given(st.lists(st.integers(-50, 50), max_size=10), st.integers(-200, 200))
def test_a_choice_sums_to_what_is_wanted_and_is_found_if_there_is_one(quantities, wanted):
    reachable: set[int] = set()
    for quantity in quantities:
        reachable |= {known + quantity for known in reachable | {0}}
    chosen = pick(quantities, wanted)
    if chosen is None:
        assert wanted not in reachable
    else:
        assert sum(quantities[place] for place in chosen) == wanted
        assert chosen


@given(
    st.lists(QUANTITIES, min_size=20, max_size=60),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=3),
)
@settings(max_examples=25)
def test_up_to_three_rows_are_found_among_any_number_of_an_hour(quantities, numbers):
    """One customer's hour has a row for each time that its usage was sealed."""
    lost = {number % len(quantities) for number in numbers}
    wanted = sum(quantities[place] for place in lost)
    chosen = pick(quantities, wanted)
    assert chosen is not None
    assert len(set(chosen)) == len(chosen)
    assert sum(quantities[place] for place in chosen) == wanted


def test_a_row_that_was_lost_among_a_thousand_of_an_hour_is_the_one_that_is_found():
    quantities = [3**place % 1_000_003 for place in range(1, 1_001)]
    assert pick(quantities, quantities[700]) == (700,)


def test_a_sum_that_a_float_cannot_tell_exactly_is_not_judged():
    row = ReportedRow(row_id=1, hour=HOUR, quantity=EXACT_MAX + 1, sure=False)
    found = Decimal(str(float(EXACT_MAX + 1)))
    assert not agrees([row], found)
    assert not judge_hour(HOUR, [row], found).explained


def test_a_foreign_event_is_left_to_people():
    row = ReportedRow(row_id=1, hour=HOUR, quantity=5)
    verdict = judge_hour(HOUR, [row], Decimal(12))
    assert not verdict.explained
    assert (verdict.cancel, verdict.resend, verdict.correct) == ((), (), 0)


def test_a_correction_that_was_not_counted_is_sent_again():
    rows = [
        ReportedRow(row_id=1, hour=HOUR, quantity=10),
        ReportedRow(row_id=2, hour=HOUR, quantity=-4, sure=False, correction=True),
    ]
    # Four too many were counted, which is what the correction is there for.
    assert judge_hour(HOUR, rows, Decimal(14)).resend == (2,)
    assert judge_hour(HOUR, rows, Decimal(10)).confirm == (2,)


def test_an_hour_that_only_the_provider_knows_is_judged_too():
    other = HOUR.replace(hour=11)
    row = ReportedRow(row_id=1, hour=HOUR, quantity=5)
    first, second = judge_hours([row], {HOUR: Decimal(5), other: Decimal(3)})
    assert first.same
    assert not second.explained
