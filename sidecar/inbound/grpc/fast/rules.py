"""
The rules of each frame, and what frames of a kind may cost.

Source: RFC 9113, sections 4.3 (field blocks), 5.4 (errors), 6 (each frame's rules), 10.5
(what a hostile peer may cost).
"""

from collections.abc import Callable
from typing import Final

from sidecar.inbound.grpc.fast import frames
from sidecar.inbound.grpc.fast.blocks import BlockReader
from sidecar.inbound.grpc.fast.calls import Calls
from sidecar.inbound.grpc.fast.frames import STREAM_ID_MASK, Code, ConnectionFault, StreamFault
from sidecar.inbound.grpc.fast.limits import Budget, Limits
from sidecar.inbound.grpc.fast.settings import PeerSettings

_CODE_BYTES: Final = 4
_GOAWAY_BYTES_MIN: Final = 8


class FrameRules:
    """Takes the frames of one connection, and keeps what they mean beyond single calls."""

    def __init__(
        self,
        limits: Limits,
        now: float,
        *,
        reader: BlockReader,
        peer: PeerSettings,
        calls: Calls,
        write: Callable[[bytes], None],
        pong: Callable[[bytes], None],
    ) -> None:
        """
        Begin before the first frame.

        Args:
            limits: Of this connection.
            now: From time.monotonic().
            reader: Of its header blocks.
            peer: What the peer announced; changed here.
            calls: Its streams.
            write: Takes bytes for the peer.
            pong: Hears what an acknowledged PING of ours held.
        """
        self._limits = limits
        self._reader = reader
        self._peer = peer
        self._calls = calls
        self._write = write
        self._pong = pong
        self._window = limits.connection_window_bytes
        self._block = bytearray()
        self._block_flags = 0
        self._block_frames = 0
        self._answered_before = 0
        self._resets = Budget(limits.rapid_resets_max, limits.rapid_resets_a_second, now)
        self._chores = Budget(limits.chores_max, limits.chores_a_second, now)
        self.heard_at = self.block_at = now
        self.block_of = 0
        """The stream whose header block has begun and not ended, or 0."""
        self.settings_due = True
        self.drained = False
        """Whether the peer knows which stream is the last."""
        self._handlers: list[Callable[[int, int, bytes], None]] = [
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        ]

    def take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """One frame. Raises ConnectionFault or StreamFault."""
        if self.block_of and (kind != frames.CONTINUATION or stream_id != self.block_of):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is interrupted")
        if self.settings_due and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is SETTINGS")
        if kind <= frames.CONTINUATION:
            self._handlers[kind](flags, stream_id, payload)
        else:
            self._chore()

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.1."""
        if not stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on stream 0")
        size = len(payload)
        self._window -= size
        if self._window < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "DATA beyond the window")
        most = self._limits.connection_window_bytes
        if self._window < most // 2:
            self._write(frames.window_update(0, most - self._window))
            self._window = most
        ends = bool(flags & frames.END_STREAM)
        if flags & frames.PADDED:
            payload = frames.without_padding(flags, payload)
        if not ends and len(payload) < self._limits.tiny_data_bytes:
            self._chore()
        self._calls.data(stream_id, payload, size, ends=ends)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.2; the priority is read over."""
        if not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on no client's stream")
        if flags & frames.PADDED:
            payload = frames.without_padding(flags, payload)
        depends_on_itself = False
        if flags & frames.WITH_PRIORITY:
            if len(payload) < frames.PRIORITY_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS without their priority")
            depends_on_itself = _depends_on(payload) == stream_id
            payload = payload[frames.PRIORITY_BYTES :]
        if flags & frames.END_HEADERS and not depends_on_itself:
            self._take_block(stream_id, flags, payload)
            return
        self.block_of = stream_id
        # The bit of padding is free by now.
        self._block_flags = flags & frames.END_STREAM | (frames.PADDED * depends_on_itself)
        self._block_frames = 0
        self.block_at = self.heard_at
        self._block += payload
        if flags & frames.END_HEADERS:
            self._block_whole()

    def _on_continuation(self, flags: int, _stream_id: int, payload: bytes) -> None:
        """Section 6.10."""
        if not self.block_of:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block += payload
        self._block_frames += 1
        limits = self._limits
        too_many = self._block_frames > limits.continuations_max
        if too_many or len(self._block) > limits.header_block_bytes_max:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & frames.END_HEADERS:
            self._block_whole()

    def _block_whole(self) -> None:
        stream_id, block, flags = self.block_of, bytes(self._block), self._block_flags
        self.block_of = 0
        self._block.clear()
        if flags & frames.PADDED:
            # The block counts for the table all the same.
            self._reader.read(block)
            self._calls.last_id = max(self._calls.last_id, stream_id)
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        self._take_block(stream_id, flags, block)

    def _take_block(self, stream_id: int, flags: int, block: bytes) -> None:
        fields = self._reader.read(block)
        if self.drained and stream_id > self._calls.last_id:
            return  # Section 6.8: the peer knows that we do not serve it.
        self._calls.headers(stream_id, fields, ends=bool(flags & frames.END_STREAM))

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.3; checked and read over."""
        if not stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != frames.PRIORITY_BYTES:
            raise StreamFault(stream_id, Code.FRAME_SIZE_ERROR)
        if _depends_on(payload) == stream_id:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        self._chore()

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.4."""
        if len(payload) != _CODE_BYTES:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
        if not stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        stream = self._calls.reset(stream_id)
        if stream is None:
            self._chore()
        elif self.heard_at - stream.opened_at < self._limits.rapid_seconds:
            self._reset()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.5."""
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._chore()
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement is empty")
            self._reader.forbid_table()
            return
        table, window = self._peer.header_table_size, self._peer.initial_window_size
        self._peer.apply(payload)
        self.settings_due = False
        if self._peer.header_table_size < table:
            self._calls.sender.table_shrank()
        self._write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if self._peer.initial_window_size != window:
            self._calls.resize(self._peer.initial_window_size - window)

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """Section 8.4: clients do not push."""
        raise ConnectionFault(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.7."""
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != frames.PING_BYTES:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING has 8 bytes")
        self._chore()
        if not flags & frames.ACK:
            self._write(frames.frame(frames.PING, frames.ACK, 0, payload))
        else:
            self._pong(payload)

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.8: the peer opens no more streams, and closes when it likes."""
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < _GOAWAY_BYTES_MIN:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY has at least 8 bytes")
        self._chore()

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Section 6.9."""
        if len(payload) != _CODE_BYTES:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
        self._chore()
        increment = int.from_bytes(payload, "big") & frames.WINDOW_MAX
        if stream_id:
            self._calls.widen(stream_id, increment)
        else:
            self._calls.widen_connection(increment)

    # --- what a peer may cost ----------------------------------------------------------------

    def _chore(self) -> None:
        if not self._chores.spend(self.heard_at):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames without a call")

    def _reset(self) -> None:
        if not self._resets.spend(self.heard_at):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many streams are reset")

    def charge(self) -> None:
        """Calls that were answered earn the frames that came with them."""
        answered = self._calls.answered
        if answered != self._answered_before:
            self._chores.earn((answered - self._answered_before) * self._limits.chores_a_call)
            self._answered_before = answered

    def end_stream(self, fault: StreamFault) -> None:
        """Reset a stream after an error (section 5.4.2)."""
        stream = self._calls.streams.get(fault.stream_id)
        if stream is not None:
            self._calls.drop(stream, ignores=True)
        else:
            self._calls.closed.add(fault.stream_id, ignores=True)
        self._write(frames.rst_stream(fault.stream_id, fault.code))
        self._reset()


def _depends_on(payload: bytes) -> int:
    return int.from_bytes(payload[:4], "big") & STREAM_ID_MASK
