"""What is rated plainly comes to the same as in the general way, and the rest is left to that."""

import asyncio
from datetime import UTC, datetime

from hypothesis import assume, event, given
from hypothesis import strategies as st

from sidecar.domain.errors import InvalidInput
from sidecar.domain.holds import HoldTerms, QuotaLine
from sidecar.domain.meters import Aggregation, Meter
from sidecar.domain.pricing import (
    Billing,
    CostPlus,
    Flat,
    FreeQuota,
    Package,
    PerUnit,
    PriceLine,
    RateCard,
)
from sidecar.domain.usage import QUANTITY_MAX, OnMissing, TokenUsage, UsageReport
from sidecar.services.rating import Priced, Rating

VALUES = [
    *("usage.input", "usage.output", "usage.total", "usage.cache_read", "usage.reasoning"),
    *("requests", "response.bytes", "usage.input * 2", "metadata.seconds"),
]
NAMES = ("a", "b", "c", "d")
MODELS = ("", "m-1", "m-2")
prices = st.one_of(
    st.builds(
        PerUnit, amount_nano=st.integers(0, 10**12), per=st.sampled_from([1, 2, 1_000, 10**6])
    ),
    st.builds(CostPlus, cost_nano=st.integers(0, 10**6), per=st.just(1), markup=st.just(2_000)),
    st.builds(Package, amount_nano=st.integers(0, 10**6), per=st.sampled_from([1, 1_000])),
    st.builds(Flat, amount_nano=st.integers(0, 10**6)),
    st.builds(FreeQuota, price=st.builds(PerUnit, amount_nano=st.integers(0, 1)), units=st.just(5)),
)


@st.composite
def cards(draw) -> RateCard:
    meters = {
        name: Meter(
            name=name,
            value=draw(st.sampled_from(VALUES)),
            statuses=draw(st.sampled_from([frozenset(), frozenset({200}), frozenset({201})])),
            aggregation=draw(st.sampled_from([Aggregation.SUM] * 4 + list(Aggregation))),
            group_by=draw(st.sampled_from([(), (), (), ("model",)])),
            on_missing=draw(st.sampled_from(OnMissing)),
        )
        for name in NAMES
    }
    lines = st.builds(
        PriceLine,
        meter=st.sampled_from(NAMES),
        price=prices,
        models=st.sampled_from([(), (), ("m-1",)]),
    )
    return RateCard(
        plan="p",
        billing=Billing.PREPAID,
        currency="USD",
        lines=tuple(draw(st.lists(lines, max_size=4))),
        meters=meters,
    )


counts = st.none() | st.integers(0, 50) | st.sampled_from([10**13, QUANTITY_MAX])


@st.composite
def usages(draw) -> TokenUsage:
    try:
        return TokenUsage(
            **{name: draw(counts) for name in ("input", "output", "cache_read", "reasoning")}
        )
    except InvalidInput:
        return assume(False)


lines_taken = st.builds(
    QuotaLine,
    field=st.just("q:x:1"),
    meter=st.sampled_from([*NAMES, "@money", "@tokens", "@requests", "@in_flight"]),
    quantity=st.integers(0, 10),
)


class NoTotals:
    """A store that moves none."""

    async def reserve_totals(self, *_args):
        raise LookupError


@given(
    cards(),
    st.tuples(
        usages(), st.sampled_from([None, 200, 201, 503]), st.sampled_from(MODELS), st.booleans()
    ),
    st.lists(st.sampled_from([*NAMES, "unknown"]), unique=True),
    st.lists(lines_taken, max_size=2),
)
def test_plain_and_general_ways_agree(card, said, names, taken):
    usage, status, model, from_header = said
    terms = HoldTerms(
        hold_id="0" * 40,
        gateway_id="g",
        customer_id="c",
        plan="p",
        currency="USD",
        amount_nano=5,
        price_version=card.version,
        estimate=dict.fromkeys(names, 10),
        quota_lines=tuple(taken),
        decided_at_ms=1_795_000_000_000,
        model="m-1",
    )
    report = UsageReport(
        edge="otlp",
        gateway_id="other",
        received_at=datetime(2026, 11, 28, tzinfo=UTC),
        usage=usage,
        hold_token="t",
        model=model,
        status=status,
        duration_ms=8,
        response_bytes=3,
        request_id=b"r",
        from_header=from_header,
    )
    rating = Rating(NoTotals())
    plain = rating.price_plainly(report, terms, card)
    event("plain" if plain else "general")
    if plain is None:
        return
    general = asyncio.run(rating.price(report, terms, card))
    assert isinstance(general, Priced)
    assert plain == general
    assert rating.price_plainly(report, terms, card) == plain, "remembered"


def test_models_without_end_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("sidecar.services.rating._PLAIN_MAX", 10)
    card = RateCard(
        plan="p",
        billing=Billing.PREPAID,
        currency="USD",
        lines=(),
        meters={"a": Meter(name="a", value="usage.input")},
    )
    rating = Rating(NoTotals())
    for number in range(100):
        assert rating._plain_meters(card, ("a",), f"model-{number}")
    assert len(rating._plain) <= 10
