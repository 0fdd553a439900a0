"""Kinds of single values: texts, words, numbers, flags."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from sidecar.domain.errors import InvalidInput
from sidecar.domain.nearest import unknown
from sidecar.outbound.policy_files.reading import (
    TAG_BOOL,
    TAG_INT,
    TAG_NULL,
    TAG_STR,
    Invalid,
    JsonSchema,
    Reader,
    Spec,
    describe,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """
    A text of a stated form.

    `what` completes "expected ...". `pattern` has to match all of it, in the part of syntax
    that Python and ECMA 262 share. `parse` makes the value; it may raise InvalidInput.
    """

    what: str
    pattern: str | None = None
    length_max: int = 200
    parse: Callable[[str], Any] | None = None

    def read(self, node: yaml.Node, reader: Reader) -> Any:
        """The parsed text."""
        if not isinstance(node, yaml.ScalarNode) or node.tag == TAG_NULL:
            return reader.refuse(node, f"found {describe(node)}; expected {self.what}")
        if node.tag != TAG_STR:
            return reader.refuse(
                node, f"found {describe(node)}; expected {self.what}; write it in quotes"
            )
        return self.read_text(str(node.value), node, reader)

    def read_text(self, text: str, node: yaml.Node, reader: Reader) -> Any:
        """The same, for a key whose YAML type does not matter."""
        if len(text) > self.length_max:
            return reader.refuse(
                node, f"the text has {len(text)} characters; at most {self.length_max} are allowed"
            )
        if self.pattern is not None and re.fullmatch(self.pattern, text) is None:
            return reader.refuse(node, f"found {describe(node)}; expected {self.what}")
        if self.parse is None:
            return text
        try:
            return self.parse(text)
        except InvalidInput as error:
            return reader.refuse(node, str(error))

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:  # noqa: ARG002  Spec's form.
        """A string."""
        schema: JsonSchema = {"type": "string", "maxLength": self.length_max}
        if self.pattern is not None:
            schema["pattern"] = f"^(?:{self.pattern})$"
        return schema


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words; `later` are words of the design that this version does not act on."""

    values: tuple[str, ...]
    later: tuple[str, ...] = ()

    def read(self, node: yaml.Node, reader: Reader) -> str | Invalid:
        """The word."""
        word = node.value
        if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
            word = node.value[0][0].value
        if isinstance(word, str) and word in self.later:
            return reader.refuse(
                node,
                f"{word!r} is not supported in this version; supported: {', '.join(self.values)}",
            )
        if not isinstance(node, yaml.ScalarNode) or node.tag != TAG_STR:
            return reader.refuse(
                node, f"found {describe(node)}; expected one of {', '.join(self.values)}"
            )
        if word not in self.values:
            return reader.refuse(node, unknown("value", word, self.values))
        return str(word)

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:  # noqa: ARG002  Spec's form.
        """An enumeration."""
        return {"enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number within bounds."""

    minimum: int
    maximum: int

    def read(self, node: yaml.Node, reader: Reader) -> int | Invalid:
        """The number; YAML's octal, hexadecimal and base-60 forms are refused."""
        allowed = f"a whole number from {self.minimum} to {self.maximum}"
        plain = isinstance(node, yaml.ScalarNode) and node.tag == TAG_INT
        if not plain or re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", node.value, re.ASCII) is None:
            return reader.refuse(node, f"found {describe(node)}; expected {allowed}")
        number = int(node.value)
        if not self.minimum <= number <= self.maximum:
            return reader.refuse(node, f"found {number}; expected {allowed}")
        return number

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:  # noqa: ARG002  Spec's form.
        """An integer."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, node: yaml.Node, reader: Reader) -> bool | Invalid:
        """The flag; YAML's yes, no, on and off are refused."""
        if isinstance(node, yaml.ScalarNode) and node.tag == TAG_BOOL:
            word = node.value.lower()
            if word in ("true", "false"):
                return bool(word == "true")
        return reader.refuse(node, f"found {describe(node)}; expected true or false")

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:  # noqa: ARG002  Spec's form.
        """A boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Sendable:
    """A kind of value that a gateway can carry; `otherwise` where a reading does not ask that."""

    spec: Spec
    otherwise: Spec

    def read(self, node: yaml.Node, reader: Reader) -> Any:
        """The value, as the reading wants it."""
        return (self.otherwise if reader.unsendable else self.spec).read(node, reader)

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """What a gateway can carry."""
        return self.spec.schema(defs)


@dataclass(frozen=True, slots=True)
class OrNothing:
    """A kind of value, or null."""

    spec: Spec

    def read(self, node: yaml.Node, reader: Reader) -> Any:
        """The value, or None for null."""
        if isinstance(node, yaml.ScalarNode) and node.tag == TAG_NULL:
            return None
        return self.spec.read(node, reader)

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """Either."""
        return {"anyOf": [self.spec.schema(defs), {"type": "null"}]}
