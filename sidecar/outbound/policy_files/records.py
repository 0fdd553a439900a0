"""Kinds of values with parts: lists, mappings, records."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from sidecar.domain.nearest import name_list, nearest, unknown
from sidecar.outbound.policy_files.reading import (
    INVALID,
    TAG_BOOL,
    TAG_FLOAT,
    TAG_INT,
    TAG_NULL,
    Invalid,
    JsonSchema,
    Reader,
    Spec,
    describe,
    pairs,
)
from sidecar.outbound.policy_files.scalars import Flag, Number, Text
from sidecar.outbound.policy_files.sections import Marked, Section

_LIST_MAX = 100_000
_JSON_FRACTION = re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind of value."""

    item: Spec
    may_be_empty: bool = False

    def read(self, node: yaml.Node, reader: Reader) -> tuple[Marked, ...] | Invalid:
        """The values that are in order; a refused one has been noted."""
        if not isinstance(node, yaml.SequenceNode):
            return reader.refuse(node, f"found {describe(node)}; expected a list, such as [a, b]")
        if not node.value and not self.may_be_empty:
            # Empty would read as "none" to a person and as "no condition" to a match.
            return reader.refuse(node, "the list is empty; name something, or leave the key out")
        if len(node.value) > _LIST_MAX:
            return reader.refuse(node, f"the list has more than {_LIST_MAX} entries")
        found = [(self.item.read(item, reader), item) for item in node.value]
        return tuple(
            Marked(value, reader.place(item)) for value, item in found if value is not INVALID
        )

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """An array."""
        schema: JsonSchema = {"type": "array", "items": self.item.schema(defs)}
        return schema if self.may_be_empty else {**schema, "minItems": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOf:
    """A mapping from names of the operator's own to one kind of value."""

    key: Text
    value: Spec
    size_max: int = 200_000

    def read(self, node: yaml.Node, reader: Reader) -> Section | Invalid:
        """The mapping."""
        if not isinstance(node, yaml.MappingNode):
            return reader.refuse(
                node, f"found {describe(node)}; expected a mapping, such as {{name: value}}"
            )
        if len(node.value) > self.size_max:
            return reader.refuse(node, f"the mapping has more than {self.size_max} keys")
        before = len(reader.problems)
        values: dict[str, Marked] = {}
        for key, key_node, value_node in pairs(node, reader):
            name = self.key.read_text(key, key_node, reader)
            value = self.value.read(value_node, reader)
            if name is INVALID or value is INVALID:
                continue
            if name in values:
                reader.refuse(key_node, f"key {name!r} stands twice, in different capitals")
                continue
            values[name] = Marked(value, reader.place(key_node))
        return Section(
            place=reader.place(node),
            values=values,
            written=frozenset(values),
            sound=len(reader.problems) == before,
        )

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """An object with free keys."""
        return {
            "type": "object",
            "maxProperties": self.size_max,
            "propertyNames": self.key.schema(defs),
            "additionalProperties": self.value.schema(defs),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A key of a record: its kind, what it is for, and its default (JSON types only)."""

    spec: Spec
    doc: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """
    A mapping with fixed keys.

    `later` are keys of the design that this version does not act on: ignoring one would let
    an operator believe in a guard that does not exist.
    """

    name: str
    doc: str
    fields: Mapping[str, Field]
    later: frozenset[str] = field(default_factory=frozenset)

    def read(self, node: yaml.Node, reader: Reader) -> Section | Invalid:
        """The record, as far as it is in order."""
        if not isinstance(node, yaml.MappingNode):
            return reader.refuse(
                node,
                f"found {describe(node)}; expected a mapping with keys: {name_list(self.fields)}",
            )
        before = len(reader.problems)
        values: dict[str, Marked] = {}
        written: set[str] = set()
        excused: set[str | None] = set()
        for key, key_node, value_node in pairs(node, reader):
            if key not in self.fields:
                reader.refuse(key_node, self._unknown_key(key))
                # What was meant is not missing as well.
                excused |= set(self.fields) if key in self.later else {nearest(key, self.fields)}
                continue
            written.add(key)
            value = self.fields[key].spec.read(value_node, reader)
            if value is not INVALID:
                values[key] = Marked(value, reader.place(value_node))
        place = reader.place(node)
        for key, entry in self.fields.items():
            if key in written:
                continue
            if entry.required and key not in excused:
                reader.problems.add(place, f"{self.name} has no {key!r}; it is required")
            elif entry.default is not None:
                values[key] = Marked(entry.default, place)
        return Section(
            place=place,
            values=values,
            written=frozenset(written),
            sound=len(reader.problems) == before,
        )

    def _unknown_key(self, key: str) -> str:
        if key in self.later:
            return (
                f"`{key}` is not supported in this version; "
                f"supported in {self.name}: {name_list(self.fields)}"
            )
        return unknown("key", key, self.fields)

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """A reference to the record's definition, which is made once."""
        slug = self.name.replace(" ", "-")
        if slug not in defs:
            defs[slug] = {}  # Holds the place while the fields are described.
            defs[slug] |= self.definition(defs)
        return {"$ref": f"#/$defs/{slug}"}

    def definition(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """The object itself."""
        properties = {
            key: {
                "description": entry.doc,
                **({} if entry.default is None else {"default": entry.default}),
                **entry.spec.schema(defs),
            }
            for key, entry in self.fields.items()
        }
        required = [key for key, entry in self.fields.items() if entry.required]
        return {
            "type": "object",
            "description": self.doc,
            "properties": properties,
            **({"required": required} if required else {}),
            "additionalProperties": False,
        }


@dataclass(frozen=True, slots=True)
class Json:
    """
    Any JSON value, for a body; `check` is asked about each text inside.

    `any_number` takes numbers as YAML writes them, however large, small or long.
    """

    check: Callable[[str], Any] = str
    bytes_max: int = 16_384
    any_number: bool = False

    def read(self, node: yaml.Node, reader: Reader) -> Any:
        """The value as plain data."""
        before = len(reader.problems)
        data = self._value(node, reader)
        if len(reader.problems) > before:
            return INVALID
        if len(json.dumps(data).encode()) > self.bytes_max:
            return reader.refuse(node, f"the body is larger than {self.bytes_max} bytes as JSON")
        return data

    def _value(self, node: yaml.Node, reader: Reader) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {key: self._value(value, reader) for key, _, value in pairs(node, reader)}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, reader) for item in node.value]
        if node.tag == TAG_NULL:
            return None
        if node.tag == TAG_BOOL:
            return Flag().read(node, reader)
        if self.any_number and node.tag in (TAG_INT, TAG_FLOAT):
            return _any_number(str(node.value))
        if node.tag == TAG_INT:
            return Number(-(10**15), 10**15).read(node, reader)
        if node.tag == TAG_FLOAT and _JSON_FRACTION.fullmatch(node.value):
            return float(node.value)
        return Text(
            what="a text, a JSON number, true, false or null",
            length_max=self.bytes_max,
            parse=self._text,
        ).read(node, reader)

    def _text(self, text: str) -> str:
        self.check(text)
        return text

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:  # noqa: ARG002  Spec's form.
        """Anything."""
        return {}


def _any_number(text: str) -> float:
    """A number in YAML's form of what Python writes; infinity is `.inf` there."""
    try:
        return int(text)
    except ValueError:
        return float(text.replace(".inf", "inf"))
