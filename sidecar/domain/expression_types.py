"""
Types of an expression, found by trying it: the library has no type checker.

The text is cut at `&&`, `||`, `?`, `:` and brackets, and each piece is evaluated on samples of
the right types. So an error in a branch that a whole evaluation would skip is found too.
Pieces that read JSON of unknown shape are left to the evaluation.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sidecar.domain.cel_library import cel
from sidecar.domain.errors import InvalidInput
from sidecar.domain.expression_functions import LIBRARY_ERRORS, MACROS
from sidecar.domain.expression_names import Slot
from sidecar.domain.expression_text import Token, TokenKind, closers, split, tokenize
from sidecar.domain.expression_variables import Kind

_SLOT = re.compile(r" _(\d+) | _(\d+)$|^_(\d+)(?: |$)")
_PATTERN = re.compile(r" ?_re\d+\(\) ?")
_OTHER_RELATIONS = {"<", "<=", ">", ">=", "in"}
"""They bind as `==` does, from the left, so sides cannot be told by the sign alone."""
_SAMPLE_TIME = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
_TEXTS = ("1", "", "2024-01-02T03:04:05Z", "1h")
_WORDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a double",
    str: "a string",
    list: "a list",
    dict: "a map",
    type(None): "null",
}


class ResultKind(StrEnum):
    """What an expression must answer."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of the text that can stand alone, and what its place asks of it."""

    low: int
    high: int
    expected: ResultKind


def check_types(
    text: str,
    *,
    slots: Mapping[str, Slot],
    functions: Mapping[str, Callable[..., Any]],
    result: ResultKind,
) -> None:
    """
    Try all pieces of a rewritten expression.

    Raises:
        InvalidInput: If one cannot work for any values, or answers what its place cannot take.
    """
    tokens = tokenize(text)
    pairs = closers(tokens)
    trial = _Trial(text, slots, functions)
    for piece in _pieces(tokens, pairs, 0, len(tokens) - 1, result):
        found = trial.types(tokens, piece.low, piece.high)
        shown = trial.shown(tokens, piece.low, piece.high)
        _check_result(shown, found, piece.expected)
        words = {token.text for token in tokens[piece.low : piece.high]}
        for sign in () if words & _OTHER_RELATIONS else ("==", "!="):
            sides = split(tokens, pairs, piece.low, piece.high, sign)
            if len(sides) == 2:  # noqa: PLR2004  One comparison; chains compare booleans.
                _check_sides(shown, sign, [trial.types(tokens, *side) for side in sides])


def _check_result(shown: str, found: set[type], expected: ResultKind) -> None:
    allowed: tuple[type, ...] = (bool,)
    if expected is ResultKind.NUMBER:
        allowed = (int, float)
    for kind in found:
        if expected is not ResultKind.ANY and kind not in allowed:
            raise InvalidInput(f"{shown!r} is {_word(kind)}; expected {_ARTICLES[expected]}")


_ARTICLES = {ResultKind.BOOLEAN: "a boolean", ResultKind.NUMBER: "a number"}


def _check_sides(shown: str, sign: str, sides: list[set[type]]) -> None:
    left, right = ({float if kind is int else kind for kind in side} for side in sides)
    # Null may be compared with anything, and what could not be evaluated is not known.
    if not left or not right or left & right or type(None) in left | right:
        return
    words = " with ".join(_word(min(side, key=str)) for side in sides)
    raise InvalidInput(f"{shown!r} compares {words}, which {sign} never finds equal")


def _word(kind: type) -> str:
    return _WORDS.get(kind, f"a {kind.__name__}")


