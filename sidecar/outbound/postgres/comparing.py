"""What a repeated write says otherwise than the first."""

from collections.abc import Iterable
from typing import Final

from sidecar.domain.errors import Conflict
from sidecar.domain.money import format_amount

_NANO: Final = "_nano"
_PRIVATE: Final = frozenset({"labels", "stripe_customer_id"})
"""May name a person, and messages end up in logs."""


def check_same(what: str, stored: object, wanted: object, fields: Iterable[str]) -> None:
    """
    Compare fields by name; amounts are told as people write them.

    Raises:
        Conflict: It names each field that differs, as it is and as it was asked for.
    """
    differing = [
        _difference(name, getattr(stored, name), getattr(wanted, name))
        for name in fields
        if getattr(stored, name) != getattr(wanted, name)
    ]
    if differing:
        raise Conflict(f"{what} exists with other content: {'; '.join(differing)}")


def _difference(name: str, stored: object, wanted: object) -> str:
    if name in _PRIVATE:
        return f"{name} is another"
    return f"{name.removesuffix(_NANO)} is {_told(name, stored)}, not {_told(name, wanted)}"


def _told(name: str, value: object) -> str:
    if value is None or value in ("", ()):
        return "unset"
    if isinstance(value, int) and name.endswith(_NANO):
        return format_amount(value)
    return str(value)
