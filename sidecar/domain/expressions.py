"""Stub."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sidecar.domain.errors import InvalidInput

RULE_VARIABLES: Any = None
METER_VARIABLES: Any = None


class ResultKind(StrEnum):
    """Stub."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    ANY = "any"


class ExpressionFailed(InvalidInput):
    """Stub."""


@dataclass(frozen=True)
class Expression:
    """Stub."""

    text: str
    roots: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    needs_store: bool = False

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Stub."""
        raise ExpressionFailed("stub")


def compile_expression(text: str, *, variables: Any, result: ResultKind) -> Expression:  # noqa: ARG001
    """Stub."""
    return Expression(text)
