"""Names out of a token's claims: found by their path, and only such as can be kept."""

from collections.abc import Mapping
from typing import Any

NAME_LENGTH_MAX = 255
CLAIMS_UNCLEAR = "the gateway's metadata holds no claims that can be told for certain"
_EXACT_MAX = 2**53
"""From here on a double stands for several whole numbers: two customers would be one."""


def is_identity_name(name: str) -> bool:
    """Whether a text may name a customer, team or user: one line that prints as it is."""
    return 0 < len(name) <= NAME_LENGTH_MAX and name.isprintable() and name == name.strip()


def find_payload(
    namespace: Mapping[str, Any], payload: str, customer_path: str
) -> Mapping[str, Any] | None:
    """
    A token's claims inside a metadata namespace.

    Args:
        namespace: What a filter of the gateway wrote.
        payload: The key that has the claims; empty: they stand in the namespace itself, or
            in the only mapping inside it, as `payload_in_metadata` of jwt_authn has it.
        customer_path: The claim that has to be there.

    Returns:
        None where there are none, or where two mappings could be meant.
    """
    if payload:
        inner = namespace.get(payload)
        return inner if isinstance(inner, Mapping) else None
    if _find(namespace, customer_path) is not None:
        return namespace
    inner_ones = [value for value in namespace.values() if isinstance(value, Mapping)]
    return inner_ones[0] if len(inner_ones) == 1 else None


def claim_text(claims: Mapping[str, Any], path: str) -> str | None:
    """
    The name at a path: "" where there is nothing, None where it cannot be used.

    Ids are texts or whole numbers. A number that came as a double is written as the whole
    number that it is, if it stands for one alone.
    """
    value = _find(claims, path)
    if value is None:
        return ""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= _EXACT_MAX:
            return None
        value = int(value)
    if isinstance(value, int):
        if abs(value) >= 10**NAME_LENGTH_MAX:
            return None  # Python refuses to print a number of thousands of digits.
        value = str(value)
    return value if isinstance(value, str) and is_identity_name(value) else None


def _find(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that whole name, else what the path leads to; None if there is none."""
    whole = claims.get(path)
    if whole is not None or "." not in path:
        return whole
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found
