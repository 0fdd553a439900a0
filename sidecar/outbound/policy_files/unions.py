"""Kinds of values that may be written in more than one form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from sidecar.domain.errors import InvalidInput
from sidecar.domain.money import parse_amount
from sidecar.domain.nearest import name_list, unknown
from sidecar.outbound.policy_files.reading import (
    INVALID,
    TAG_INT,
    TAG_STR,
    Invalid,
    JsonSchema,
    Reader,
    Spec,
    describe,
)
from sidecar.outbound.policy_files.records import ListOf, Record
from sidecar.outbound.policy_files.scalars import Choice, Number, Sendable, Text
from sidecar.outbound.policy_files.sections import Marked, Section


@dataclass(frozen=True, slots=True)
class OneOrMany:
    """A mapping, or a list of such mappings; read as a list in both cases."""

    record: Record

    def read(self, node: yaml.Node, reader: Reader) -> tuple[Marked, ...] | Invalid:
        """The mappings that are in order."""
        if isinstance(node, yaml.SequenceNode):
            return ListOf(self.record).read(node, reader)
        section = self.record.read(node, reader)
        if isinstance(section, Invalid):
            return INVALID
        return (Marked(section, reader.place(node)),)

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """Either."""
        one = self.record.schema(defs)
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class WordOr:
    """
    A word or a name, or a mapping that says more.

    `example` completes messages; the mapping's first key, written as a word, is told to need
    its value.
    """

    word: Choice | Text
    record: Record
    example: str

    def read(self, node: yaml.Node, reader: Reader) -> str | Section | Invalid:
        """The text, or the mapping."""
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            later = self.word.later if isinstance(self.word, Choice) else ()
            if len(keys) == 1 and keys[0] in later:
                return self._checked(self.word.read(node, reader))
            section = self.record.read(node, reader)
            return section if isinstance(section, Section | Invalid) else INVALID
        if not isinstance(node, yaml.ScalarNode):
            return reader.refuse(
                node, f"found {describe(node)}; expected {self._what()} or {self.example}"
            )
        if node.tag == TAG_STR and node.value in self.record.fields:
            return reader.refuse(node, f"{node.value!r} needs its value; write {self.example}")
        if (
            isinstance(self.word, Choice)
            and node.tag == TAG_STR
            and node.value not in (*self.word.values, *self.word.later)
        ):
            message = unknown("value", node.value, self.word.values)
            return reader.refuse(node, f"{message}, or {self.example}")
        return self._checked(self.word.read(node, reader))

    def _checked(self, value: Any) -> str | Invalid:
        return value if isinstance(value, str) else INVALID

    def _what(self) -> str:
        if isinstance(self.word, Choice):
            return f"one of {', '.join(self.word.values)}"
        return self.word.what

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """Either."""
        return {"anyOf": [self.word.schema(defs), self.record.schema(defs)]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """
    A mapping of one of several kinds; the kind's own key tells which it is.

    A key that tells a kind and belongs to another kind too, tells the other.
    """

    name: str
    kinds: Mapping[str, Record]
    later: frozenset[str] = frozenset()

    def read(self, node: yaml.Node, reader: Reader) -> Section | Invalid:
        """The mapping, as its kind has it; the kind's key is among those written."""
        if not isinstance(node, yaml.MappingNode):
            return reader.refuse(
                node,
                f"found {describe(node)}; expected a mapping with one of the keys: {self._names()}",
            )
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        told = [kind for kind in self.kinds if kind in keys]
        told = [
            kind
            for kind in told
            if not any(kind in self.kinds[other].fields for other in told if other != kind)
        ]
        if len(told) > 1:
            return reader.refuse(
                node,
                f"the {self.name} has both `{told[0]}` and `{told[1]}`; one kind only: "
                f"{self._names()}",
            )
        if not told:
            found = f"found the keys {name_list(keys)}; " if keys else ""
            return reader.refuse(
                node, f"{found}a {self.name} has exactly one of the keys: {self._names()}"
            )
        return self.kinds[told[0]].read(node, reader)

    def _names(self) -> str:
        return ", ".join(self.kinds)

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """One of the kinds."""
        return {"oneOf": [record.schema(defs) for record in self.kinds.values()]}


@dataclass(frozen=True, slots=True)
class Amount:
    """A limit or a use that was written as an amount of money."""

    nano: int


@dataclass(frozen=True, slots=True)
class Measure:
    """A whole number, or an amount of money in quotes where money is counted."""

    maximum: int
    minimum: int = 0

    def read(self, node: yaml.Node, reader: Reader) -> int | Amount | Invalid:
        """A number as such, an amount as Amount."""
        if isinstance(node, yaml.ScalarNode) and node.tag == TAG_STR:
            try:
                nano = parse_amount(str(node.value))
            except InvalidInput:
                return reader.refuse(node, f"found {describe(node)}; expected {self._what()}")
            if nano < self.minimum:
                return reader.refuse(node, f"found {describe(node)}; expected {self._what()}")
            return Amount(nano)
        if not isinstance(node, yaml.ScalarNode) or node.tag != TAG_INT:
            return reader.refuse(node, f"found {describe(node)}; expected {self._what()}")
        return Number(self.minimum, self.maximum).read(node, reader)

    def _what(self) -> str:
        return (
            f"a whole number from {self.minimum} to {self.maximum}, or an amount of money in "
            'quotes such as "12.50"'
        )

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """Either."""
        amount: JsonSchema = {"type": "string", "pattern": r"^[0-9]{1,10}(\.[0-9]{1,9})?$"}
        return {"anyOf": [Number(self.minimum, self.maximum).schema(defs), amount]}


def parts_of(spec: Spec) -> tuple[Spec, ...]:
    """The kinds that a kind in more than one form is made of; none for any other."""
    match spec:
        case OneOrMany(record=record) | WordOr(record=record):
            return (record,)
        case Variants(kinds=kinds):
            return tuple(kinds.values())
        case Sendable(spec=sendable):
            return (sendable,)
        case _:
            return ()
