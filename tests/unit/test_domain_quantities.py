"""From usage to quantities: bounds before a request, counts after it."""

from dataclasses import replace

import pytest

from sidecar.domain.pricing import Meter
from sidecar.domain.quantities import Measured, estimate_quantities, measure_quantities
from sidecar.domain.usage import QUANTITY_MAX, OnMissing, TokenUsage, UsageFacts

INPUT = Meter(name="input", value="usage.input", statuses=frozenset({200}))
TOTAL = Meter(name="total", value="usage.total")


def test_estimates_bound_each_value() -> None:
    names = ("input", "output", "total", "cache_read", "cache_creation", "reasoning")
    meters = [Meter(name=name, value=f"usage.{name}") for name in names]
    meters += [Meter(name=name, value=name) for name in ("requests", "request_bytes")]
    meters += [Meter(name="duration_ms", value="duration_ms")]
    assert estimate_quantities(meters, 10, 20, 300) == {
        "input": 10,
        "output": 20,
        "total": 30,
        "cache_read": 10,
        "cache_creation": 10,
        "reasoning": 20,
        "requests": 1,
        "request_bytes": 300,
        "duration_ms": 0,
    }
    assert estimate_quantities([TOTAL], QUANTITY_MAX, 1, 0) == {"total": QUANTITY_MAX}


def measure(meter: Meter, usage: TokenUsage, status: int | None = 200) -> tuple[int, bool]:
    measured = Measured(
        usage=usage, status=status, duration_ms=7, request_bytes=40, response_bytes=60
    )
    counted = measure_quantities({meter.name: meter}, {meter.name: 90}, measured)
    return counted.quantities[meter.name], meter.name in counted.estimated


def test_a_status_that_does_not_count_is_zero_and_not_estimated() -> None:
    assert measure(INPUT, TokenUsage(), status=500) == (0, False)
    assert measure(INPUT, TokenUsage(input=5), status=None) == (0, False)
    assert measure(INPUT, TokenUsage(input=5)) == (5, False)


@pytest.mark.parametrize(
    ("value", "on_missing", "counted"),
    [
        ("usage.input", OnMissing.CAPTURE_ESTIMATE, 90),
        ("usage.input", OnMissing.ZERO, 0),
        ("usage.input", OnMissing.BYTES, 40),
        ("usage.output", OnMissing.BYTES, 60),
        ("usage.total", OnMissing.BYTES, 90),
    ],
)
def test_missing_usage_follows_on_missing_and_is_marked(value, on_missing, counted) -> None:
    meter = Meter(name="m", value=value, on_missing=on_missing)
    assert measure(meter, TokenUsage()) == (counted, True)


@pytest.mark.parametrize(
    ("status", "usage", "counted"),
    [
        (500, TokenUsage(), (0, False)),
        (502, TokenUsage(), (0, False)),
        (503, TokenUsage(), (0, False)),
        (503, TokenUsage(input=5, output=1), (6, False)),
        (503, TokenUsage(total=6), (6, False)),
        (503, TokenUsage(output=1), (90, True)),
        (504, TokenUsage(), (90, True)),
        (499, TokenUsage(), (90, True)),
        (200, TokenUsage(), (90, True)),
        (None, TokenUsage(), (90, True)),
    ],
)
@pytest.mark.parametrize("on_missing", [OnMissing.CAPTURE_ESTIMATE, OnMissing.BYTES])
def test_an_upstream_that_failed_before_it_served_costs_nothing(
    status, usage, counted, on_missing
) -> None:
    assert measure(replace(TOTAL, on_missing=on_missing), usage, status) == counted


def test_a_failure_that_tells_of_its_usage_is_no_failure_for_nothing() -> None:
    told = Measured(usage=TokenUsage(), status=503, facts=UsageFacts(raw={"seconds": 4}))
    assert measure_quantities({"total": TOTAL}, {"total": 90}, told).quantities == {"total": 90}


@pytest.mark.parametrize(
    ("value", "usage", "counted"),
    [
        ("usage.total", TokenUsage(input=5, output=6), (11, False)),
        ("usage.total", TokenUsage(total=9), (9, False)),
        ("usage.total", TokenUsage(input=5), (90, True)),
        ("usage.reasoning", TokenUsage(output=6), (0, False)),
        ("usage.reasoning", TokenUsage(output=6, reasoning=4), (4, False)),
        ("usage.cache_read", TokenUsage(), (90, True)),
        ("requests", TokenUsage(), (1, False)),
        ("duration_ms", TokenUsage(), (7, False)),
        ("response_bytes", TokenUsage(), (60, False)),
    ],
)
def test_what_each_value_counts(value, usage, counted) -> None:
    assert measure(Meter(name="m", value=value), usage) == counted
