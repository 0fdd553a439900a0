from decimal import Decimal

import pytest

from sidecar.standins.stripe_errors import ApiError
from sidecar.standins.stripe_prices import build_price, cost_of, rounded

GRADUATED = {
    "currency": "usd",
    "billing_scheme": "tiered",
    "tiers_mode": "graduated",
    "tiers": [
        {"up_to": 100_000, "unit_amount": 0},
        {"up_to": 1_000_000, "unit_amount_decimal": "0.0002"},
        {"up_to": "inf", "unit_amount_decimal": "0.0001"},
    ],
}
PACKAGE = {
    "currency": "usd",
    "unit_amount": 50,
    "transform_quantity": {"divide_by": 1_000_000, "round": "up"},
}


def cost(params, quantity):
    return cost_of(build_price(params, "price_1"), Decimal(quantity))


def test_a_unit_price_keeps_twelve_decimals():
    params = {"currency": "USD", "unit_amount_decimal": "0.000050000001"}
    price = build_price(params, "price_1")
    assert price["unit_amount"] is None
    assert price["unit_amount_decimal"] == "0.000050000001"
    assert price["currency"] == "usd"
    assert cost_of(price, Decimal(1_000_000)) == Decimal("50.000001")


@pytest.mark.parametrize(
    ("quantity", "cents"),
    [("0", 0), ("1", 50), ("1000000", 50), ("1000001", 100), ("0.5", 50), ("2000000", 100)],
)
def test_a_package_is_rounded_up_once_on_the_whole_quantity(quantity, cents):
    assert cost(PACKAGE, quantity) == cents


def test_a_package_can_be_rounded_down():
    params = {**PACKAGE, "transform_quantity": {"divide_by": 1_000_000, "round": "down"}}
    assert [cost(params, quantity) for quantity in ("999999", "1999999")] == [0, 50]


@pytest.mark.parametrize(
    ("quantity", "cents"),
    [("0", "0"), ("100000", "0"), ("100001", "0.0002"), ("1000000", "180"), ("2000000", "280")],
)
def test_graduated_tiers_price_each_part_by_its_own_tier(quantity, cents):
    assert cost(GRADUATED, quantity) == Decimal(cents)


@pytest.mark.parametrize(
    ("quantity", "cents"), [("1000000", "200"), ("1000001", "100.0001"), ("100000", "0")]
)
def test_volume_tiers_price_everything_by_the_last_tier(quantity, cents):
    assert cost({**GRADUATED, "tiers_mode": "volume"}, quantity) == Decimal(cents)


def test_flat_amounts_fall_due_when_their_tier_is_reached():
    tiers = [
        {"up_to": 10, "flat_amount": 100},
        {"up_to": "inf", "flat_amount": 7, "unit_amount": 1},
    ]
    params = {**GRADUATED, "tiers": tiers}
    assert [cost(params, quantity) for quantity in ("0", "10", "11")] == [100, 100, 108]


@pytest.mark.parametrize(("exact", "whole"), [("0.5", 1), ("0.4999", 0), ("1.5", 2), ("2.5", 3)])
def test_a_line_is_rounded_half_up(exact, whole):
    assert rounded(Decimal(exact)) == whole


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"unit_amount": 1, "unit_amount_decimal": "1"}, "unit_amount"),
        ({}, "unit_amount"),
        ({"unit_amount_decimal": "0.0000000000001"}, "unit_amount"),
        ({"unit_amount_decimal": "NaN"}, "unit_amount"),
        ({"unit_amount_decimal": "x"}, "unit_amount"),
        ({"unit_amount": -1}, "unit_amount"),
        ({"unit_amount": 1, "tiers": GRADUATED["tiers"]}, "tiers"),
        ({"unit_amount": 1, "transform_quantity": {"divide_by": 0, "round": "up"}}, "transform"),
        ({**GRADUATED, "transform_quantity": PACKAGE["transform_quantity"]}, "transform_quantity"),
        ({**GRADUATED, "tiers_mode": None}, "tiers_mode"),
        ({**GRADUATED, "tiers": GRADUATED["tiers"][:2]}, "tiers[1][up_to]"),
        ({**GRADUATED, "tiers": GRADUATED["tiers"][::-1]}, "tiers[0][up_to]"),
        ({**GRADUATED, "tiers": [{"up_to": "inf"}]}, "tiers[0]"),
        ({"unit_amount": 1, "recurring": {"interval": "month", "usage_type": "metered"}}, "recur"),
        ({"unit_amount": 1, "recurring": {"interval": "month", "meter": "mtr_1"}}, "recurring"),
    ],
)
def test_impossible_prices_are_refused(change, param):
    with pytest.raises(ApiError) as caught:
        build_price({"currency": "usd", **change}, "price_1")
    assert caught.value.status == 400
    assert caught.value.body()["error"]["param"].startswith(param)


def test_a_parameter_that_would_be_ignored_is_refused_with_501():
    with pytest.raises(ApiError, match="currency_options") as caught:
        build_price({"currency": "usd", "unit_amount": 1, "currency_options": {}}, "price_1")
    assert caught.value.status == 501
