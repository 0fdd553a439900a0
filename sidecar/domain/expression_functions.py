"""
The functions of expressions: the library's that we allow, and ours.

Ours never raise: the library would print a traceback's last line to stderr for each request.
They answer None instead, which no operator but `==` takes and no result kind accepts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import re2

from sidecar.domain.cel_library import cel
from sidecar.domain.errors import InvalidInput
from sidecar.domain.nearest import unknown

INTEGER_MAX = 2**63 - 1
PATTERN_MAX = 1_000
PATTERN_BYTES_MAX = 1024 * 1024
"""Memory of one compiled pattern; RE2 then searches in time linear in the text."""

LIBRARY_ERRORS = (
    ValueError,
    RuntimeError,
    TypeError,
    KeyError,
    IndexError,
    ArithmeticError,
)
"""What the library was seen to raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How many arguments a function takes when called `f(x)` and when called `x.f()`."""

    plain: tuple[int, int] | None = None
    method: tuple[int, int] | None = None


_ONE = Signature(plain=(1, 1))
_STRING_TEST = Signature(method=(1, 1))
_TIME_PART = Signature(method=(0, 0))
_ANY_NUMBER = Signature(plain=(1, 16))

FUNCTIONS: Mapping[str, Signature] = {
    "size": Signature(plain=(1, 1), method=(0, 0)),
    "has": _ONE,
    "contains": _STRING_TEST,
    "startsWith": _STRING_TEST,
    "endsWith": _STRING_TEST,
    "matches": _STRING_TEST,
    "string": _ONE,
    "int": _ONE,
    "double": _ONE,
    "bool": _ONE,
    "timestamp": _ONE,
    "duration": _ONE,
    "money": _ONE,
    "min": _ANY_NUMBER,
    "max": _ANY_NUMBER,
    "sum": _ONE,
    "lowerAscii": Signature(method=(0, 0)),
    **dict.fromkeys(
        (
            "getFullYear",
            "getMonth",
            "getDate",
            "getDayOfMonth",
            "getDayOfWeek",
            "getDayOfYear",
            "getHours",
            "getMinutes",
            "getSeconds",
            "getMilliseconds",
        ),
        _TIME_PART,
    ),
}
"""What may be called. `getMonth` and `getDayOfMonth` count from 0, `getDate` from 1."""

MACROS: Mapping[str, tuple[int, int]] = {
    "all": (2, 2),
    "exists": (2, 2),
    "exists_one": (2, 2),
    "map": (2, 3),
    "filter": (2, 2),
}


def check_call(name: str, *, method: bool, arguments: int) -> None:
    """
    Refuse a call of a function that does not exist, or is not called so.

    Raises:
        InvalidInput: If it is one.
    """
    signature = FUNCTIONS.get(name)
    if signature is None and name in MACROS:
        signature = Signature(method=MACROS[name])
    if signature is None:
        raise InvalidInput(unknown("function", name, (*FUNCTIONS, *MACROS)))
    allowed = signature.method if method else signature.plain
    if allowed is None:
        form = f"{name}(x)" if method else f"x.{name}()"
        raise InvalidInput(f"{name} is called as {form}")
    low, high = allowed
    if not low <= arguments <= high:
        count = str(low) if low == high else f"{low} to {high}"
        raise InvalidInput(f"{name} takes {count} arguments, found {arguments}")


def pattern(text: str) -> Callable[[Any], bool | None]:
    """
    A function that searches a string for a pattern.

    The library's own `matches` compiles its pattern at each call (30 us to 13 ms).

    Raises:
        InvalidInput: If the pattern is too long, or RE2 does not take it.
    """
    if len(text) > PATTERN_MAX:
        raise InvalidInput(f"a pattern of matches() has {len(text)} characters, at most 1000")
    options = re2.Options()
    options.max_mem = PATTERN_BYTES_MAX
    options.log_errors = False
    try:
        compiled = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        shown = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidInput(f"matches() cannot use the pattern {text[:80]!r}: {shown}") from None

    def found(value: Any) -> bool | None:
        return compiled.search(value) is not None if isinstance(value, str) else None

    return found


def check_literal(name: str, source: str) -> None:
    """
    Try a conversion of a literal, so that a misprint is found when the policy is read.

    Raises:
        InvalidInput: If the conversion fails.
    """
    try:
        cel.evaluate(f"{name}({source})")
    except LIBRARY_ERRORS:
        raise InvalidInput(f"{name}({source[:60]}) cannot be converted") from None


def string_value(source: str) -> str:
    """What a string literal stands for."""
    value = cel.evaluate(source)
    assert isinstance(value, str)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(arguments: tuple[Any, ...]) -> list[Any] | None:
    """The arguments, if they are all whole numbers or all doubles."""
    values = arguments[0] if len(arguments) == 1 else arguments
    if not isinstance(values, list | tuple) or not values:
        return [values] if _is_number(values) else None
    first = type(values[0])
    if any(type(value) is not first for value in values) or not _is_number(values[0]):
        return None
    return list(values)


def _least(*arguments: Any) -> Any:
    numbers = _numbers(arguments)
    return None if numbers is None else min(numbers)


def _greatest(*arguments: Any) -> Any:
    numbers = _numbers(arguments)
    return None if numbers is None else max(numbers)


def _total(values: Any) -> Any:
    if values == []:
        return 0
    numbers = _numbers((values,)) if isinstance(values, list) else None
    total = None if numbers is None else sum(numbers)
    # The library would silently make a double of a larger integer.
    return None if isinstance(total, int) and abs(total) > INTEGER_MAX else total


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value) if isinstance(value, str) else None


def _lower(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return value.encode().lower().decode()  # Bytes know ASCII only.


OURS: Mapping[str, Callable[..., Any]] = {
    "min": _least,
    "max": _greatest,
    "sum": _total,
    "bool": _boolean,
    "lowerAscii": _lower,
}
"""Functions that the library lacks."""
