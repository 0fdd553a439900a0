"""What was worked out and will be asked for again, up to a number."""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

T = TypeVar("T")
REMEMBERED_MAX: Final = 4_096
"""Of a memory's keys, if it says no other number; then it begins anew. Clients choose paths."""


class Remembered(Generic[T]):
    """A bounded memory of what was worked out."""

    def __init__(self, maximum: int = REMEMBERED_MAX) -> None:
        """Know nothing yet, and never more than `maximum`."""
        self._maximum = maximum
        self._known: dict[Hashable, T] = {}

    def get(self, key: Hashable) -> T | None:
        """What is known under the key."""
        return self._known.get(key)

    def put(self, key: Hashable, value: T) -> T:
        """Remember it, and return it."""
        if len(self._known) >= self._maximum:
            self._known.clear()
        self._known[key] = value
        return value
