"""
Header fields: what each means to a gRPC server, found once for the same bytes.

Source: RFC 9113, sections 8.2 and 8.3 (what is malformed); gRPC over HTTP/2, "Requests".
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

ENTRY_BYTES: Final = 32
"""What a field counts beside its name and value (RFC 7541, section 4.1)."""

OPAQUE: Final = frozenset(
    {
        *("traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid"),
        *("x-request-id", "x-ot-span-context", "x-cloud-trace-context", "grpc-trace-bin"),
        *("x-datadog-trace-id", "x-datadog-parent-id", "uber-trace-id", "x-amzn-trace-id"),
    }
)
"""New in each call and read by nobody: their values stay as they came until somebody does."""

_NAME: Final = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])")
_FORBIDDEN: Final = frozenset(
    {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"}
)
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_SECONDS: Final = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LENGTH: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_GRPC: Final = re.compile(r"application/grpc(?:[+;].*)?", re.IGNORECASE | re.DOTALL)


class Kind(IntEnum):
    """What the engine does with a field; pseudo-header fields are the ones up to AUTHORITY."""

    ORDINARY = 0
    METHOD = 1
    SCHEME = 2
    PATH = 3
    AUTHORITY = 4
    CONTENT_TYPE = 5
    TIMEOUT = 6
    ENCODING = 7
    CONTENT_LENGTH = 8
    HOP = 9
    MALFORMED = 10


_KINDS: Final = {
    ":method": Kind.METHOD,
    ":scheme": Kind.SCHEME,
    ":path": Kind.PATH,
    ":authority": Kind.AUTHORITY,
    "content-type": Kind.CONTENT_TYPE,
    "grpc-timeout": Kind.TIMEOUT,
    "grpc-encoding": Kind.ENCODING,
    "content-length": Kind.CONTENT_LENGTH,
    "te": Kind.HOP,
}
_OF_THE_ENGINE: Final = frozenset(range(Kind.METHOD, Kind.TIMEOUT + 1)) | {Kind.HOP}
"""Not metadata of a call."""


class Field:
    """One name and value. `number` is of a timeout (seconds) or a content length, -1 if bad."""

    __slots__ = ("_huffman", "_raw", "_value", "kind", "name", "number", "size")

    def __init__(self, name: bytes, value: bytes, *, huffman: bool = False) -> None:
        """
        Understand a field.

        Args:
            name: As decoded.
            value: As decoded, or as it came if `huffman`: for opaque names only.
            huffman: Whether the value is still Huffman-coded.
        """
        self.name = name.decode("latin-1")
        self._raw = value
        self._huffman = huffman
        self._value: str | bytes | None = None
        # A Huffman code has at least 5 bits.
        length = len(value) * 8 // 5 if huffman else len(value)
        self.size = len(name) + length + ENTRY_BYTES
        self.number = -1.0
        self.kind = Kind.ORDINARY if huffman else self._classify(name)

    def _classify(self, raw_name: bytes) -> Kind:
        name = self.name
        kind = _KINDS.get(name, Kind.MALFORMED if name[:1] == ":" else Kind.ORDINARY)
        good = _NAME.fullmatch(raw_name) and _VALUE.fullmatch(self._raw) and name not in _FORBIDDEN
        if not good or (kind is Kind.HOP and self._raw.lower() != b"trailers"):
            return Kind.MALFORMED
        if kind is Kind.TIMEOUT:
            self.number = _timeout_seconds(self._raw.decode("latin-1"))
        elif kind is Kind.CONTENT_LENGTH:
            text = self._raw.decode("latin-1")
            self.number = int(text) if _LENGTH.fullmatch(text) else -1.0
            return kind if self.number >= 0 else Kind.MALFORMED
        elif kind is Kind.CONTENT_TYPE:
            self.number = float(_GRPC.fullmatch(self._raw.decode("latin-1")) is not None)
        return kind

    @property
    def is_metadata(self) -> bool:
        """Whether a handler may read it."""
        return self.kind not in _OF_THE_ENGINE

    @property
    def value(self) -> str | bytes:
        """Text, or bytes if the name ends in "-bin"."""
        if self._value is None:
            raw = self._octets()
            is_binary = self.name.endswith("-bin")
            self._value = _binary(raw) if is_binary else raw.decode(errors="replace")
        return self._value

    def _octets(self) -> bytes:
        if not self._huffman:
            return self._raw
        try:
            return decode_huffman(self._raw)
        except HPACKError:
            return b""


STATIC: Final = [Field(b"x", b""), *(Field(*entry) for entry in HeaderTable.STATIC_TABLE)]
"""RFC 7541, appendix A, by index; there is no field 0."""


class Metadata(Mapping[str, "str | bytes"]):
    """A call's metadata over its fields; of a repeated name the first counts."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> "str | bytes":
        for field in self._fields:
            if field.name == name and field.is_metadata:
                return field.value
        raise KeyError(name)

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        """Like a dict's, without an exception for what is not there."""
        for field in self._fields:
            if field.name == name and field.is_metadata:
                return field.value
        return default

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(field.name for field in self._fields if field.is_metadata))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _timeout_seconds(text: str) -> float:
    found = _TIMEOUT.fullmatch(text)
    return -1.0 if found is None else int(found[1]) * _SECONDS[found[2]]


def _binary(raw: bytes) -> bytes:
    """Base64 with or without padding; of a joined list the first, b"" if it is neither."""
    first = raw.partition(b",")[0].strip().rstrip(b"=")
    try:
        return base64.b64decode(first + b"=" * (-len(first) % 4), validate=True)
    except binascii.Error:
        return b""
