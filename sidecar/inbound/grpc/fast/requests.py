"""
What a request's header fields say together.

Source: RFC 9113, section 8.3.1 (pseudo-header fields); gRPC over HTTP/2, "Requests".
"""

from collections.abc import Sequence
from typing import Final

from sidecar.inbound.grpc.fast.fields import Field, Kind

_ORDINARY: Final = int(Kind.ORDINARY)
_PATH: Final = int(Kind.PATH)
_AUTHORITY: Final = int(Kind.AUTHORITY)
_CONTENT_TYPE: Final = int(Kind.CONTENT_TYPE)
_TIMEOUT: Final = int(Kind.TIMEOUT)
_ENCODING: Final = int(Kind.ENCODING)
_CONTENT_LENGTH: Final = int(Kind.CONTENT_LENGTH)
_MALFORMED: Final = int(Kind.MALFORMED)
_NEEDED: Final = 1 << Kind.METHOD | 1 << Kind.SCHEME | 1 << Kind.PATH


class Malformed(Exception):
    """No request (RFC 9113, section 8.1.1)."""


class Head:
    """A request's header section. `timeout` is in seconds; negative if what came is none."""

    __slots__ = ("content_length", "encoding", "fields", "is_grpc", "method", "path", "timeout")

    def __init__(self, fields: Sequence[Field]) -> None:
        """Read the fields. Raises Malformed."""
        self.fields = fields
        self.is_grpc = False
        self.timeout: float | None = None
        self.content_length = -1
        self.encoding = "identity"
        pseudo: list[Field | None] = [None, None, None, None, None]
        seen = 0
        regular = False
        for field in fields:
            kind = field.kind
            if kind == _ORDINARY:
                regular = True
            elif kind <= _AUTHORITY:
                if regular or seen >> kind & 1:
                    raise Malformed
                seen |= 1 << kind
                pseudo[kind] = field
            elif kind == _MALFORMED:
                raise Malformed
            else:
                regular = True
                self._take(field)
        method, path = pseudo[Kind.METHOD], pseudo[_PATH]
        if seen & _NEEDED != _NEEDED or method is None or path is None or not path.value:
            raise Malformed
        self.method = str(method.value)
        self.path = str(path.value)

    def _take(self, field: Field) -> None:
        kind = field.kind
        if kind == _CONTENT_TYPE:
            self.is_grpc = field.number > 0
        elif kind == _TIMEOUT:
            self.timeout = field.number
        elif kind == _ENCODING:
            self.encoding = str(field.value)
        elif kind == _CONTENT_LENGTH:
            if self.content_length not in (-1, int(field.number)):
                raise Malformed
            self.content_length = int(field.number)


def check_trailers(fields: Sequence[Field]) -> None:
    """Request trailers are read by nobody, but must be some. Raises Malformed."""
    for field in fields:
        if field.kind == _MALFORMED or _ORDINARY < field.kind <= _AUTHORITY:
            raise Malformed
