"""Price lines as text: what is written into a policy file is read back to the nano."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from fixtures.prices import CAPTURED, OF_PERIOD
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.pricing import (
    CatalogHints,
    Flat,
    Minimum,
    Price,
    PriceLine,
    TaxBehavior,
    bare_price,
    parse_rate_card,
)
from sidecar.outbound.policy_files.loader import load_policy
from sidecar.outbound.policy_files.price_texts import versions_text

START = datetime(2027, 1, 1, 5, 30, tzinfo=UTC)
POLICY = """
meters: [{name: a, value: requests}, {name: b, value: usage.total}]
plans: [{name: pro, billing: postpaid, currency: USD, prices: [], on_change: carry}]
"""
MODELS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=12
) | st.sampled_from(["gpt-4o", "true", "1.5", "~", "a: b", "{x", "# no"])


@st.composite
def lines(draw: st.DrawFn) -> tuple[PriceLine, ...]:
    """Lines that a plan may have together: each meter and model once, each fee once."""
    found: list[PriceLine] = []
    models = draw(st.lists(MODELS, unique=True, max_size=4))
    for meter, names in (("a", ()), ("b", ()), ("b", tuple(models)), ("", ())):
        price: Price = draw(CAPTURED | OF_PERIOD)
        fee = isinstance(bare_price(price), Flat | Minimum)
        if fee == (meter == "") and (names or not found or found[-1].meter != meter):
            hints = CatalogHints(
                tax_behavior=draw(st.sampled_from(TaxBehavior)),
                stripe=draw(st.sampled_from([{}, {"price": "price_1", "lookup_key": "pro:b"}])),
            )
            found.append(PriceLine(meter=meter, models=names, price=price, hints=hints))
    return tuple(found)


@settings(max_examples=80)
@given(lines())
def test_lines_are_read_back_as_they_were_written(written: tuple[PriceLine, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "1.yaml").write_text(POLICY)
        text = versions_text([("pro", START, written)])
        (Path(folder) / "2.yaml").write_text(text)
        policy = load_policy(Path(folder)).policy
    card = policy.card_for("pro", "cus_1", START)
    assert card is not None
    assert card.lines == written
    assert [line.hints for line in card.lines] == [line.hints for line in written]
    assert parse_rate_card(card.content()) == card
