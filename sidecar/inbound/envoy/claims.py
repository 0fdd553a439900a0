"""
The gateway's dynamic metadata as claims: each level is read only when it is asked for.

A check asks for the namespaces that the policy names and for the paths of its claims, so what
else a token holds costs nothing, however large or deep it is.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from sidecar.wire import envoy_core_pb2 as core

LEVEL_BYTES_MAX: Final = 65_536
FIELDS_MAX: Final = 1_000


class MetadataClaims(Mapping[str, Mapping[str, Any]]):
    """Claims by metadata namespace, as identity sources read them."""

    def __init__(self, metadata: core.Metadata) -> None:
        """Take the message; nothing of it is read yet."""
        self._metadata = metadata

    def __getitem__(self, namespace: str) -> Mapping[str, Any]:
        """What is under a namespace; one that stands twice holds nothing."""
        key = namespace.encode()
        found = [entry.value for entry in self._metadata.filter_metadata if entry.key == key]
        if not found:
            raise KeyError(namespace)
        return StructClaims(found[0] if len(found) == 1 else core.Struct())

    def __iter__(self) -> Iterator[str]:
        """The namespaces that are there."""
        names = (_text(entry.key) for entry in self._metadata.filter_metadata)
        return iter(dict.fromkeys(name for name in names if name is not None))

    def __len__(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)


class StructClaims(Mapping[str, Any]):
    """
    One level of a Struct: texts, numbers (doubles), booleans and mappings.

    Lists, nulls, and what is no UTF-8 are left out: no claim that names somebody is one.
    """

    def __init__(self, struct: core.Struct) -> None:
        """Take the message; a level with too many fields holds nothing."""
        self._fields = struct.fields if len(struct.fields) <= FIELDS_MAX else ()

    def __getitem__(self, name: str) -> Any:
        """The value of a name that stands once."""
        key = name.encode("utf-8", "surrogatepass")
        found = [field.value for field in self._fields if field.key == key]
        value = _value(found[0]) if len(found) == 1 else None
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        """The names whose values can be read."""
        names = (_text(field.key) for field in self._fields)
        return iter([name for name in dict.fromkeys(names) if name is not None and name in self])

    def __len__(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)


def _value(value: core.Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return _text(value.string_value)
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _level(value.struct_value)
    return None


def _level(encoded: bytes) -> Mapping[str, Any] | None:
    if len(encoded) > LEVEL_BYTES_MAX:
        return None
    try:
        return StructClaims(core.Struct.FromString(encoded))
    except DecodeError:
        return None


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None
