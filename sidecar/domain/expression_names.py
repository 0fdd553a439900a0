"""
What an expression names: paths, functions and macros, checked and replaced by slots.

Each static path (`request.headers["x-tier"]`) becomes a slot: a plain variable that is filled
before each evaluation. So only what is read is handed to the library, and a key that is
absent can read as "" without being there for `in`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from sidecar.domain import money
from sidecar.domain.errors import InvalidInput
from sidecar.domain.expression_functions import (
    MACROS,
    check_call,
    check_literal,
    pattern,
    string_value,
)
from sidecar.domain.expression_text import Token, TokenKind, closers, split
from sidecar.domain.expression_variables import Kind, Variable, VariableTable, dotted

PLUS_MAX = 16
PLUS_IN_MACRO_MAX = 2
COPYING_MACROS_MAX = 2
NAMES_IN_MAP_MAX = 3
"""Joining copies, and `map` and `filter` copy all they have for each element more: a string of
1 MB 400 times takes a minute. What is read is bounded by `expression_costs`."""
COPYING_MACROS = frozenset({"map", "filter"})


class _Absent(Enum):
    """A kind of its own, which stays the same one through a pickle."""

    ABSENT = auto()


ABSENT: Any = _Absent.ABSENT
_BEFORE_OPERAND = frozenset({"", "(", "[", ",", "?", ":", "&&", "||"})
_AFTER_OPERAND = frozenset({"", ")", "]", ",", "?", ":", "&&", "||"})
_OPERAND_ENDS = (TokenKind.NAME, TokenKind.STRING, TokenKind.NUMBER, TokenKind.INDEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """
    One thing to fetch before an evaluation.

    `default` stands for a value that is absent; ABSENT leaves the slot unset, so that using
    it fails. With `presence` the slot tells whether the value is there.
    """

    name: str
    source: str
    path: tuple[str | int, ...]
    variable: Variable
    default: Any
    presence: bool = False

    @property
    def whole_map(self) -> bool:
        """Whether a whole map of strings is read."""
        return self.variable.kind is Kind.STRING_MAP and self.default is ABSENT

    @property
    def dynamic(self) -> bool:
        """Whether nothing is known of its value's type."""
        return self.variable.kind is Kind.DYNAMIC and not self.presence


@dataclass(slots=True, kw_only=True)
class Names:
    """What a scan found, and the edits that make the text ready for the library."""

    slots: dict[tuple[tuple[str | int, ...], bool], Slot] = field(default_factory=dict)
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    macros: list[str] = field(default_factory=list)
    bound: set[str] = field(default_factory=set)
    names_in_map: int = 0
    edits: list[tuple[int, int, str]] = field(default_factory=list)

    def rewritten(self, text: str) -> str:
        """The text with all edits made."""
        for start, end, replacement in sorted(self.edits, reverse=True):
            text = text[:start] + replacement + text[end:]
        return text


def scan(text: str, tokens: tuple[Token, ...], table: VariableTable) -> Names:
    """
    Find and check all names of an expression that the library could parse.

    Raises:
        InvalidInput: If a name is unknown or is used as it must not be.
    """
    return _Scan(text, tokens, table).run()


