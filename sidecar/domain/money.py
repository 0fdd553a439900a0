"""
Amounts: integers of 1e-9 of a currency's major unit ("nano").

Scale 9, because a token's price vanishes at cents and a scale is hard to raise later.
No float touches an amount. The one rounding of a
priced quantity is in `pricing`.
"""

import re
from typing import NewType

from sidecar.domain.errors import InvalidInput

Nano = NewType("Nano", int)

NANO_PER_UNIT = 1_000_000_000
AMOUNT_NANO_MAX = 4_000_000_000_000_000_000
"""Largest balance: sums of two still fit a signed 64-bit integer (Postgres BIGINT, HINCRBY)."""

_AMOUNT = re.compile(r"(-?)(\d{1,10})(?:\.(\d{1,9}))?", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
CREDITS = "credits"
"""A currency of the operator's own, beside the ISO 4217 codes."""


def parse_amount(text: str, *, field: str = "amount") -> Nano:
    """
    Read a decimal string such as "12.50" into nano, exactly.

    Raises:
        InvalidInput: If the text is no plain decimal, has more than 9 decimals, or is too large.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"{field} {text[:40]!r} is not an amount; write a decimal string such as "
            '"12.50" with at most 10 digits before and 9 after the point',
            field=field,
        )
    sign, whole, fraction = match.groups()
    nano = int(whole) * NANO_PER_UNIT + int((fraction or "").ljust(9, "0"))
    if nano > AMOUNT_NANO_MAX:
        raise InvalidInput(
            f"{field} {text} is too large; the maximum is {format_amount(AMOUNT_NANO_MAX)}",
            field=field,
        )
    return Nano(-nano if sign else nano)


def format_amount(nano: int) -> str:
    """Print nano as a decimal string with at least two decimals and no needless zeros."""
    whole, fraction = divmod(abs(nano), NANO_PER_UNIT)
    digits = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}{whole}.{digits}"


def parse_currency(text: str, *, field: str = "currency") -> str:
    """
    Check a currency: three capital letters (ISO 4217 form) or "credits".

    Raises:
        InvalidInput: If it is neither.
    """
    if text == CREDITS or _CURRENCY.fullmatch(text):
        return text
    raise InvalidInput(
        f"{field} {text[:20]!r} is not a currency; use three capital letters such as USD, "
        f'or "{CREDITS}"',
        field=field,
    )
