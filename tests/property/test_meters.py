"""Meters under any usage: additive where they say so, never negative, never guessed."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.meters import Aggregation, Meter
from sidecar.domain.pricing import PerUnit
from sidecar.domain.quantities import Measured, measure_quantities
from sidecar.domain.usage import QUANTITY_MAX, OnMissing, TokenUsage, UsageFacts

LINEAR = {
    "input": "usage.input",
    "total": "usage.total",
    "path": "metadata.seconds",
    "header": "response.headers.x-ms",
    "weighted": "usage.input * 3 + usage.output + metadata.seconds",
    "bytes": "response.bytes",
}
METERS = {
    **{name: Meter(name=name, value=value) for name, value in LINEAR.items()},
    "calls": Meter(name="calls", value="requests", aggregation=Aggregation.COUNT),
}
counts = st.integers(0, 10**9)
parts = st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def told(input_: int, output: int, other: int) -> Measured:
    return Measured(
        usage=TokenUsage(input=input_, output=output),
        status=200,
        response_bytes=other,
        facts=UsageFacts(metadata={"seconds": other}, headers={"x-ms": str(other)}),
    )


def take(measured: Measured) -> dict[str, int]:
    return measure_quantities(METERS, dict.fromkeys(METERS, 0), measured).quantities


@given(parts)
def test_splitting_an_event_never_changes_what_sums_come_to(events) -> None:
    whole = take(told(*(sum(column) for column in zip(*events, strict=True))))
    split = [take(told(*event)) for event in events]
    for name in LINEAR:
        assert sum(quantities[name] for quantities in split) == whole[name]
    assert sum(quantities["calls"] for quantities in split) == len(events)


@given(parts, st.integers(1, 10**12), st.integers(1, 10**7))
def test_the_price_of_a_split_is_the_price_of_the_whole(events, amount, per) -> None:
    price, total, paid = PerUnit(amount_nano=amount, per=per), 0, 0
    for event in events:
        quantity = take(told(*event))["weighted"]
        paid += price.cumulative(total + quantity) - price.cumulative(total)
        total += quantity
    assert paid == price.cumulative(total)


@given(json_values, st.sampled_from(["metadata.x", "metadata.x * 2", "int(metadata.x)"]), counts)
def test_no_fact_makes_a_negative_quantity_or_an_unmarked_guess(fact, value, bound) -> None:
    measured = Measured(
        usage=TokenUsage(),
        status=200,
        facts=UsageFacts(metadata={} if fact is None else {"x": fact}),
    )
    for on_missing in (OnMissing.CAPTURE_ESTIMATE, OnMissing.ZERO):
        meter = Meter(name="m", value=value, on_missing=on_missing)
        taken = measure_quantities({"m": meter}, {"m": bound}, measured)
        if taken.refusal:
            assert taken.observed == {}
            continue
        quantity = taken.quantities["m"]
        assert 0 <= quantity <= QUANTITY_MAX
        if "m" in taken.estimated:
            assert quantity == (bound if on_missing is OnMissing.CAPTURE_ESTIMATE else 0)
        else:
            assert fact is not None
            assert quantity != 0 or fact in (0, "0") or float(fact) == 0 or -1 < float(fact) < 1
