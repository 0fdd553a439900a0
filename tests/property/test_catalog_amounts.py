"""A price at the provider costs what ours does, by the stand-in's own arithmetic."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from fixtures.prices import tiers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.app.cataloguing import load_wanted
from sidecar.domain.catalog import WantedPrice
from sidecar.domain.catalog_changes import CreatePrice
from sidecar.domain.catalog_contents import NotExpressible, content_of
from sidecar.domain.minor_units import STRIPE, minor_unit
from sidecar.domain.pricing import (
    CostPlus,
    FreeQuota,
    Graduated,
    Package,
    PerUnit,
    Price,
    RoundPackages,
    Volume,
)
from sidecar.outbound.stripe.catalog import price_params
from sidecar.outbound.stripe.catalog_objects import read_price
from sidecar.settings import Settings
from sidecar.standins.stripe_prices import build_price, cost_of

AMOUNTS = st.integers(0, 10**13)
PER = st.integers(0, 6).map(lambda power: 10**power)
LINEAR: st.SearchStrategy[Price] = st.one_of(
    st.builds(PerUnit, amount_nano=AMOUNTS, per=PER),
    st.builds(
        CostPlus, cost_nano=AMOUNTS, per=PER, markup=st.integers(0, 99).map(lambda n: n * 100)
    ),
    st.builds(Graduated, tiers=tiers(AMOUNTS), per=PER),
)
PRICES = st.one_of(
    LINEAR,
    st.builds(FreeQuota, price=LINEAR, units=st.integers(1, 10**6)),
    st.builds(
        Package,
        amount_nano=AMOUNTS,
        per=st.integers(1, 10**7),
        rounding=st.sampled_from(RoundPackages),
    ),
    st.builds(Volume, tiers=tiers(AMOUNTS), per=PER),
)
QUANTITIES = st.integers(0, 200) | st.integers(0, 10**9)


def our_amount(price: Price, quantity: int) -> int:
    return (
        price.period_amount(quantity) if isinstance(price, Volume) else price.cumulative(quantity)
    )


@given(
    price=PRICES,
    quantities=st.lists(QUANTITIES, min_size=1, max_size=5),
    currency=st.sampled_from(["USD", "JPY", "KWD", "ISK"]),
)
@settings(max_examples=200, deadline=None)
def test_any_quantity_costs_the_same_to_the_nano(
    price: Price, quantities: list[int], currency: str
) -> None:
    try:
        content = content_of(price.describe(), currency=currency, meter="m", tax="exclusive")
    except NotExpressible:
        assume(False)
    line = WantedPrice(plan="p", line="m", content=content, lookup_key="k")
    params = price_params(CreatePrice(price=line, product_id="prod", meter_id="mtr"))
    params.pop("product")
    theirs = build_price(params, "price")
    unit = minor_unit(currency, STRIPE).nano
    for quantity in quantities:
        nano = Fraction(cost_of(theirs, Decimal(quantity))) * unit
        assert 0 <= our_amount(price, quantity) - nano < 1, quantity
    read = read_price({**theirs, "product": "prod"}, {"mtr": "m"})
    assert read.content == content


def test_the_example_policy_has_nothing_that_the_provider_cannot_have() -> None:
    folder = Path(__file__).parents[2] / "config" / "policy"
    _, wanted = load_wanted(Settings(policy_dir=folder), None, None)
    assert wanted.problems == ()
    names = {product.name for product in wanted.products}
    assert {"My AI API Plan", "Three tiers"} <= names
    assert {note.where for note in wanted.notes} == {"prepaid", "per-request"}
    keys = {price.lookup_key for price in wanted.prices}
    assert "sidecar:three-tier:total-tokens" in keys