class _Scan:
    """One pass over the words. `scopes` are the macros whose arguments are being read."""

    def __init__(self, text: str, tokens: tuple[Token, ...], table: VariableTable) -> None:
        self.text = text
        self.tokens = tokens
        self.table = table
        self.pairs = closers(tokens)
        self.scopes: list[tuple[int, str, str]] = []
        self.names = Names()

    def run(self) -> Names:
        """Read all words in order."""
        number = pluses = pluses_in_macro = names_in_map = 0
        while number < len(self.tokens):
            while self.scopes and number >= self.scopes[-1][0]:
                self.scopes.pop()
            kind = self.tokens[number].kind
            if kind is TokenKind.NAME:
                in_map = bool(self.scopes) and self.scopes[-1][2] == "map"
                value = not self._sign(number - 1, ".") and not self._sign(number + 1, "(")
                names_in_map += in_map and value
                number = self._name(number)
                continue
            if kind is TokenKind.STRING:
                number = self._key_in_map(number)
                continue
            if self._sign(number, "+"):
                pluses += 1
                pluses_in_macro += bool(self.scopes)
            number += 1
        copying = sum(macro in COPYING_MACROS for macro in self.names.macros)
        _at_most(PLUS_MAX, pluses, "'+'")
        _at_most(PLUS_IN_MACRO_MAX, pluses_in_macro, "'+' inside macros")
        maps = self.names.macros.count("map")
        _at_most(NAMES_IN_MAP_MAX * maps, names_in_map, "a name inside map()")
        self.names.names_in_map = names_in_map
        _at_most(COPYING_MACROS_MAX, copying, "map() or filter()")
        return self.names

    def _key_in_map(self, number: int) -> int:
        """Turn `"key" in request.headers` into a slot, to spare handing over the whole map."""
        if self.tokens[number + 1].text != "in" or not self._is_root(number + 2):
            return number + 1
        path, after = self._segments(number + 2)
        before = self.tokens[number - 1] if number else self.tokens[-1]
        following = self.tokens[after]
        bounded = before.text in _BEFORE_OPERAND and following.text in _AFTER_OPERAND
        if not bounded or TokenKind.STRING in (before.kind, following.kind):
            return number + 1
        variable, length = self.table.resolve(path)
        if variable.kind is not Kind.STRING_MAP or length < len(path):
            return number + 1
        path = (*path, string_value(self.tokens[number].text))
        self.table.resolve(path)
        self._slot(path, variable, number, after, presence=True)
        return after

    def _is_root(self, number: int) -> bool:
        token = self.tokens[number]
        return token.kind is TokenKind.NAME and token.text in self.table.roots

    def _sign(self, number: int, text: str) -> bool:
        if not 0 <= number < len(self.tokens):
            return False
        return self.tokens[number].kind is TokenKind.SIGN and self.tokens[number].text == text

    def _name(self, number: int) -> int:
        """Read what begins with the name; answers the number of the word after it."""
        word = self.tokens[number].text
        if self._sign(number + 1, "{"):
            raise InvalidInput(_message(word))
        if self._sign(number - 1, "."):
            self._refuse_leading_dot(number)
            if self._sign(number + 1, "("):
                return self._call(number, method=True)
            return number + 1
        if self._sign(number + 1, "("):
            return self._call(number, method=False)
        if any(word == bound for _, bound, _ in self.scopes):
            return number + 1
        return self._path(number)

    def _refuse_leading_dot(self, number: int) -> None:
        before = self.tokens[number - 2] if number >= 2 else None  # noqa: PLR2004  The one before the dot.
        if before is None or (
            before.kind not in _OPERAND_ENDS and before.text not in (")", "]", "}")
        ):
            raise InvalidInput(
                f"a name cannot begin with a dot; found '.{self.tokens[number].text}'"
            )

    def _call(self, number: int, *, method: bool) -> int:
        word, opening = self.tokens[number].text, number + 1
        closing = self.pairs[opening]
        parts = split(self.tokens, self.pairs, opening + 1, closing, ",")
        arguments = 0 if closing == opening + 1 else len(parts)
        check_call(word, method=method, arguments=arguments)
        if word in MACROS:
            return self._macro(number, closing)
        only = self.tokens[opening + 1] if closing == opening + 2 else None
        literal = only if only is not None and only.kind is TokenKind.STRING else None
        if word == "has":
            return self._has(number, closing)
        if word == "money":
            return self._money(number, closing, literal)
        if word == "matches":
            return self._matches(number, closing, literal)
        if literal is not None and word in ("timestamp", "duration", "int", "double"):
            check_literal(word, literal.text)
        return opening + 1

    def _macro(self, number: int, closing: int) -> int:
        word, variable = self.tokens[number].text, self.tokens[number + 2].text
        if self.tokens[number + 2].kind is not TokenKind.NAME or not self._sign(number + 3, ","):
            raise InvalidInput(f"{word}() takes a plain name first, such as {word}(x, ...)")
        if self.scopes:
            raise InvalidInput(
                f"{word}() stands inside {self.scopes[-1][2]}(); macros do not nest, "
                "chain them instead"
            )
        if variable.startswith("_") or variable in self.table.roots:
            raise InvalidInput(
                f"{word}() cannot bind {variable!r}; choose a name that begins with a letter "
                "and is no variable's"
            )
        self.scopes.append((closing, variable, word))
        self.names.macros.append(word)
        self.names.bound.add(variable)
        return number + 4  # After the name, the bracket, the variable and the comma.

    def _has(self, number: int, closing: int) -> int:
        first = self.tokens[number + 2]
        if first.kind is TokenKind.NAME and any(first.text == scope[1] for scope in self.scopes):
            return number + 3
        path, after = self._segments(number + 2)
        if first.kind is not TokenKind.NAME or after != closing:
            raise InvalidInput("has() takes a path that is written out, such as request.body.user")
        variable, length = self.table.resolve(path)
        if length == len(path):
            raise InvalidInput(f"has({dotted(path)}) is always true; leave it out")
        self._slot(path, variable, number, closing + 1, presence=True)
        return closing + 1

    def _money(self, number: int, closing: int, literal: Token | None) -> int:
        if literal is None:
            raise InvalidInput('money() takes an amount that is written out, such as money("5.00")')
        nano = money.parse_amount(string_value(literal.text))
        replacement = str(nano) if nano >= 0 else f"({nano})"
        self._edit(number, closing + 1, replacement)
        return closing + 1

    def _matches(self, number: int, closing: int, literal: Token | None) -> int:
        if literal is None:
            raise InvalidInput("matches() takes a pattern that is written out as one string")
        name = f"_re{len(self.names.functions)}"
        self.names.functions[name] = pattern(string_value(literal.text))
        self._edit(number, closing + 1, f"{name}()")
        return closing + 1

    def _path(self, number: int) -> int:
        path, after = self._segments(number)
        variable, length = self.table.resolve(path)
        if self._sign(after, "{"):
            raise InvalidInput(_message(dotted(path)))
        if self._sign(after, "[") and variable.kind not in (Kind.DYNAMIC, Kind.STRING_MAP):
            raise InvalidInput(f"{dotted(path)} cannot be indexed")
        is_value = variable.kind is Kind.STRING_MAP and len(path) > length
        if self._sign(after, "[") and is_value:
            raise InvalidInput(f"{dotted(path)} is a string and cannot be indexed")
        if self.scopes and variable.kind is Kind.DYNAMIC:
            raise InvalidInput(
                f"{dotted(path)} cannot be read inside {self.scopes[-1][2]}(), where it would "
                f"be read once per element; only {self.scopes[-1][1]!r} and values of bounded "
                "size can"
            )
        self._slot(path, variable, number, after, presence=False)
        return after

    def _segments(self, number: int) -> tuple[tuple[str | int, ...], int]:
        """The static path that begins here, and the number of the word after it."""
        path: list[str | int] = [self.tokens[number].text]
        number += 1
        while True:
            following = self.tokens[min(number + 1, len(self.tokens) - 1)]
            if self._sign(number, ".") and following.kind is TokenKind.NAME:
                if self._sign(number + 2, "("):
                    break
                path.append(following.text)
                number += 2
            elif self._sign(number, "[") and self._sign(number + 2, "]"):
                if following.kind is TokenKind.STRING:
                    path.append(string_value(following.text))
                elif following.kind is TokenKind.INDEX:
                    path.append(int(following.text))
                else:
                    break
                number += 3
            else:
                break
        return tuple(path), number

    def _slot(
        self,
        path: tuple[str | int, ...],
        variable: Variable,
        number: int,
        after: int,
        *,
        presence: bool,
    ) -> None:
        key = (path, presence)
        slot = self.names.slots.get(key)
        if slot is None:
            start, end = self.tokens[number].start, self.tokens[after - 1].end
            slot = Slot(
                name=f"_{len(self.names.slots)}",
                source=self.text[start:end],
                path=path,
                variable=variable,
                default=_default(path, variable),
                presence=presence,
            )
            self.names.slots[key] = slot
        self._edit(number, after, slot.name)

    def _edit(self, number: int, after: int, replacement: str) -> None:
        start, end = self.tokens[number].start, self.tokens[after - 1].end
        # A blank on each side keeps the replacement from growing into its neighbours.
        self.names.edits.append((start, end, f" {replacement} "))


def _message(name: str) -> str:
    return f"{name}{{...}} would build a message; only maps can be written"


def _at_most(maximum: int, found: int, what: str) -> None:
    if found > maximum:
        raise InvalidInput(f"the expression has {found} times {what}, at most {maximum}")


def _default(path: tuple[str | int, ...], variable: Variable) -> Any:
    """What an absent value reads as; only named keys of maps have an answer."""
    if variable.kind is Kind.RECORD_MAP:
        return 0
    if variable.kind is Kind.STRING_MAP and len(path) > 2:  # noqa: PLR2004  Root, name, key.
        return ""
    return ABSENT
