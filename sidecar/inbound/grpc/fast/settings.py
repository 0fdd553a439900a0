"""
SETTINGS: what we announce, and what a peer may.

Source: RFC 9113, section 6.5.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from sidecar.inbound.grpc.fast import frames
from sidecar.inbound.grpc.fast.frames import Code, ConnectionFault
from sidecar.inbound.grpc.fast.limits import MESSAGE_HEAD_BYTES, Limits

_ENTRY: Final = Struct(">HI")

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

WINDOW_DEFAULT: Final = 65_535
_FRAME_SIZE_MOST: Final = 0xFF_FFFF
ENTRIES_MAX: Final = 64
"""Of one frame: there are six, and some that we do not know."""


def stream_window(limits: Limits) -> int:
    """Room for one whole message, so that no call waits for a window of its own."""
    return max(WINDOW_DEFAULT, limits.message_bytes_max + MESSAGE_HEAD_BYTES)


def announcement(limits: Limits) -> bytes:
    """
    Our SETTINGS frame, and the connection's window.

    No dynamic table: each header block then says by itself all that it says.
    """
    ours = {
        HEADER_TABLE_SIZE: 0,
        MAX_CONCURRENT_STREAMS: limits.streams_max,
        INITIAL_WINDOW_SIZE: stream_window(limits),
        MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
    }
    payload = b"".join(_ENTRY.pack(*entry) for entry in ours.items())
    more = limits.connection_window_bytes - WINDOW_DEFAULT
    return frames.frame(frames.SETTINGS, 0, 0, payload) + frames.window_update(0, more)


@dataclass(slots=True)
class PeerSettings:
    """What the peer announced, of what concerns a server that never pushes."""

    header_table_size: int = 4_096
    initial_window_size: int = WINDOW_DEFAULT
    max_frame_size: int = frames.FRAME_BYTES_MAX

    def apply(self, payload: bytes) -> None:  # noqa: C901  A table of what each value may be.
        """
        Take one SETTINGS frame, in its order.

        Raises:
            ConnectionFault: For a value that is not allowed.
        """
        if len(payload) % _ENTRY.size:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
        if len(payload) > ENTRIES_MAX * _ENTRY.size:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many settings")
        for name, value in _ENTRY.iter_unpack(payload):
            if name == HEADER_TABLE_SIZE:
                self.header_table_size = value
            elif name == ENABLE_PUSH:
                if value > 1:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
            elif name == INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_MAX:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
                self.initial_window_size = value
            elif name == MAX_FRAME_SIZE:
                if not frames.FRAME_BYTES_MAX <= value <= _FRAME_SIZE_MOST:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE")
                self.max_frame_size = value
