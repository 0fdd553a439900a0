"""
What a meter's `value` may say: a built-in name, a path into a fact, or an expression.

Facts come from two places. What only a request tells (method, path, host, a header, a label of
the customer) is noted in the hold's terms at the check, since usage is often reported by another
process hours later. What a response tells comes with the usage report.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from sidecar.domain import expressions
from sidecar.domain.errors import InvalidInput

TOKEN_VALUES: Final = frozenset(
    {
        "usage.input",
        "usage.output",
        "usage.total",
        "usage.cache_read",
        "usage.cache_creation",
        "usage.reasoning",
    }
)
SHORT_NAMES: Final = {
    "duration_ms": "response.duration_ms",
    "request_bytes": "request.bytes",
    "response_bytes": "response.bytes",
}
"""Names of the first versions, and the variables that they stand for."""
OTHER_VALUES: Final = frozenset({"requests", *SHORT_NAMES, *SHORT_NAMES.values()})
METER_VALUES: Final = TOKEN_VALUES | OTHER_VALUES
"""Built-in values."""

BOUNDED_VALUES: Final = TOKEN_VALUES | {"requests"}
"""What a request can be given an upper bound of before it is answered."""

REQUEST_FACTS_MAX: Final = 16
"""Facts of a request that all meters together may name; each makes every hold's token longer."""

_STEP = r"[A-Za-z_][A-Za-z0-9_]*"
_PATH: Final = re.compile(
    rf"(?:usage\.raw|response\.body|metadata)(?:\.{_STEP})+"
    r"|response\.headers\.[a-z0-9][a-z0-9_-]*",
    re.ASCII,
)
_NOTED: Final = frozenset({"request.method", "request.path", "request.host"})
_MAPS: Final = ("request.headers", "customer.labels", "response.headers")
_NOTED_MAPS: Final = ("request.headers.", "customer.labels.")


class Shape(StrEnum):
    """Which of the three forms a value has."""

    BUILT_IN = "built_in"
    PATH = "path"
    EXPRESSION = "expression"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterValue:
    """
    A `value`, read.

    `reads` are the dotted names of what it looks at; `expression` is None for the other shapes.
    """

    text: str
    shape: Shape
    reads: frozenset[str]
    expression: Any = None

    def look_up(self, variables: Mapping[str, Any]) -> Any:
        """
        What the facts say; None where they do not tell.

        Args:
            variables: Nested as their names are; what is not known is absent.
        """
        if self.expression is not None:
            try:
                return self.expression.evaluate(variables)
            except expressions.ExpressionFailed:
                return None
        return read_path(variables, SHORT_NAMES.get(self.text, self.text))


@lru_cache(maxsize=4_096)
def parse_value(text: str) -> MeterValue:
    """
    Read a `value`; an expression is compiled once, however many rate cards carry it.

    Raises:
        InvalidInput: If it is none of the three forms, or reads what a capture cannot know.
    """
    if text in METER_VALUES:
        name = SHORT_NAMES.get(text, text)
        return MeterValue(text=text, shape=Shape.BUILT_IN, reads=frozenset({name}))
    if _PATH.fullmatch(text):
        return MeterValue(text=text, shape=Shape.PATH, reads=frozenset({text}))
    expression = _compile(text)
    for name in _MAPS:
        if name in expression.reads:
            raise InvalidInput(
                f"a meter cannot read {name} as a whole, since only what it names is kept until "
                f'the response is there; write {name}["name"]'
            )
    return MeterValue(
        text=text, shape=Shape.EXPRESSION, reads=expression.reads, expression=expression
    )


def check_number(text: str) -> None:
    """
    Refuse an expression that cannot answer a number.

    Raises:
        InvalidInput: Saying what it answers.
    """
    if parse_value(text).shape is Shape.EXPRESSION:
        expressions.compile_expression(
            text, variables=expressions.METER_VARIABLES, result=expressions.ResultKind.NUMBER
        )


def _compile(text: str) -> Any:
    # Any kind of answer: a count that is a fraction must be told from one that is not there.
    return expressions.compile_expression(
        text, variables=expressions.METER_VARIABLES, result=expressions.ResultKind.ANY
    )


def noted_at_check(reads: frozenset[str]) -> frozenset[str]:
    """Those of the names that only a check can tell, so that a hold has to carry them."""
    return frozenset(name for name in reads if name in _NOTED or name.startswith(_NOTED_MAPS))


def response_headers(reads: frozenset[str]) -> frozenset[str]:
    """Names of the response headers among them."""
    prefix = "response.headers."
    return frozenset(name.removeprefix(prefix) for name in reads if name.startswith(prefix))


def metadata_paths(reads: frozenset[str]) -> frozenset[str]:
    """Paths into the metadata among them, without their first word."""
    prefix = "metadata."
    return frozenset(name.removeprefix(prefix) for name in reads if name.startswith(prefix))


def read_path(variables: Mapping[str, Any], path: str) -> Any:
    """Follow a dotted path inwards; None where it ends early."""
    value: Any = variables
    rest = path
    while rest:
        if not isinstance(value, Mapping):
            return None
        if rest in value:  # A header or label has dots of its own.
            return value[rest]
        step, _, rest = rest.partition(".")
        value = value.get(step)
    return value
