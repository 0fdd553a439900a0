"""What an invoice adds to rated usage: volume, flat and minimum prices, whole and in shares."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from math import ceil

import pytest
from fixtures.prices import AMOUNTS, CAPTURED, PER, QUANTITIES, tiers
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.invoice_prices import CardUse, invoice_amount, period_charges
from sidecar.domain.periods import Period
from sidecar.domain.pricing import (
    Billing,
    Flat,
    FreeQuota,
    Minimum,
    OnChange,
    PerUnit,
    Price,
    PriceLine,
    RateCard,
    Tier,
    Volume,
)
from sidecar.domain.prorating import shares

PERIOD = Period(start=datetime(2026, 6, 1, tzinfo=UTC), end=datetime(2026, 7, 1, tzinfo=UTC))
MIDDLE = PERIOD.start + timedelta(days=10)
FIRST = Period(start=PERIOD.start, end=MIDDLE)
SECOND = Period(start=MIDDLE, end=PERIOD.end)
VOLUME = Volume(tiers=(Tier(up_to=100, amount_nano=5), Tier(up_to=None, amount_nano=3)))


def line(price: Price, meter: str = "calls") -> PriceLine:
    return PriceLine(meter=meter, price=price)


def card(*lines: PriceLine, on_change: OnChange = OnChange.RESET) -> RateCard:
    return RateCard(
        plan="pro",
        billing=Billing.POSTPAID,
        currency="USD",
        lines=lines,
        meters={},
        on_change=on_change,
    )


def fees(flat: int, minimum: int) -> tuple[PriceLine, PriceLine]:
    return (
        line(Flat(amount_nano=flat), meter=""),
        line(Minimum(amount_nano=minimum), meter=""),
    )


def charged(*uses: CardUse) -> list[tuple[int, int, int]]:
    """Each charge: which of the uses, which line, how much."""
    cards = [use.card for use in uses]
    return [
        (cards.index(charge.card), charge.index, charge.amount_nano)
        for charge in period_charges(uses, PERIOD)
    ]


@given(tiers(), PER, QUANTITIES)
def test_volume_prices_all_units_by_the_tier_of_their_total(stated, per, quantity) -> None:
    price = Volume(tiers=stated, per=per)
    tier = next(t for t in stated if t.up_to is None or quantity <= t.up_to)
    exact = ceil(Fraction(quantity * tier.amount_nano, per)) + tier.flat_nano
    assert invoice_amount(line(price), quantity) == (exact if quantity else 0)


def test_one_unit_more_can_make_a_volume_cheaper() -> None:
    assert invoice_amount(line(VOLUME), 100) == 500
    assert invoice_amount(line(VOLUME), 101) == 303


@given(CAPTURED, QUANTITIES)
def test_what_is_rated_at_capture_is_verified_by_the_same_function(price, quantity) -> None:
    assert invoice_amount(line(price), quantity) == price.cumulative(quantity)


@given(AMOUNTS, AMOUNTS)
def test_a_minimum_adds_exactly_what_is_lacking(least, rated) -> None:
    added = invoice_amount(line(Minimum(amount_nano=least), meter=""), rated)
    assert rated + added == max(least, rated)


@given(AMOUNTS, st.sets(st.integers(1, 29), max_size=5))
def test_shares_of_an_amount_add_up_to_it(amount, days) -> None:
    edges = [
        PERIOD.start,
        *(PERIOD.start + timedelta(days=day) for day in sorted(days)),
        PERIOD.end,
    ]
    spans = [Period(start=start, end=end) for start, end in pairwise(edges)]
    assert sum(shares([(amount, [span]) for span in spans], PERIOD)) == amount
    assert shares([(amount, spans)], PERIOD) == [amount]


def test_one_card_owes_its_fees_once_and_its_minimum_counts_all_else() -> None:
    own = card(line(PerUnit(amount_nano=2)), line(VOLUME, "tokens"), *fees(1_000, 5_000))
    use = CardUse(card=own, spans=(PERIOD,), totals={0: 50, 1: 200}, rated_nano=100)
    assert charged(use) == [(0, 1, 600), (0, 2, 1_000), (0, 3, 5_000 - 100 - 600 - 1_000)]


def test_a_period_without_use_owes_flat_and_minimum() -> None:
    own = card(line(VOLUME), *fees(1_000, 5_000))
    use = CardUse(card=own, spans=(PERIOD,))
    assert charged(use) == [(0, 0, 0), (0, 1, 1_000), (0, 2, 4_000)]
    assert period_charges([], PERIOD) == []


@pytest.mark.parametrize(
    ("on_change", "expected"),
    [
        # Each card by itself, whole: 80 x 5 and 40 x 5, both fees, both minimums.
        (
            OnChange.RESET,
            [(0, 0, 400), (1, 0, 200), (0, 1, 3_000), (1, 1, 6_000), (0, 2, 5_590), (1, 2, 5_780)],
        ),
        # 120 units together reach the cheaper tier; the fees are those of the last card.
        (OnChange.CARRY, [(1, 0, 360), (1, 1, 6_000), (1, 2, 5_610)]),
        # A third and two thirds of each fee and minimum.
        (
            OnChange.PRORATE,
            [(1, 0, 360), (0, 1, 1_000), (1, 1, 4_000), (0, 2, 1_990), (1, 2, 3_620)],
        ),
    ],
)
def test_the_last_card_says_how_a_change_is_settled(on_change, expected) -> None:
    before = card(line(VOLUME), *fees(3_000, 9_000), on_change=on_change)
    after = card(line(VOLUME), *fees(6_000, 12_000), on_change=on_change)
    uses = (
        CardUse(card=before, spans=(FIRST,), totals={0: 80}, rated_nano=10),
        CardUse(card=after, spans=(SECOND,), totals={0: 40}, rated_nano=20),
    )
    assert charged(*uses) == expected


def test_a_card_that_comes_back_is_one_card_with_two_spans() -> None:
    own = card(*fees(3_000, 0), on_change=OnChange.PRORATE)
    other = card(*fees(9_000, 0), on_change=OnChange.PRORATE)
    spans = (FIRST, Period(start=PERIOD.end - timedelta(days=5), end=PERIOD.end))
    between = Period(start=MIDDLE, end=spans[1].start)
    uses = (CardUse(card=other, spans=(between,)), CardUse(card=own, spans=spans))
    assert charged(*uses) == [(0, 0, 4_500), (1, 0, 1_500), (0, 1, 0), (1, 1, 0)]


def test_a_volume_quota_is_cut_to_the_share_in_force() -> None:
    price = FreeQuota(price=Volume(tiers=(Tier(up_to=None, amount_nano=7),)), units=90)
    late = card(line(price), on_change=OnChange.PRORATE)
    use = CardUse(card=late, spans=(SECOND,), totals={0: 100})
    assert charged(use) == [(0, 0, 40 * 7)]
    whole = replace(use, card=card(line(price), on_change=OnChange.CARRY))
    assert charged(whole) == [(0, 0, 10 * 7)]
