"""Parts of a policy after their form was checked: values that still know where they stood."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sidecar.outbound.policy_files.places import Place


@dataclass(frozen=True, slots=True)
class Marked:
    """A value and its place; the value of a list is a tuple of these."""

    value: Any
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """
    A mapping of the file: values by key, defaults filled in.

    `sound` is False where something inside was refused: such a section is noted by name
    only, so that one mistake does not raise others. Reading a key as another kind than its
    table entry says is a bug of ours.
    """

    place: Place
    values: Mapping[str, Marked]
    written: frozenset[str]
    sound: bool

    def given(self, key: str) -> bool:
        """Whether the file has the key; a default is not given."""
        return key in self.written

    def place_of(self, key: str) -> Place:
        """Where the key's value stands."""
        return self.values[key].place

    def text(self, key: str) -> str:
        """A text; "" where it is neither given nor has a default."""
        value = self.values[key].value if key in self.values else ""
        assert isinstance(value, str), key
        return value

    def integer(self, key: str) -> int:
        """A whole number, given or by default."""
        value = self.values[key].value
        assert type(value) is int, key
        return value

    def optional_integer(self, key: str) -> int | None:
        """A whole number, or None where it is not given."""
        return self.integer(key) if key in self.values else None

    def flag(self, key: str) -> bool:
        """True or false, given or by default."""
        value = self.values[key].value
        assert isinstance(value, bool), key
        return value

    def instant(self, key: str) -> datetime | None:
        """An aware instant, or None where it is not given."""
        value = self.values[key].value if key in self.values else None
        assert value is None or isinstance(value, datetime), key
        return value

    def items(self, key: str) -> tuple[Marked, ...]:
        """A list's values; empty where it is not given."""
        value = self.values[key].value if key in self.values else ()
        assert isinstance(value, tuple), key
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item.value for item in self.items(key))

    def section(self, key: str) -> "Section | None":
        """A mapping inside, or None."""
        value = self.values[key].value if key in self.values else None
        assert value is None or isinstance(value, Section), key
        return value

    def either(self, key: str) -> "str | Section":
        """A word, or the mapping that says more."""
        value = self.values[key].value
        assert isinstance(value, str | Section), key
        return value

    def sections(self, key: str) -> tuple["Section", ...]:
        """A list of mappings."""
        return tuple(item.value for item in self.items(key))

    def pairs(self, key: str) -> Iterator[tuple[str, Marked]]:
        """A free mapping's names and values; nothing where it is not given."""
        inner = self.section(key)
        if inner is not None:
            yield from inner.values.items()
