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

from sidecar.domain.cel_library import cel
from sidecar.domain.errors import InvalidInput
from sidecar.domain.expression_costs import Costs, Oversize, check_costs, costs_of
from sidecar.domain.expression_functions import INTEGER_MAX, LIBRARY_ERRORS, OURS
from sidecar.domain.expression_names import ABSENT, Names, Slot, scan
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
    costs: Costs


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
        read: list[tuple[str, Any]] = []
        for slot in prepared.slots:
            value = _fetch(variables, slot)
            if value is ABSENT:
                absent.append(slot.source)
                continue
            if slot.whole_map and not isinstance(value, dict):
                value = dict(value)
            values[slot.name] = value
            read.append((slot.source, value))
        try:
            check_costs(prepared.costs, read)
        except Oversize as oversize:
            raise self._failed(str(oversize)) from None
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
        return tuple(
            ValueRead(slot.source, slot.path, _shown(variables, slot))
            for slot in self._prepared.slots
        )

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
            costs=costs_of(tokens, names),
        ),
    )


def _rebuild(text: str, table: VariableTable, result: ResultKind) -> Expression:
    return compile_expression(text, variables=table, result=result)


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


def _shown(variables: Mapping[str, Any], slot: Slot) -> Any:
    try:
        value = _fetch(variables, slot)
    except ExpressionFailed:
        return None  # Nobody can tell, as of a body that servers may read in two ways.
    return None if value is ABSENT else value


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
