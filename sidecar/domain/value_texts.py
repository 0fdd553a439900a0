"""
The text that a JSON value has where rules look for a pattern in it.

Source: ECMA-262, ToString. JavaScript's is the form that rules written for other agents
expect; for texts, whole numbers, true and false it is also JSON's.
"""

from decimal import Decimal
from typing import Any

_DIGITS_MAX = 21
_ZEROS_MAX = 6


def value_text(value: Any) -> str:
    """The text of a JSON value; a list is its items' texts joined by commas."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number_text(value)
    if isinstance(value, list):
        # An absent item has no text of its own inside a list.
        return ",".join("" if item is None else value_text(item) for item in value)
    return "[object Object]"


def _number_text(value: float) -> str:
    """The shortest digits that read back as the same double."""
    try:
        number = float(value)
    except OverflowError:
        return "Infinity" if value > 0 else "-Infinity"
    if number in (float("inf"), float("-inf")):
        return "Infinity" if number > 0 else "-Infinity"
    if not number:
        return "0"
    _, parts, exponent = Decimal(repr(abs(number))).normalize().as_tuple()
    assert isinstance(exponent, int)
    sign = "-" if number < 0 else ""
    digits = "".join(str(part) for part in parts)
    point = len(digits) + exponent
    return sign + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """Digits with their decimal point, or with an exponent where they would be too long."""
    if len(digits) <= point <= _DIGITS_MAX:
        return digits.ljust(point, "0")
    if 0 < point <= _DIGITS_MAX:
        return f"{digits[:point]}.{digits[point:]}"
    if -_ZEROS_MAX < point <= 0:
        return "0." + "0" * -point + digits
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"
