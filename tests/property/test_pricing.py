"""Prices: ledger = invoice, whatever the order; a hold covers what it must."""

import itertools
import json
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil

import pytest
from fixtures.prices import AMOUNTS, CAPTURED, OF_PERIOD, PER, QUANTITIES, tiers, unit_by_unit
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.invoice_prices import invoice_amount
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount
from sidecar.domain.pricing import (
    Billing,
    CatalogHints,
    CostPlus,
    FreeQuota,
    Graduated,
    Meter,
    OnChange,
    Package,
    PerUnit,
    Price,
    PriceLine,
    RateCard,
    RoundPackages,
    TaxBehavior,
    Tier,
    Volume,
    bare_price,
    is_of_period,
    parse_price,
    parse_rate_card,
)
from sidecar.domain.usage import OnMissing

PRICES = CAPTURED | OF_PERIOD

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


@given(PRICES)
def test_a_price_is_read_back_from_its_content_as_text(price) -> None:
    assert parse_price(json.loads(json.dumps(price.describe()))) == price


@given(PRICES, st.integers(0, 400), st.integers(0, 400))
def test_more_use_never_has_a_smaller_bound(price, one, more) -> None:
    assert price.upper_bound(one) <= price.upper_bound(one + more)


@given(tiers(), PER, st.integers(0, 200))
def test_each_unit_costs_what_its_tier_says(stated, per, quantity) -> None:
    price = Graduated(tiers=stated, per=per)
    assert price.cumulative(quantity) == unit_by_unit(stated, per, quantity)


@given(tiers(), PER, st.integers(1, 150))
def test_a_graduated_bound_is_reached_but_for_the_dearest_tiers_place(stated, per, size) -> None:
    """Flat amounts alone are bounded exactly: some total reaches them."""
    flats = tuple(
        type(tier)(up_to=tier.up_to, amount_nano=0, flat_nano=tier.flat_nano) for tier in stated
    )
    price = Graduated(tiers=flats, per=per)
    starts = [0, *(tier.up_to for tier in stated if tier.up_to is not None)]
    most = max(price.cumulative(start + size) - price.cumulative(start) for start in starts)
    assert price.upper_bound(size) == most


@given(CAPTURED, st.integers(1, 1_000), st.integers(0, 2_000))
def test_a_free_quota_moves_the_price_behind_it(price, units, quantity) -> None:
    bare = bare_price(price)
    quota = FreeQuota(price=bare, units=units)
    assert quota.cumulative(min(quantity, units)) == 0
    assert quota.cumulative(units + quantity) == bare.cumulative(quantity)


@given(AMOUNTS, PER, st.integers(0, 999_999), QUANTITIES)
def test_a_mark_up_is_exact_and_rounded_once(cost, per, markup, quantity) -> None:
    price = CostPlus(cost_nano=cost, per=per, markup=markup)
    exact = Fraction(quantity * cost, per) * (1 + Fraction(markup, 10_000))
    assert price.cumulative(quantity) == ceil(exact)


@given(OF_PERIOD, QUANTITIES)
def test_prices_of_a_period_are_nothing_at_capture_and_need_no_total(price, quantity) -> None:
    assert is_of_period(price)
    assert price.unit_nano == 0
    assert price.cumulative(quantity) == price.upper_bound(quantity) == 0


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
    since=st.none() | st.just(datetime(2026, 12, 10, 6, tzinfo=UTC)),
    hints=st.builds(CatalogHints, tax_behavior=st.sampled_from(TaxBehavior)),
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
    on_change=st.sampled_from(OnChange),
)


@given(CARDS)
def test_a_published_card_is_read_back_as_it_was(card: RateCard) -> None:
    back = parse_rate_card(card.content())
    assert back == card
    assert back.version == card.version
    assert json.loads(card.content()) == card.describe()


def test_what_is_new_leaves_cards_of_older_versions_their_name() -> None:
    """Else holds and running totals of the old name would end with an upgrade."""
    card = RateCard(
        plan="pro",
        billing=Billing.POSTPAID,
        currency="USD",
        lines=(
            PriceLine(meter="a", price=PerUnit(amount_nano=1_500, per=7), models=("gpt",)),
            PriceLine(meter="a", price=Package(amount_nano=5, per=10)),
        ),
        meters={"a": Meter(name="a", value="usage.input")},
    )
    assert card.version == "0418f15a0761734865ca0c85"
    assert card.total_name(1) == "0418f15a0761734865ca0c85:1"


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


TIERS = Graduated(
    tiers=(
        Tier(up_to=100_000, amount_nano=0),
        Tier(up_to=1_000_000, amount_nano=10**9),
        Tier(up_to=None, amount_nano=2 * 10**9),
    ),
    per=1_000_000,
)
HALF = PerUnit(amount_nano=5 * 10**8, per=1_000_000)


@pytest.mark.parametrize(
    ("price", "amount"),
    [
        (HALF, "0.75"),
        (Package(amount_nano=5 * 10**8, per=1_000_000), "1.00"),
        (TIERS, "1.90"),
        (Volume(tiers=TIERS.tiers, per=TIERS.per), "3.00"),
        (CostPlus(cost_nano=4 * 10**8, per=1_000_000, markup=2_000), "0.72"),
        (FreeQuota(price=HALF, units=100_000), "0.70"),
    ],
)
def test_the_table_of_the_operators_page_is_what_is_charged(price, amount) -> None:
    line = PriceLine(meter="a", price=price)
    assert format_amount(invoice_amount(line, 1_500_000)) == amount


@pytest.mark.parametrize(
    "price",
    [
        {"model": "graduated", "per": 1, "tiers": []},
        {"model": "volume", "per": 1, "tiers": [{"up_to": 5, "amount_nano": "1"}]},
        {
            "model": "graduated",
            "per": 1,
            "tiers": [{"up_to": n, "amount_nano": "1"} for n in (5, 5, None)],
        },
        {"model": "flat", "amount_nano": "1", "free": 1},
        {"model": "per_unit", "amount_nano": "1", "per": 1, "free": 0},
        {"model": "of a later version"},
    ],
)
def test_content_that_is_no_price_is_refused(price) -> None:
    with pytest.raises(InvalidInput):
        parse_price(price)
