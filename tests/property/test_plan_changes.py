"""Fees of a period in which a customer changes plans, as often as may be."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.card_schedules import Timeline
from sidecar.domain.invoice_charges import charges_of
from sidecar.domain.invoices import Charge
from sidecar.domain.periods import Period
from sidecar.domain.plan_history import PlanStart, cards_within, plan_spans
from sidecar.domain.pricing import Billing, Flat, Minimum, OnChange, PriceLine, RateCard

PERIOD = Period(start=datetime(2026, 6, 1, tzinfo=UTC), end=datetime(2026, 7, 1, tzinfo=UTC))
LENGTH = (PERIOD.end - PERIOD.start) // timedelta(microseconds=1)
_amounts = st.integers(0, 10**13) | st.integers(0, 20)
_plans = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(_amounts, _amounts), min_size=1, max_size=4
)
# Also before the period, at its edges and after it.
_instants = st.integers(-LENGTH // 10, LENGTH + LENGTH // 10) | st.sampled_from([0, 1, LENGTH])
_histories = st.lists(st.tuples(_instants, st.integers(0, 3)), min_size=1, max_size=8)


def card(plan: str, flat: int, minimum: int, on_change: OnChange) -> RateCard:
    return RateCard(
        plan=plan,
        billing=Billing.POSTPAID,
        currency="USD",
        lines=(
            PriceLine(meter="", price=Flat(amount_nano=flat)),
            PriceLine(meter="", price=Minimum(amount_nano=minimum)),
        ),
        meters={},
        on_change=on_change,
    )


def history_of(told: list[tuple[int, int]], plans: list[str]) -> list[PlanStart]:
    found = {at: plans[number % len(plans)] for at, number in told}
    return [
        PlanStart(since=PERIOD.start + timedelta(microseconds=at), plan=plan)
        for at, plan in sorted(found.items())
    ]


def charged(history: list[PlanStart], cards: dict[str, RateCard]) -> list[Charge]:
    spans = plan_spans(history, PERIOD)
    in_force = cards_within(spans, lambda plan: Timeline(cards=(cards[plan],)))
    return charges_of(PERIOD, list(in_force), {}, [])


def sum_of(charges: list[Charge], kind: type) -> int:
    return sum(
        one.amount_nano for one in charges if isinstance(one.card.lines[one.index].price, kind)
    )


@given(_histories, st.sampled_from("abc"))
def test_the_plans_of_a_period_fill_it_without_gap_or_overlap(told, other) -> None:
    history = history_of(told, ["a", "b", other, "d"])
    spans = plan_spans(history, PERIOD)
    edge = PERIOD.start
    for plan, span in spans:
        assert span.start == edge
        edge = span.end
        # Whoever began last before an instant counts at it; the first one since ever.
        begun = [start for start in history if start.since <= span.start] or history[:1]
        assert begun[-1].plan == plan
    assert edge == PERIOD.end
    assert all(one[0] != next_[0] for one, next_ in pairwise(spans))


@given(_plans, _histories, st.sampled_from(OnChange))
def test_fees_of_all_plans_are_no_more_than_those_of_the_dearest(fees, told, on_change) -> None:
    cards = {plan: card(plan, *of, on_change) for plan, of in fees.items()}
    history = history_of(told, sorted(cards))
    charges = charged(history, cards)
    assert charges == charged(history, cards)
    spans = plan_spans(history, PERIOD)
    had = {plan for plan, _ in spans}
    flats = [fees[plan][0] for plan in had]
    flat = sum_of(charges, Flat)
    assert min(flats) <= flat <= max(flats)
    assert sum_of(charges, Minimum) <= max(fees[plan][1] for plan in had)
    if len(had) == 1:
        assert flat == flats[0]
        assert sum_of(charges, Minimum) == max(0, fees[had.pop()][1] - flat)
    elif on_change is OnChange.CARRY:
        assert flat == fees[spans[-1][0]][0]
    else:
        exact = sum(
            Fraction(fees[plan][0] * ((span.end - span.start) // timedelta(microseconds=1)), LENGTH)
            for plan, span in spans
        )
        assert 0 <= exact - flat < 1  # Rounded down once, however many changes there were.


@given(_amounts, _histories, st.sampled_from(OnChange))
def test_plans_with_the_same_fees_charge_what_one_of_them_does(amount, told, on_change) -> None:
    cards = {plan: card(plan, amount, 0, on_change) for plan in "abc"}
    assert sum_of(charged(history_of(told, [*"abc"]), cards), Flat) == amount


def test_each_plan_s_part_is_that_of_its_time() -> None:
    day = timedelta(days=1)
    history = [
        PlanStart(since=PERIOD.start - day, plan="small"),
        PlanStart(since=PERIOD.start + 10 * day, plan="large"),
        PlanStart(since=PERIOD.start + 25 * day, plan="small"),
        PlanStart(since=PERIOD.end, plan="gone"),
    ]
    for on_change, parts in (
        (OnChange.PRORATE, {"small": 1_500, "large": 5_000}),
        (OnChange.RESET, {"small": 1_500, "large": 5_000}),
        (OnChange.CARRY, {"small": 3_000}),
    ):
        cards = {
            "small": card("small", 3_000, 0, on_change),
            "large": card("large", 10_000, 0, on_change),
        }
        charges = charged(history, cards)
        told = {one.card.plan: one.amount_nano for one in charges if one.amount_nano}
        assert told == parts
