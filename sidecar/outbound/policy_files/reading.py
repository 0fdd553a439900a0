"""
Reading a file's nodes: what every kind of value shares.

Each kind reads a YAML node, noting what is wrong with its place and what is allowed, and
describes itself as JSON Schema: one table serves the loader, editors and the reference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import yaml

from sidecar.outbound.policy_files.places import Place, Problems
from sidecar.outbound.policy_files.yaml_marks import place_of

JsonSchema = dict[str, Any]
TAG_STR, TAG_INT, TAG_FLOAT, TAG_BOOL, TAG_NULL = (
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")
)
_TAG_WORDS = {
    TAG_INT: "the number",
    TAG_FLOAT: "the number",
    TAG_BOOL: "the boolean",
    "tag:yaml.org,2002:timestamp": "the date",
}
_SHOWN_LENGTH_MAX = 40


class Invalid:
    """Stands for a value that was refused; its problem has been noted."""


INVALID = Invalid()


@dataclass(frozen=True, slots=True)
class Reader:
    """
    One file's reading: how nodes become places, and where problems go.

    `unsendable` takes answers and members that no gateway could carry: the policy is there to
    be judged, not to be served.
    """

    file: str
    problems: Problems
    unsendable: bool = False

    def place(self, node: yaml.Node) -> Place:
        """Where a node begins."""
        return place_of(self.file, node)

    def refuse(self, node: yaml.Node, message: str) -> Invalid:
        """Note a problem at a node."""
        self.problems.add(self.place(node), message)
        return INVALID


class Spec(Protocol):
    """A kind of value."""

    def read(self, node: yaml.Node, reader: Reader) -> Any:
        """The value, or INVALID after its problem was noted."""

    def schema(self, defs: dict[str, JsonSchema]) -> JsonSchema:
        """JSON Schema of the kind; shared mappings are put into `defs`."""


def describe(node: yaml.Node) -> str:
    """What a node is, in a message's words."""
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if node.tag == TAG_NULL:
        return "nothing"
    text = str(node.value)
    shown = text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "..."
    if node.tag == TAG_STR:
        return repr(shown)
    return f"{_TAG_WORDS.get(node.tag, f'a value tagged {node.tag[:60]}')} {shown}"


def pairs(node: yaml.MappingNode, reader: Reader) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """A mapping's keys as text, with key and value nodes; repeated keys are noted and skipped."""
    first_lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            reader.refuse(key_node, f"found {describe(key_node)} as a key; a key is plain text")
            continue
        key = key_node.value
        if key in first_lines:
            reader.refuse(
                key_node, f"key {key[:80]!r} stands twice; it is on line {first_lines[key]} already"
            )
            continue
        first_lines[key] = reader.place(key_node).line
        yield key, key_node, value_node
