"""
What an evaluation may cost: the larger the expression, the less of a request it may read.

Expressions run between two checks of one event loop, and callers choose bodies. The bounds keep
an evaluation at about 20 ms on a slow core; what is beyond them fails, as anything does that
cannot be told. A long text alone is cheap: one search of 1 MiB is within them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.domain.expression_functions import MACROS
from sidecar.domain.expression_names import COPYING_MACROS, Names
from sidecar.domain.expression_text import Token, TokenKind, closers

VALUES_MAX = 6_000
"""Values of all JSON that is handed over; the library converts each, at up to 2.5 us."""
WALK_MAX = 40_000
"""Elements of a list times words inside macros, each of which may be evaluated for each."""
COPY_MAX = 120_000
"""Elements times values times copies: `map` and `filter` copy their result at each element."""
CHARS_MAX = 2_500_000
"""Characters times the functions and joins that go over them, 7 us for 1,000 at worst."""
JSON_DEPTH_MAX = 64
"""The library recurses: a list in a list, 10,000 deep, overflows the stack."""
_PASSING = frozenset({"has", "size", *MACROS})
"""What is called and yet goes over no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What an expression does with each element, with each value and with each character."""

    words: int
    copies: int
    passes: int


class Oversize(Exception):  # noqa: N818  Says what was found, and is no error of ours.
    """What makes a request too large for an expression."""


def costs_of(tokens: tuple[Token, ...], names: Names) -> Costs:
    """Count what an expression does, from its words."""
    pairs, words, passes = closers(tokens), 0, 0
    for number, token in enumerate(tokens):
        called = number + 1 in pairs and tokens[number + 1].text == "("
        if token.kind is TokenKind.NAME and called and token.text in MACROS:
            words += pairs[number + 1] - number
        passes += token.text == "+" or (
            token.kind is TokenKind.NAME and called and token.text not in _PASSING
        )
    copying = sum(macro in COPYING_MACROS for macro in names.macros)
    return Costs(words=words, copies=max(copying, names.names_in_map), passes=max(1, passes))


def check_costs(costs: Costs, read: Iterable[tuple[str, Any]]) -> None:
    """
    Refuse to evaluate what would take too long.

    Args:
        costs: Of the expression.
        read: What it reads, each by its source and with its value.

    Raises:
        Oversize: If it is too much; the message names no value.
    """
    values = chars = 0
    for source, value in read:
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, dict | list | Mapping):
            longest, more, text = _measure(source, value, VALUES_MAX - values)
            values, chars = values + more, chars + text
            most = VALUES_MAX
            if costs.words:
                most = WALK_MAX // costs.words
            if costs.copies:
                most = min(most, COPY_MAX // (max(1, more) * costs.copies))
            if longest > most:
                raise Oversize(
                    f"{source} has a list or object of {longest} elements, at most {most} here"
                )
    if chars * costs.passes > CHARS_MAX:
        raise Oversize(f"it reads {chars} characters, at most {CHARS_MAX // costs.passes} here")


def _measure(source: str, value: Any, values_max: int) -> tuple[int, int, int]:
    """Elements of the longest part, all values, and the characters of the texts among them."""
    level, longest, values, chars = [value], 0, 0, 0
    for _ in range(JSON_DEPTH_MAX):
        following: list[Any] = []
        for part in level:
            longest, values = max(longest, len(part)), values + len(part)
            if values > values_max:
                raise Oversize(f"{source} has more than {values_max} values")
            inside = part.values() if isinstance(part, Mapping) else part
            following += [item for item in inside if isinstance(item, dict | list)]
            chars += sum(len(item) for item in inside if isinstance(item, str))
        if not following:
            return longest, values, chars
        level = following
    raise Oversize(f"{source} nests deeper than {JSON_DEPTH_MAX}")
