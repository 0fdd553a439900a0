"""From usage to each meter's quantity: bounds before a request, real counts after it."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.domain.meter_values import TOKEN_VALUES, Shape, read_path
from sidecar.domain.meters import GROUP_VALUE_CHARS_MAX, Aggregation, Meter
from sidecar.domain.usage import (
    QUANTITY_MAX,
    TOKEN_KINDS,
    OnMissing,
    TokenUsage,
    UsageFacts,
    failed_for_nothing,
)

UNUSABLE: Final = "unusable_quantity"
"""A fact is there, but it is no count: negative, a fraction, or no number at all."""
MISSING: Final = "missing_quantity"
"""A fact is not there, and nothing bounds what it could have been."""

_HASH_DIGITS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose request it was, and what the check noted of it, by dotted names."""

    customer_id: str = ""
    plan: str = ""
    team_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    route: str = ""
    noted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """
    A finished request's counts beside its tokens; None where the report does not tell.

    `model` is the one that served, `asked_model` the one that the request named.
    """

    usage: TokenUsage
    status: int | None
    duration_ms: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    model: str = ""
    asked_model: str = ""
    facts: UsageFacts = field(default_factory=UsageFacts)
    caller: Caller = field(default_factory=Caller)

    @property
    def failed_for_nothing(self) -> bool:
        """Whether the upstream failed before it served anything."""
        return self.facts.raw is None and failed_for_nothing(self.status, self.usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one request adds to one meter: its quantity, its group, a hash of a distinct value."""

    quantity: int
    groups: Mapping[str, str] = field(default_factory=dict)
    text_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredQuantities:
    """
    What each meter takes; `estimated` names those whose count the response left out.

    `skipped` tells why a meter of the hold takes nothing. `refusal` is why the whole report
    has to be set aside, with the `culprit`'s name.
    """

    observed: Mapping[str, Observed]
    estimated: frozenset[str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""
    culprit: str = ""

    @property
    def quantities(self) -> dict[str, int]:
        """Quantities by meter, those of additive meters and others alike."""
        return {name: observed.quantity for name, observed in self.observed.items()}


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
        "request.bytes": request_bytes,
    }
    return {meter.name: min(_bound(meter, bounds), QUANTITY_MAX) for meter in meters}


def _bound(meter: Meter, bounds: Mapping[str, int]) -> int:
    if meter.aggregation is Aggregation.COUNT:
        return 1
    if not meter.aggregation.additive:
        return 0
    return meter.max_quantity or bounds.get(meter.value, 0)


def measure_quantities(
    meters: Mapping[str, Meter], estimate: Mapping[str, int], measured: Measured
) -> MeteredQuantities:
    """
    What each meter of the hold really counts.

    A meter whose status filter does not fit counts 0, and so does one whose value is not there
    because the upstream failed. A meter whose value the response left out follows its
    `on_missing`; where not even a bound is known, and where a value is there
    but is no count, the report is refused: unknown is never free.

    Args:
        meters: The rate card's meters.
        estimate: Meters that matched the request at the check, with the hold's upper bound.
        measured: The response's counts.
    """
    variables = meter_variables(measured)
    observed: dict[str, Observed] = {}
    estimated: set[str] = set()
    skipped: dict[str, str] = {}
    for name, bound in estimate.items():
        meter = meters[name]
        if meter.statuses and measured.status not in meter.statuses:
            skipped[name] = f"status {measured.status} is none of {sorted(meter.statuses)}"
            if meter.aggregation.additive:
                observed[name] = Observed(quantity=0)
            continue
        groups = _groups(meter, measured, variables)
        if meter.aggregation is Aggregation.COUNT:
            observed[name] = Observed(quantity=1, groups=groups)
            continue
        found = _found(meter, variables)
        if meter.aggregation is Aggregation.UNIQUE:
            if found is None:
                skipped[name] = "its value is not there"
            else:
                observed[name] = Observed(quantity=1, groups=groups, text_hash=_hash(found))
            continue
        quantity = _as_count(found)
        if found is None and meter.aggregation.additive:
            estimated.add(name)
            quantity = _stand_in(meter, bound, measured)
        if quantity is not None:
            observed[name] = Observed(quantity=quantity, groups=groups)
        elif meter.aggregation.additive:
            return MeteredQuantities(
                observed={},
                estimated=frozenset(),
                refusal=MISSING if found is None else UNUSABLE,
                culprit=name,
            )
        else:
            skipped[name] = "its value is not there" if found is None else "its value is no count"
    # Of a failure it is known that nothing was used.
    guessed = frozenset() if measured.failed_for_nothing else frozenset(estimated)
    return MeteredQuantities(observed=observed, estimated=guessed, skipped=skipped)


def assume_quantities(
    meters: Mapping[str, Meter], estimate: Mapping[str, int], measured: Measured
) -> MeteredQuantities:
    """
    What each meter of a hold counts where no report came: its bound, whatever the status was.

    A meter whose `on_missing` is zero counts 0; one that is not additive has seen nothing.
    """
    variables = meter_variables(measured)
    observed = {
        name: Observed(
            quantity=0 if meters[name].on_missing is OnMissing.ZERO else bound,
            groups=_groups(meters[name], measured, variables),
        )
        for name, bound in estimate.items()
        if meters[name].aggregation.additive
    }
    return MeteredQuantities(observed=observed, estimated=frozenset(observed))


def meter_variables(measured: Measured) -> dict[str, Any]:
    """What expressions and paths read; whatever is not known is left out."""
    caller, facts = measured.caller, measured.facts
    request: dict[str, Any] = {"model": measured.asked_model or measured.model, "headers": {}}
    labels: dict[str, str] = {}
    for name, value in caller.noted.items():
        if name.startswith("request.headers."):
            request["headers"][name.removeprefix("request.headers.")] = value
        elif name.startswith("customer.labels."):
            labels[name.removeprefix("customer.labels.")] = value
        else:
            request[name.removeprefix("request.")] = value
    usage: dict[str, Any] = {
        kind: count
        for kind in TOKEN_KINDS
        if (count := token_count(kind, measured.usage)) is not None
    }
    response: dict[str, Any] = {"headers": facts.headers}
    known: tuple[tuple[dict[str, Any], str, Any], ...] = (
        (usage, "raw", facts.raw),
        (request, "bytes", measured.request_bytes),
        (response, "bytes", measured.response_bytes),
        (response, "duration_ms", measured.duration_ms),
        (response, "status", measured.status),
        (response, "body", facts.body),
    )
    for group, name, fact in known:
        if fact is not None:
            group[name] = fact
    return {
        "usage": usage,
        "request": request,
        "response": response,
        "metadata": facts.metadata,
        "customer": {"id": caller.customer_id, "plan": caller.plan, "labels": labels},
        "user": {"id": caller.user_id},
        "team": {"id": caller.team_id},
        "key": {"id": caller.credential_id},
    }


def token_count(kind: str, usage: TokenUsage) -> int | None:
    """The count of a kind; None where the provider did not tell."""
    if kind == "total":
        return usage.known_total
    count: int | None = getattr(usage, kind)
    if count is None and kind not in ("input", "output") and not usage.missing:
        # A provider that counts tokens and says nothing of a part has none of it.
        return 0
    return count


def _found(meter: Meter, variables: Mapping[str, Any]) -> Any:
    """The value as the facts have it; None where they do not tell."""
    if meter.value == "requests":
        return 1
    value = meter.parsed
    found = value.look_up(variables)
    if isinstance(found, str) and value.shape is Shape.PATH and found == "":
        return None
    return found


def _as_count(found: Any) -> int | None:
    """A whole number from 0 to QUANTITY_MAX, also as digits of a header; else None."""
    if isinstance(found, str):
        # No sign, point, space or other script.
        if not (found.isascii() and found.isdigit() and len(found) <= len(str(QUANTITY_MAX))):
            return None
        found = int(found)
    elif isinstance(found, float):
        if not found.is_integer():
            return None
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= QUANTITY_MAX:
        return None
    return found


def _hash(found: Any) -> str:
    """A distinct value as a hash: what callers send is compared, not kept."""
    return hashlib.sha256(str(found).encode("utf-8", "replace")).hexdigest()[:_HASH_DIGITS]


def _groups(meter: Meter, measured: Measured, variables: Mapping[str, Any]) -> dict[str, str]:
    return {
        group: _group_text(_group(group, measured, variables))[:GROUP_VALUE_CHARS_MAX]
        for group in meter.group_by
    }


def _group(group: str, measured: Measured, variables: Mapping[str, Any]) -> object:
    caller = measured.caller
    match group:
        case "model":
            return measured.model
        case "route":
            return caller.route
        case "user":
            return caller.user_id
        case "team":
            return caller.team_id
        case "key":
            return caller.credential_id
        case "response.status":
            return measured.status
    if group.startswith("label:"):
        return caller.noted.get(f"customer.labels.{group.removeprefix('label:')}", "")
    return read_path(variables, group)


def _group_text(value: object) -> str:
    """A group's value as one printable line; "" where the facts do not tell."""
    if value is None or isinstance(value, Mapping | list):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "".join(char if char.isprintable() else "?" for char in str(value))


def _stand_in(meter: Meter, bound: int, measured: Measured) -> int | None:
    """What counts for a value that is not there; None where nobody can say."""
    if measured.failed_for_nothing:
        return 0
    match meter.on_missing:
        case OnMissing.ZERO:
            return 0
        case OnMissing.BYTES:
            # A token is at least one byte of text, so bytes bound tokens from above; the
            # hold's own bound may be lower still.
            request, response = measured.request_bytes or 0, measured.response_bytes or 0
            by_side = {
                "usage.input": request,
                "usage.cache_read": request,
                "usage.cache_creation": request,
                "usage.total": request + response,
            }
            return min(bound, by_side.get(meter.value, response))
        case OnMissing.CAPTURE_ESTIMATE:
            return bound if bound or meter.value in TOKEN_VALUES else None
