"""Prices: ledger = invoice, whatever the order; a hold covers what it must."""

import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import AMOUNT_NANO_MAX
from sidecar.domain.pricing import (
    Billing,
    Meter,
    Package,
    PerUnit,
    Price,
    PriceLine,
    RateCard,
    RoundPackages,
    parse_rate_card,
)
from sidecar.domain.usage import QUANTITY_MAX, OnMissing

AMOUNTS = st.integers(0, 10**12) | st.integers(0, 4 * 10**18)
PER = st.integers(1, 10) | st.sampled_from([1_000, 1_000_000, 10**12]) | st.integers(1, 10**12)
PRICES: st.SearchStrategy[Price] = st.builds(PerUnit, amount_nano=AMOUNTS, per=PER) | st.builds(
    Package, amount_nano=AMOUNTS, per=PER, rounding=st.sampled_from(RoundPackages)
)
QUANTITIES = st.integers(0, 10_000) | st.integers(0, QUANTITY_MAX)
EVENTS = st.lists(QUANTITIES, max_size=12)
NAMES = st.sampled_from(["a", "b", "c"])


def burned(price: Price, events: list[int]) -> int:
    """What events cost one after the other, each F(after) - F(before)."""
    totals = list(itertools.accumulate(events, initial=0))
    return sum(
        price.cumulative(after) - price.cumulative(before)
        for before, after in itertools.pairwise(totals)
    )


@given(PRICES, EVENTS, st.randoms(use_true_random=False))
def test_any_split_and_order_sums_to_the_price_of_the_total(price, events, random) -> None:
    total = price.cumulative(sum(events))
    assert burned(price, events) == total
    random.shuffle(events)
    assert burned(price, events) == total


@given(PRICES, QUANTITIES, QUANTITIES)
def test_no_event_costs_less_than_nothing_or_more_than_its_bound(price, before, quantity) -> None:
    cost = price.cumulative(before + quantity) - price.cumulative(before)
    assert 0 <= cost <= price.upper_bound(quantity)


@given(PRICES)
def test_nothing_costs_nothing(price) -> None:
    assert price.cumulative(0) == 0
    assert price.upper_bound(0) == 0


@given(PRICES, QUANTITIES, QUANTITIES)
def test_where_a_unit_costs_whole_nano_the_running_total_does_not_matter(
    price, before, quantity
) -> None:
    unit = price.unit_nano
    assume(unit is not None)
    assert price.cumulative(before + quantity) - price.cumulative(before) == quantity * unit


@given(AMOUNTS, PER, QUANTITIES)
def test_per_unit_rounds_the_exact_price_up_by_less_than_one_nano(amount, per, quantity) -> None:
    exact = Fraction(quantity * amount, per)
    assert 0 <= PerUnit(amount_nano=amount, per=per).cumulative(quantity) - exact < 1


@given(AMOUNTS, PER, QUANTITIES)
def test_packages_count_begun_or_whole_ones(amount, per, quantity) -> None:
    begun = Package(amount_nano=amount, per=per).cumulative(quantity)
    whole = Package(amount_nano=amount, per=per, rounding=RoundPackages.DOWN).cumulative(quantity)
    exact = Fraction(quantity, per) * amount
    assert whole <= exact <= begun
    assert begun - whole == (amount if quantity % per else 0)


LINES = st.builds(
    PriceLine,
    meter=NAMES,
    price=PRICES,
    models=st.lists(st.sampled_from(["gpt", "claude"]), unique=True).map(tuple),
)
METERS = st.builds(
    Meter,
    name=NAMES,
    value=st.sampled_from(["usage.input", "requests"]),
    statuses=st.frozensets(st.integers(100, 599), max_size=3),
    on_missing=st.sampled_from(OnMissing),
    reported=st.booleans(),
)
CARDS = st.builds(
    RateCard,
    plan=NAMES,
    billing=st.sampled_from(Billing),
    currency=st.sampled_from(["USD", "credits"]),
    lines=st.lists(LINES, max_size=4).map(tuple),
    meters=st.lists(METERS, max_size=3).map(lambda meters: {m.name: m for m in meters}),
)


@given(CARDS)
def test_a_published_card_is_read_back_as_it_was(card: RateCard) -> None:
    back = parse_rate_card(card.content())
    assert back == card
    assert back.version == card.version
    assert json.loads(card.content()) == card.describe()


@given(CARDS, CARDS)
def test_cards_have_the_same_version_only_if_their_content_is_the_same(one, other) -> None:
    assert (one.version == other.version) == (one.describe() == other.describe())


@given(CARDS, st.dictionaries(NAMES, st.integers(0, 10**9)), st.sampled_from(["gpt", "other"]))
def test_a_cards_bound_is_the_sum_of_its_lines_bounds_or_too_large(card, quantities, model) -> None:
    found = [(card.line_for(meter, model), count) for meter, count in quantities.items()]
    total = sum(line[1].price.upper_bound(count) for line, count in found if line is not None)
    if total > AMOUNT_NANO_MAX:
        with pytest.raises(InvalidInput):
            card.upper_bound(quantities, model)
    else:
        assert card.upper_bound(quantities, model) == total


@given(CARDS, NAMES, st.sampled_from(["gpt", "claude", "other"]))
def test_a_price_that_names_the_model_beats_the_general_one(card, meter, model) -> None:
    named = [line for line in card.lines if line.meter == meter and model in line.models]
    general = [line for line in card.lines if line.meter == meter and not line.models]
    found = card.line_for(meter, model)
    expected = (named or general or [None])[0]
    assert (None if found is None else found[1]) == expected
    assert found is None or card.lines[found[0]] == found[1]
