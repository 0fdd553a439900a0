"""A provider's minor units: the exponent belongs to currency and provider."""

from decimal import ROUND_DOWN, ROUND_HALF_UP, ROUND_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.minor_units import (
    PAYSTACK,
    STRIPE,
    WEBHOOK,
    Rounding,
    from_minor,
    minor_unit,
    to_minor,
)
from sidecar.domain.money import AMOUNT_NANO_MAX, NANO_PER_UNIT

_PAIRS = [
    (STRIPE, "USD"),
    (STRIPE, "JPY"),
    (STRIPE, "KWD"),
    (STRIPE, "ISK"),
    (PAYSTACK, "NGN"),
    (WEBHOOK, "ISK"),
    (WEBHOOK, "KWD"),
    (WEBHOOK, "credits"),
]
_MODES = {
    Rounding.HALF_UP: ROUND_HALF_UP,
    Rounding.UP: ROUND_UP,
    Rounding.DOWN: ROUND_DOWN,
}
_amounts = st.integers(-AMOUNT_NANO_MAX, AMOUNT_NANO_MAX)


@pytest.mark.parametrize(
    ("provider", "currency", "one_unit"),
    [
        (STRIPE, "USD", 100),
        (STRIPE, "HUF", 100),
        (STRIPE, "TWD", 100),
        (STRIPE, "JPY", 1),
        (STRIPE, "MGA", 1),
        (STRIPE, "ISK", 100),
        (STRIPE, "UGX", 100),
        (STRIPE, "KWD", 1_000),
        (PAYSTACK, "KES", 100),
        (WEBHOOK, "ISK", 1),
        (WEBHOOK, "MGA", 100),
        (WEBHOOK, "credits", NANO_PER_UNIT),
    ],
)
def test_one_major_unit_is_what_the_provider_says(
    provider: str, currency: str, one_unit: int
) -> None:
    assert to_minor(NANO_PER_UNIT, currency, provider) == one_unit
    assert from_minor(one_unit, currency, provider) == NANO_PER_UNIT


@pytest.mark.parametrize(
    ("provider", "currency", "amount", "minor"),
    [
        (STRIPE, "ISK", "12.49", 1_200),
        (STRIPE, "ISK", "12.50", 1_300),
        (STRIPE, "KWD", "1.234", 1_230),
        (STRIPE, "KWD", "1.235", 1_240),
        (STRIPE, "KWD", "-1.235", -1_240),
        (STRIPE, "JPY", "0.5", 1),
        (STRIPE, "USD", "0.004999999", 0),
        (STRIPE, "USD", "0.005", 1),
        (STRIPE, "USD", "-0.005", -1),
    ],
)
def test_a_half_goes_away_from_zero_on_the_provider_s_step(
    provider: str, currency: str, amount: str, minor: int
) -> None:
    assert to_minor(int(Decimal(amount) * NANO_PER_UNIT), currency, provider) == minor


@given(nano=_amounts, pair=st.sampled_from(_PAIRS), rounding=st.sampled_from(list(Rounding)))
def test_rounding_agrees_with_decimal(nano: int, pair: tuple[str, str], rounding: Rounding) -> None:
    provider, currency = pair
    unit = minor_unit(currency, provider)
    steps = (Decimal(nano) / (unit.nano * unit.step)).quantize(
        Decimal(1), rounding=_MODES[rounding]
    )
    assert to_minor(nano, currency, provider, rounding) == int(steps) * unit.step


@given(steps=st.integers(-(10**9), 10**9), pair=st.sampled_from(_PAIRS))
def test_what_a_provider_can_say_comes_back_unchanged(steps: int, pair: tuple[str, str]) -> None:
    provider, currency = pair
    minor = steps * minor_unit(currency, provider).step
    for rounding in Rounding:
        assert to_minor(from_minor(minor, currency, provider), currency, provider, rounding) == (
            minor
        )


@pytest.mark.parametrize(
    ("provider", "currency"),
    [(STRIPE, "credits"), (STRIPE, "XXX"), (PAYSTACK, "EUR"), ("other", "USD"), (STRIPE, "usd")],
)
def test_a_pair_that_is_not_listed_is_refused(provider: str, currency: str) -> None:
    with pytest.raises(InvalidInput):
        to_minor(1, currency, provider)
    with pytest.raises(InvalidInput):
        from_minor(1, currency, provider)


def test_minor_units_beyond_any_balance_are_refused() -> None:
    with pytest.raises(InvalidInput):
        from_minor(AMOUNT_NANO_MAX, "USD", STRIPE)