class _Trial:
    """Evaluates pieces on all samples."""

    def __init__(
        self, text: str, slots: Mapping[str, Slot], functions: Mapping[str, Callable[..., Any]]
    ) -> None:
        self._text = text
        self._slots = slots
        self._samples = [
            {**functions, **{name: _sample(slot, turn) for name, slot in slots.items()}}
            for turn in range(len(_TEXTS))
        ]

    def shown(self, tokens: tuple[Token, ...], low: int, high: int) -> str:
        """The piece as its author wrote it, but for blanks."""
        text = _PATTERN.sub("matches(...)", self._cut(tokens, low, high))
        return _SLOT.sub(self._source, text).strip()

    def _source(self, match: re.Match[str]) -> str:
        slot = self._slots.get(f"_{match[1] or match[2] or match[3]}")
        return match[0] if slot is None else slot.source

    def _cut(self, tokens: tuple[Token, ...], low: int, high: int) -> str:
        return self._text[tokens[low].start : tokens[high - 1].end] if high > low else ""

    def types(self, tokens: tuple[Token, ...], low: int, high: int) -> set[type]:
        """
        Types that the piece was seen to answer; empty if that cannot be told.

        Raises:
            InvalidInput: If the operators or functions do not take what they are given.
        """
        names = {token.text for token in tokens[low:high] if token.kind is TokenKind.NAME}
        read = [self._slots[name] for name in names if name in self._slots]
        if any(slot.dynamic for slot in read):
            return set()
        try:
            program = cel.compile(self._cut(tokens, low, high))
        except LIBRARY_ERRORS:
            return set()  # No piece that can stand alone; the whole text has been compiled.
        found: set[type] = set()
        for sample in self._samples:
            try:
                found.add(type(program.execute(sample)))
            except TypeError as error:
                raise InvalidInput(self._misfit(tokens, low, high, str(error))) from None
            except LIBRARY_ERRORS as error:
                if str(error).startswith("Undefined variable or function: '"):
                    raise InvalidInput(self._misfit(tokens, low, high, str(error))) from None
                if not read:
                    shown = self.shown(tokens, low, high)
                    raise InvalidInput(f"{shown!r} fails, whatever is requested") from None
        return found

    def _misfit(self, tokens: tuple[Token, ...], low: int, high: int, message: str) -> str:
        shown = self.shown(tokens, low, high)
        operation = re.match(r"Unsupported operation: (.+?)\. CEL", message)
        function = re.match(r"Undefined variable or function: '(\w+)'", message)
        if operation:
            return f"{shown!r} cannot work: {operation[1]}; convert one side, e.g. with int(x)"
        if function:
            name = "matches" if function[1].startswith("_re") else function[1]
            return f"{shown!r} cannot work: {name}() does not take what it is given"
        return f"{shown!r} cannot work: an operator does not take what it is given"


def _sample(slot: Slot, turn: int) -> Any:
    if slot.presence:
        return turn % 2 == 0
    if slot.whole_map:
        return {"a": _TEXTS[turn], "b": _TEXTS[turn]}
    if slot.variable.kind in (Kind.INTEGER, Kind.RECORD_MAP):
        return (1, 0, 5, 7)[turn]
    if slot.variable.kind is Kind.BOOLEAN:
        return turn % 2 == 0
    return _SAMPLE_TIME if slot.variable.kind is Kind.TIMESTAMP else _TEXTS[turn]


def _pieces(
    tokens: tuple[Token, ...], pairs: dict[int, int], low: int, high: int, expected: ResultKind
) -> Iterator[Piece]:
    """All parts of `tokens[low:high]` that are values of their own, outermost first."""
    question = _first(tokens, pairs, low, high, "?")
    if question is not None:
        colon = _colon(tokens, pairs, question + 1, high)
        yield from _pieces(tokens, pairs, low, question, ResultKind.BOOLEAN)
        yield from _pieces(tokens, pairs, question + 1, colon, expected)
        yield from _pieces(tokens, pairs, colon + 1, high, expected)
        return
    for sign in ("||", "&&"):
        parts = split(tokens, pairs, low, high, sign)
        if len(parts) > 1:
            if expected is ResultKind.NUMBER:
                raise InvalidInput(f"the expression answers a boolean ({sign}); expected a number")
            for part in parts:
                yield from _pieces(tokens, pairs, *part, ResultKind.BOOLEAN)
            return
    if pairs.get(low) == high - 1 and tokens[low].text == "(":
        yield from _pieces(tokens, pairs, low + 1, high - 1, expected)
        return
    yield from _inner(tokens, pairs, low, high)
    yield Piece(low=low, high=high, expected=expected)


def _inner(
    tokens: tuple[Token, ...], pairs: dict[int, int], low: int, high: int
) -> Iterator[Piece]:
    """Pieces within brackets; a macro's arguments have no value outside it."""
    number = low
    while number < high:
        closing = pairs.get(number)
        if closing is None:
            number += 1
            continue
        is_macro = number > low and tokens[number - 1].text in MACROS
        if tokens[number].text != "{" and not is_macro and closing > number + 1:
            for part in split(tokens, pairs, number + 1, closing, ","):
                if part[0] < part[1]:  # A list may end with a comma.
                    yield from _pieces(tokens, pairs, *part, ResultKind.ANY)
        number = closing + 1


def _first(
    tokens: tuple[Token, ...], pairs: dict[int, int], low: int, high: int, sign: str
) -> int | None:
    end = split(tokens, pairs, low, high, sign)[0][1]
    return end if end < high else None


def _colon(tokens: tuple[Token, ...], pairs: dict[int, int], low: int, high: int) -> int:
    """The colon that belongs to the question mark before `low`."""
    open_questions, number = 0, low
    while number < high:
        sign = tokens[number].text if tokens[number].kind is TokenKind.SIGN else ""
        if sign == ":" and open_questions == 0:
            return number
        open_questions += {"?": 1, ":": -1}.get(sign, 0)
        number = pairs.get(number, number) + 1
    raise InvalidInput("the expression has a '?' without its ':'")
