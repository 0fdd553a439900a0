"""Stub."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.domain.errors import InvalidInput


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
