"""From usage to each meter's quantity: bounds before a request, real counts after it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidecar.domain.pricing import Meter
from sidecar.domain.usage import QUANTITY_MAX, OnMissing, TokenUsage

TOKEN_VALUES = frozenset(
    {
        "usage.input",
        "usage.output",
        "usage.total",
        "usage.cache_read",
        "usage.cache_creation",
        "usage.reasoning",
    }
)
OTHER_VALUES = frozenset({"requests", "duration_ms", "request_bytes", "response_bytes"})
METER_VALUES = TOKEN_VALUES | OTHER_VALUES
"""Paths that a meter's `value` may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A finished request's counts, beside its tokens: bytes and milliseconds."""

    usage: TokenUsage
    status: int | None
    duration_ms: int = 0
    request_bytes: int = 0
    response_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredQuantities:
    """Each meter's quantity; `estimated` names the meters whose count the response left out."""

    quantities: Mapping[str, int]
    estimated: frozenset[str]


def estimate_quantities(
    meters: Iterable[Meter], input_bound: int, output_bound: int, request_bytes: int
) -> dict[str, int]:
    """Upper bounds per meter, from bounds in tokens; what only a response can tell is 0."""
    bounds = {
        "usage.input": input_bound,
        "usage.output": output_bound,
        "usage.total": input_bound + output_bound,
        # Parts are bounded by their whole.
        "usage.cache_read": input_bound,
        "usage.cache_creation": input_bound,
        "usage.reasoning": output_bound,
        "requests": 1,
        "request_bytes": request_bytes,
    }
    return {meter.name: min(bounds.get(meter.value, 0), QUANTITY_MAX) for meter in meters}


def measure_quantities(
    meters: Mapping[str, Meter], estimate: Mapping[str, int], measured: Measured
) -> MeteredQuantities:
    """
    What each meter of the hold really counts.

    A meter whose status filter does not fit counts 0. A meter whose tokens the response
    left out follows its `on_missing`.

    Args:
        meters: The rate card's meters.
        estimate: Meters that matched the route at the check, with the hold's upper bound.
        measured: The response's counts.
    """
    quantities: dict[str, int] = {}
    estimated: set[str] = set()
    for name, bound in estimate.items():
        meter = meters[name]
        if meter.statuses and measured.status not in meter.statuses:
            quantities[name] = 0
            continue
        value = _read(meter.value, measured)
        if value is None:
            estimated.add(name)
            value = _stand_in(meter, bound, measured)
        quantities[name] = value
    return MeteredQuantities(quantities=quantities, estimated=frozenset(estimated))


def _read(path: str, measured: Measured) -> int | None:
    usage = measured.usage
    if path in TOKEN_VALUES:
        if path == "usage.total":
            return usage.known_total
        kind = path.removeprefix("usage.")
        count: int | None = getattr(usage, kind)
        if count is None and kind not in ("input", "output") and not usage.missing:
            # A provider that counts tokens and says nothing of a part has none of it.
            return 0
        return count
    return {
        "requests": 1,
        "duration_ms": measured.duration_ms,
        "request_bytes": measured.request_bytes,
        "response_bytes": measured.response_bytes,
    }[path]


def _stand_in(meter: Meter, bound: int, measured: Measured) -> int:
    match meter.on_missing:
        case OnMissing.ZERO:
            return 0
        case OnMissing.BYTES:
            # A token is at least one byte of text, so bytes bound tokens from above; the
            # hold's own bound may be lower still.
            by_side = {
                "usage.input": measured.request_bytes,
                "usage.cache_read": measured.request_bytes,
                "usage.cache_creation": measured.request_bytes,
                "usage.total": measured.request_bytes + measured.response_bytes,
            }
            return min(bound, by_side.get(meter.value, measured.response_bytes))
        case OnMissing.CAPTURE_ESTIMATE:
            return bound
