"""What an edge tells meters of a response besides tokens: bounded, and in JSON's types."""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sidecar.domain.errors import InvalidInput
from sidecar.domain.usage import UsageFacts
from sidecar.inbound.extraction.token_usage import DOUBLE_EXACT_MAX

JSON_BYTES_MAX: Final = 8_192
"""Of a usage object, a response's body, or metadata; a larger one is refused, never cut."""
METADATA_DEPTH_MAX: Final = 8


def make_facts(
    headers: Mapping[str, str],
    metadata: Mapping[str, str],
    *,
    nested: Mapping[str, object] | None = None,
) -> UsageFacts:
    """
    Facts of a log entry.

    Args:
        headers: Response headers.
        metadata: By dotted path, as text: a number or JSON is read as such, all else is text.
        nested: Metadata whose types the log has kept; wins over `metadata`.
    """
    return UsageFacts(
        headers={name.lower(): value for name, value in headers.items()},
        metadata=_unfold(metadata) if nested is None else whole_numbers(nested),
    )


def bounded_json(value: Any, *, field: str) -> Any:
    """
    A JSON value, its numbers made whole where they can be.

    Raises:
        InvalidInput: If it is larger than JSON_BYTES_MAX or holds what JSON cannot.
    """
    try:
        size = len(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"{field} is no JSON", field=field) from error
    if size > JSON_BYTES_MAX:
        raise InvalidInput(
            f"{field} has {size} bytes as JSON, at most {JSON_BYTES_MAX}; "
            "send only what meters read",
            field=field,
        )
    return whole_numbers(value)


def whole_numbers(value: Any) -> Any:
    """
    The same with doubles that are whole as integers.

    Envoy keeps every number as a double, and an expression does not multiply one by an integer.
    """
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= DOUBLE_EXACT_MAX else value
    if isinstance(value, Mapping):
        return {name: whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return value


def _unfold(paths: Mapping[str, str]) -> dict[str, Any]:
    """Dotted paths as nested mappings; a path that runs through another's value is left out."""
    root: dict[str, Any] = {}
    for path, text in sorted(paths.items()):
        *way, last = path.split(".")[:METADATA_DEPTH_MAX]
        place: Any = root
        for step in way:
            place = place.setdefault(step, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.setdefault(last, _value(text))
    return root


def _value(text: str) -> Any:
    """A number, boolean or JSON as such; Envoy prints whole doubles without a point."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    return whole_numbers(value)
