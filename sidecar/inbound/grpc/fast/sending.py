"""
Answers on their way out: frames within the peer's windows, the rest when there is room.

Source: RFC 9113, sections 5.2 and 6.9 (flow control), 6.1 (DATA), 4.3 (field blocks).
"""

from collections.abc import Callable, Iterable
from typing import Final

from sidecar.inbound.grpc.fast import frames
from sidecar.inbound.grpc.fast.frames import HEAD, Code, ConnectionFault, StreamFault
from sidecar.inbound.grpc.fast.settings import WINDOW_DEFAULT, PeerSettings
from sidecar.inbound.grpc.fast.streams import Stream

_NO_TABLE: Final = b"\x20"
"""Sets the size of our dynamic table, which we never use, to 0 (RFC 7541, section 6.3)."""


class Sender:
    """Writes the answers of one connection."""

    def __init__(self, write: Callable[[bytes], None], peer: PeerSettings) -> None:
        """
        Begin with the windows of section 6.9.2.

        Args:
            write: Takes bytes for the peer.
            peer: What it announced; changed from outside.
        """
        self._write = write
        self._peer = peer
        self._window = WINDOW_DEFAULT
        self._table_shrank = False
        self.waiting: dict[int, Stream] = {}
        self.waiting_bytes = 0

    def table_shrank(self) -> None:
        """The peer allows a smaller table: our next block must say that we keep to it."""
        self._table_shrank = True

    def answer(
        self, stream: Stream, head: bytes, body: bytes, trailers: bytes | None, now: float
    ) -> bool:
        """
        Send header block, body and trailers; whether all of it went out.

        Args:
            stream: The request's.
            head: A header block.
            body: May be empty.
            trailers: A header block; None ends the stream with the body.
            now: From time.monotonic().
        """
        stream.answered = True
        if self._table_shrank:
            self._table_shrank = False
            head = _NO_TABLE + head
        stream_id = stream.id
        size = len(body)
        if size <= min(self._window, stream.send_window, self._peer.max_frame_size) and trailers:
            self._window -= size
            stream.send_window -= size
            self._write(
                b"".join(
                    (
                        HEAD.pack(len(head) << 8 | frames.HEADERS, frames.END_HEADERS, stream_id),
                        head,
                        HEAD.pack(size << 8 | frames.DATA, 0, stream_id),
                        body,
                        _headers(stream_id, trailers, end=True),
                    )
                )
            )
            return True
        only_head = not body and not trailers
        self._write(_headers(stream_id, head, end=only_head))
        if only_head:
            return True
        stream.rest = memoryview(body)
        stream.rest_trailers = trailers
        stream.stalled_at = now
        self.waiting[stream_id] = stream
        self.waiting_bytes += size
        return self._go_on(stream, now)

    def forget(self, stream: Stream) -> None:
        """Send no more of this one."""
        if self.waiting.pop(stream.id, None) is not None:
            self.waiting_bytes -= len(stream.rest)
            stream.rest = memoryview(b"")

    def widen_connection(self, increment: int, now: float) -> list[Stream]:
        """More room for all. Returns the streams that are finished. Raises ConnectionFault."""
        if increment == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a window update of 0")
        self._window += increment
        if self._window > frames.WINDOW_MAX:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the connection's window is too large")
        return self._go_on_all(now)

    def widen(self, stream: Stream, increment: int, now: float) -> bool:
        """More room for one; whether it is finished. Raises StreamFault."""
        stream.send_window += increment
        if stream.send_window > frames.WINDOW_MAX:
            raise StreamFault(stream.id, Code.FLOW_CONTROL_ERROR)
        return stream.id in self.waiting and self._go_on(stream, now)

    def resize(self, change: int, streams: Iterable[Stream], now: float) -> list[Stream]:
        """Apply a new INITIAL_WINDOW_SIZE (section 6.9.2). Returns the finished streams."""
        for stream in streams:
            stream.send_window += change
            if stream.send_window > frames.WINDOW_MAX:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a stream's window is too large")
        return self._go_on_all(now) if change > 0 else []

    def _go_on_all(self, now: float) -> list[Stream]:
        if not self.waiting:
            return []
        return [stream for stream in list(self.waiting.values()) if self._go_on(stream, now)]

    def _go_on(self, stream: Stream, now: float) -> bool:
        """Send what fits; whether that was all."""
        body, at = stream.rest, 0
        trailers = stream.rest_trailers
        while at < len(body):
            room = min(self._window, stream.send_window, self._peer.max_frame_size)
            if room <= 0:
                break
            part = bytes(body[at : at + room])
            at += len(part)
            self._window -= len(part)
            stream.send_window -= len(part)
            ends = at == len(body) and not trailers
            flags = frames.END_STREAM if ends else 0
            self._write(frames.frame(frames.DATA, flags, stream.id, part))
        if at:
            self.waiting_bytes -= at
            stream.rest = body[at:]
            stream.stalled_at = now
        if stream.rest:
            return False
        del self.waiting[stream.id]
        if trailers:
            self._write(_headers(stream.id, trailers, end=True))
        return True


def _headers(stream_id: int, block: bytes, *, end: bool) -> bytes:
    """A HEADERS frame; our blocks always fit into one."""
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return HEAD.pack(len(block) << 8 | frames.HEADERS, flags, stream_id) + block
