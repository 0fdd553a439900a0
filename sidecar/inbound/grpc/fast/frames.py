"""
Frames of HTTP/2: their heads, flags, codes, and those that we send.

Source: RFC 9113, sections 4.1 (format), 6 (types), 7 (error codes).
"""

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""Section 3.4."""

HEAD: Final = Struct(">IBI")
"""Length (24 bits) and type (8) as one number, flags, reserved bit and stream id."""

HEAD_BYTES: Final = 9
FRAME_BYTES_MAX: Final = 16_384
"""SETTINGS_MAX_FRAME_SIZE that we announce: the least there is."""

STREAM_ID_MASK: Final = 0x7FFF_FFFF
WINDOW_MAX: Final = 0x7FFF_FFFF

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

PRIORITY_BYTES: Final = 5
PING_BYTES: Final = 8


class Code(IntEnum):
    """Section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Exception):
    """Ends the connection (section 5.4.1)."""

    def __init__(self, code: Code, what: str) -> None:
        super().__init__(f"{code.name}: {what}")
        self.code = code
        self.what = what


class StreamFault(Exception):
    """Ends one stream (section 5.4.2)."""

    def __init__(self, stream_id: int, code: Code) -> None:
        super().__init__(f"stream {stream_id}: {code.name}")
        self.stream_id = stream_id
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame; the payload must fit."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def rst_stream(stream_id: int, code: Code) -> bytes:
    """End a stream (section 6.4)."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def goaway(last_stream_id: int, code: Code, what: str = "") -> bytes:
    """Say which streams were the last (section 6.8)."""
    payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + what.encode()
    return frame(GOAWAY, 0, 0, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    """Let the peer send more (section 6.9)."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def without_padding(flags: int, payload: bytes) -> bytes:
    """
    What stands between the pad length and the padding (section 6.1).

    Raises:
        ConnectionFault: If the padding is longer than the frame.
    """
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame without a pad length")
    end = len(payload) - payload[0]
    if end < 1:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1:end]
