"""
Answers as header blocks and bodies; nothing in them needs or changes a dynamic table.

Source: gRPC over HTTP/2, "Responses" and "HTTP2 Transport Mapping"; RFC 7541, sections 5, 6.2.2.
"""

from typing import Final

from sidecar.inbound.grpc.engine import GrpcStatus

MESSAGE_CHARACTERS_MAX: Final = 1_024
"""Of a status message; callers have limits for headers too."""

_PRINTABLE: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


def _string(octets: bytes) -> bytes:
    length = len(octets)
    if length < 0x7F:
        return bytes([length]) + octets
    coded = bytearray([0x7F])
    rest = length - 0x7F
    while rest >= 0x80:
        coded.append(rest & 0x7F | 0x80)
        rest >>= 7
    coded.append(rest)
    return bytes(coded) + octets


def _literal(name: str, value: str) -> bytes:
    return b"\x00" + _string(name.encode()) + _string(value.encode())


GRPC_HEAD: Final = b"\x88" + _literal("content-type", "application/grpc")
"""Index 8 is ":status: 200"."""

GRPC_OK: Final = _literal("grpc-status", "0")
_IDENTITY_ONLY: Final = _literal("grpc-accept-encoding", "identity")


def percent_encoded(message: str) -> str:
    """A status message as a header's value: UTF-8, with all but printable ASCII as %XX."""
    cut = message[:MESSAGE_CHARACTERS_MAX].encode(errors="replace")
    return "".join(chr(octet) if octet in _PRINTABLE else f"%{octet:02X}" for octet in cut)


def trailers_only(status: GrpcStatus, message: str) -> bytes:
    """The one header block of a call that failed."""
    return (
        GRPC_HEAD
        + _literal("grpc-status", str(int(status)))
        + (_literal("grpc-message", percent_encoded(message)) if message else b"")
        + (_IDENTITY_ONLY if status is GrpcStatus.UNIMPLEMENTED else b"")
    )


def plain(status: int, text: str, *, head_only: bool = False) -> tuple[bytes, bytes]:
    """Header block and body of an answer to what is no gRPC call."""
    body = text.encode()
    block = (
        _literal(":status", str(status))
        + _literal("content-type", "text/plain; charset=utf-8")
        + _literal("content-length", str(len(body)))
        + (_literal("allow", "POST") if status == 405 else b"")
    )
    return block, b"" if head_only else body
