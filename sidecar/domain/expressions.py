"""
Expressions of a policy: a rule's `when` and a meter's `value`, in CEL.

The library evaluates; what it does not check is checked here when the policy is read: names,
functions, types, and that the work of an evaluation is bounded.

A key of a map of strings that the expression writes out and that is absent reads as "", so
`customer.labels.trial != "yes"` holds for a customer without the label; `has(...)` and `in`
tell whether it is there. A quota that has no use yet reads as zeros.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cel

from sidecar.domain.errors import InvalidInput
from sidecar.domain.expression_functions import INTEGER_MAX, LIBRARY_ERRORS, OURS
from sidecar.domain.expression_names import ABSENT, COPYING_MACROS, Names, Slot, scan
from sidecar.domain.expression_text import BYTES_MAX, tokenize
from sidecar.domain.expression_types import ResultKind, check_types
from sidecar.domain.expression_variables import (
    METER_VARIABLES,
    RULE_VARIABLES,
    Kind,
    Variable,
    VariableTable,
    dotted,
)

__all__ = [
    "METER_VARIABLES",
    "RULE_VARIABLES",
    "Expression",
    "ExpressionFailed",
    "Kind",
    "ResultKind",
    "ValueRead",
    "Variable",
    "VariableTable",
    "compile_expression",
]

VALUES_MAX = 20_000
"""Values of one JSON that is read; the library converts each, at up to 2 us."""
JSON_DEPTH_MAX = 64
"""The library recurses: a list in a list, 10,000 deep, overflows the stack."""
ELEMENTS_MAX = 10_000
COPIED_ELEMENTS_MAX = 500
"""Elements that macros walk. `map` and `filter` copy their list at each: 10,000 take 3 s."""
EXACT_DOUBLE_MAX = 2**53
_SYNTAX_SHOWN_MAX = 160
_STORE_ROOTS = frozenset({"credits", "quotas", "invoices"})


class ExpressionFailed(InvalidInput):
    """An evaluation gave no answer. The message tells why, and no value of the request."""


class ValueRead(NamedTuple):
    """One thing that an expression reads: as its text says, by its path, and what is there."""

    source: str
    path: tuple[str | int, ...]
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What an evaluation needs."""

    program: cel.Program
    slots: tuple[Slot, ...]
    functions: Mapping[str, Callable[..., Any]]
    elements_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """
    One expression, checked and ready.

    `reads` are the dotted paths that it names, with the keys that are written out; `roots`
    their first parts. Pickles as its text and compiles again when loaded.
    """

    text: str
    table: VariableTable
    result: ResultKind
    roots: frozenset[str] = field(compare=False)
    reads: frozenset[str] = field(compare=False)
    _prepared: _Prepared = field(compare=False, repr=False)

    @property
    def needs_store(self) -> bool:
        """Whether it reads what only the store knows; the hold is known before."""
        return bool(self.roots & _STORE_ROOTS)

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """
        The answer for these variables, nested as their names are; they are not changed.

        Args:
            variables: For example {"request": {"method": "POST"}}; only what the expression
                reads is looked at.

        Raises:
            ExpressionFailed: If it has no answer, or not one of its result kind.
        """
        prepared = self._prepared
        values: dict[str, Any] = dict(prepared.functions)
        absent: list[str] = []
        for slot in prepared.slots:
            value = _fetch(variables, slot)
            if value is ABSENT:
                absent.append(slot.source)
            else:
                values[slot.name] = self._bounded(value, slot)
        failure = ""
        answer: Any = None
        try:
            answer = prepared.program.execute(values)
        except LIBRARY_ERRORS as error:
            failure = _reason(error, absent)
        if failure:  # Raised here, so that the library's error, with values, is not its context.
            raise self._failed(failure)
        return self._checked(answer)

    def values_read(self, variables: Mapping[str, Any]) -> tuple[ValueRead, ...]:
        """What it reads of these variables, for people: bounds of an evaluation do not count."""
        found = ((slot, _fetch(variables, slot)) for slot in self._prepared.slots)
        return tuple(
            ValueRead(slot.source, slot.path, None if value is ABSENT else value)
            for slot, value in found
        )

    def _bounded(self, value: Any, slot: Slot) -> Any:
        if slot.presence or not isinstance(value, (dict, list, Mapping)):
            return value
        if slot.whole_map:
            return value if isinstance(value, dict) else dict(value)
        problem = _oversize(value, self._prepared.elements_max)
        if problem:
            raise self._failed(f"{slot.source} {problem}")
        return value

    def _checked(self, answer: Any) -> Any:
        if self.result is ResultKind.BOOLEAN and not isinstance(answer, bool):
            raise self._failed(f"it answered {type(answer).__name__}, not a boolean")
        if self.result is not ResultKind.NUMBER:
            return answer
        if isinstance(answer, bool) or not isinstance(answer, int | float):
            raise self._failed(f"it answered {type(answer).__name__}, not a number")
        if isinstance(answer, float):
            if not answer.is_integer() or abs(answer) > EXACT_DOUBLE_MAX:
                raise self._failed("it answered a double that is no exact whole number")
            return int(answer)
        if answer > INTEGER_MAX:  # An unsigned number.
            raise self._failed("it answered a number beyond 64 bits")
        return answer

    def _failed(self, reason: str) -> ExpressionFailed:
        return ExpressionFailed(f"the expression {self.text!r} failed: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.text, self.table, self.result)


def compile_expression(text: str, *, variables: VariableTable, result: ResultKind) -> Expression:
    """
    Check an expression and prepare its evaluation.

    Raises:
        InvalidInput: If it cannot be used; the message says what was found.
    """
    size = len(text.encode(errors="replace"))
    if size > BYTES_MAX:
        raise InvalidInput(f"the expression has {size} bytes, at most {BYTES_MAX}")
    tokens = tokenize(text)
    if len(tokens) == 1:
        raise InvalidInput("the expression is empty")
    _compile(text)
    names = scan(text, tokens, variables)
    rewritten = names.rewritten(text)
    program = _compile(rewritten)
    slots = {slot.name: slot for slot in names.slots.values()}
    functions = {**OURS, **names.functions}
    _check_complete(program, names, slots)
    check_types(rewritten, slots=slots, functions=functions, result=result)
    called = set(program.functions())
    return Expression(
        text=text,
        table=variables,
        result=result,
        roots=frozenset(str(slot.path[0]) for slot in slots.values()),
        reads=frozenset(dotted(slot.path) for slot in slots.values()),
        _prepared=_Prepared(
            program=program,
            slots=tuple(slots.values()),
            functions={name: made for name, made in functions.items() if name in called},
            elements_max=_elements_max(names),
        ),
    )


def _rebuild(text: str, table: VariableTable, result: ResultKind) -> Expression:
    return compile_expression(text, variables=table, result=result)


def _elements_max(names: Names) -> int:
    if COPYING_MACROS.intersection(names.macros):
        return COPIED_ELEMENTS_MAX
    return ELEMENTS_MAX if names.macros else VALUES_MAX


def _compile(text: str) -> cel.Program:
    try:
        return cel.compile(text)
    except ValueError as error:
        raise InvalidInput(f"the expression cannot be read: {_syntax(str(error))}") from None


def _syntax(message: str) -> str:
    """The library's first complaint, in one line, without the text and the list of words."""
    complaint = message.split("ERROR: <input>:", maxsplit=1)[-1].splitlines()[0]
    position, _, words = complaint.partition(": ")
    words = words.removeprefix("Syntax error: ").split(" expecting ", maxsplit=1)[0]
    line, _, column = position.partition(":")
    return f"line {line}, character {column}: {words}"[:_SYNTAX_SHOWN_MAX]


def _check_complete(program: cel.Program, names: Names, slots: Mapping[str, Slot]) -> None:
    """The library must find no variable that we did not: both must read the text alike."""
    unseen = set(program.variables()) - set(slots) - names.bound
    if unseen:
        raise InvalidInput(f"the expression has the name {min(unseen)!r} where none can stand")


def _fetch(variables: Mapping[str, Any], slot: Slot) -> Any:
    value: Any = variables
    for segment in slot.path:
        # A number counts into a list only; it must not pick a letter of a string.
        if segment.__class__ is int and not isinstance(value, list):
            return False if slot.presence else slot.default
        try:
            value = value[segment]
        except (KeyError, IndexError, TypeError):
            return False if slot.presence else slot.default
    return True if slot.presence else value


def _reason(error: Exception, absent: list[str]) -> str:
    """Words for the library's error, which may itself hold values of the request."""
    if absent:
        return f"{absent[0]} is not there"
    if isinstance(error, KeyError):
        return "a key is not there"
    if isinstance(error, IndexError):
        return "an index is beyond the end of its list"
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    if isinstance(error, ArithmeticError):
        return "a number is too large"
    if isinstance(error, TypeError):
        return "an operator does not take what it is given"
    if isinstance(error, ValueError):
        return "a value cannot be read"
    return "a function does not take what it is given"


def _oversize(value: Any, elements_max: int) -> str:
    """What makes a JSON too large to hand over; empty if nothing does."""
    level, values = [value], 0
    for _ in range(JSON_DEPTH_MAX):
        following: list[Any] = []
        for part in level:
            if len(part) > elements_max:
                return f"has a list or object of {len(part)} elements, at most {elements_max}"
            values += len(part)
            if values > VALUES_MAX:
                return f"has more than {VALUES_MAX} values"
            inside = part.values() if isinstance(part, dict) else part
            following += [item for item in inside if isinstance(item, dict | list)]
        if not following:
            return ""
        level = following
    return f"nests deeper than {JSON_DEPTH_MAX}"
