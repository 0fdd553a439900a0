"""
One connection: bytes to frames, and everything that concerns no single call.

Source: RFC 9113, sections 3.4 (preface), 4.1 (frames), 5.4.1 (errors), 6.8 (end in two steps).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

from sidecar.inbound.grpc.engine import GrpcStatus
from sidecar.inbound.grpc.fast import frames, settings
from sidecar.inbound.grpc.fast.blocks import BlockReader
from sidecar.inbound.grpc.fast.calls import Calls
from sidecar.inbound.grpc.fast.frames import (
    HEAD,
    HEAD_BYTES,
    Code,
    ConnectionFault,
    StreamFault,
)
from sidecar.inbound.grpc.fast.limits import Limits
from sidecar.inbound.grpc.fast.rules import FrameRules
from sidecar.inbound.grpc.fast.settings import PeerSettings

_DRAIN_PING: Final = b"draining"
_KEEPALIVE_PING: Final = b"sidecar?"


class Server(Protocol):
    """What a connection needs of its engine."""

    limits: Limits

    def connected(self, connection: "Connection") -> bool:
        """Take a new connection; False if there are too many."""

    def disconnected(self, connection: "Connection") -> None:
        """Forget one."""

    def new_reader(self) -> BlockReader:
        """For its header blocks."""

    def new_calls(
        self, write: Callable[[bytes], None], peer_settings: PeerSettings, peer: str
    ) -> Calls:
        """For its streams."""


class Connection(asyncio.Protocol):
    """Reads frames, keeps the connection's state, and writes once for each turn of the loop."""

    transport: asyncio.Transport
    calls: Calls

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._peer = PeerSettings()
        self._input = bytearray()
        self._needed = len(frames.PREFACE)
        self._preface_due = True
        self._output: list[bytes] = []
        self._flush_due = False
        self._closing = False
        self._gone = False
        self._draining = False
        now = time.monotonic()
        self._opened_at = now
        self._stalled_at: float | None = None
        self._pinged_at: float | None = None
        self._drained_by = self._closed_by = 0.0

    # --- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Announce ourselves."""
        # uvloop's transports are of no asyncio class.
        self.transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=self._limits.output_bytes_high)
        self.calls = self._server.new_calls(self._write, self._peer, _peer_name(transport))
        self._rules = FrameRules(
            self._limits,
            self._opened_at,
            reader=self._server.new_reader(),
            peer=self._peer,
            calls=self.calls,
            write=self._write,
            pong=self._on_pong,
        )
        if not self._server.connected(self):
            self._closing = self._gone = True
            transport.abort()
            return
        self._write(settings.announcement(self._limits))

    def connection_lost(self, _exc: Exception | None) -> None:
        """Cancel what the peer had asked for."""
        self._closing = self._gone = True
        self._input.clear()
        self._output.clear()
        self.calls.drop_all()
        self._server.disconnected(self)

    def pause_writing(self) -> None:
        """The peer does not read: take nothing more from it."""
        self._stalled_at = time.monotonic()
        if not self._closing:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has read."""
        self._stalled_at = None
        if not self._closing:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take all whole frames; keep the begun one, which is joined once when it is whole."""
        if self._closing:
            return
        self._rules.heard_at = time.monotonic()
        buffered = self._input
        if buffered:
            buffered += data
            if len(buffered) < self._needed and not self._preface_due:
                return
            data = bytes(buffered)
            buffered.clear()
        try:
            if self._preface_due:
                rest = self._take_preface(data)
                if rest is None:
                    return
                data = rest
            self._take_frames(data)
            self._rules.charge()
        except ConnectionFault as fault:
            self.fail(fault)
        self._flush()

    # --- frames ------------------------------------------------------------------------------

    def _take_preface(self, data: bytes) -> bytes | None:
        """What follows the preface (section 3.4), or None while it is not whole."""
        preface = frames.PREFACE
        if not data.startswith(preface[: len(data)]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "this is not HTTP/2 with prior knowledge")
        if len(data) < len(preface):
            self._input += data
            return None
        self._preface_due = False
        return data[len(preface) :]

    def _take_frames(self, data: bytes) -> None:
        """Section 4.1."""
        at, end = 0, len(data)
        needed = HEAD_BYTES
        while end - at >= HEAD_BYTES:
            word, flags, stream_id = HEAD.unpack_from(data, at)
            length = word >> 8
            if length > frames.FRAME_BYTES_MAX:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame is too large")
            begin = at + HEAD_BYTES
            if end - begin < length:
                needed = HEAD_BYTES + length
                break
            at = begin + length
            try:
                self._rules.take(
                    word & 0xFF, flags, stream_id & frames.STREAM_ID_MASK, data[begin:at]
                )
            except StreamFault as fault:
                self._rules.end_stream(fault)
            if self._closing:
                return
        self._needed = needed
        if at < end:
            self._input += data[at:] if at else data

    # --- output and the end --------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._output.append(data)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._gone or not self._output:
            return
        data = b"".join(self._output)
        self._output.clear()
        self.transport.write(data)
        unread = self.transport.get_write_buffer_size() + self.calls.sender.waiting_bytes
        if unread > self._limits.output_bytes_max:
            self.transport.abort()
        elif self._rules.drained and not self.calls.streams:
            self._close()

    def fail(self, fault: ConnectionFault) -> None:
        """End the connection with an error (section 5.4.1)."""
        self.calls.drop_all()
        self._write(frames.goaway(self.calls.last_id, fault.code, fault.what))
        self._flush()
        self._close()

    def _close(self) -> None:
        if not self._closing:
            self._closing = True
            self._closed_by = time.monotonic() + self._limits.close_seconds
            self.transport.close()

    def drain(self) -> None:
        """Take no more than what is on its way (section 6.8, in two steps)."""
        if self._draining or self._closing:
            return
        self._draining = True
        self._drained_by = time.monotonic() + self._limits.drain_ping_seconds
        self._write(frames.goaway(frames.STREAM_ID_MASK, Code.NO_ERROR))
        self._write(frames.frame(frames.PING, 0, 0, _DRAIN_PING))

    def _end_drain(self) -> None:
        if not self._rules.drained:
            self._rules.drained = True
            self._write(frames.goaway(self.calls.last_id, Code.NO_ERROR))

    def _on_pong(self, payload: bytes) -> None:
        if payload == _DRAIN_PING and self._draining:
            self._end_drain()
        elif payload == _KEEPALIVE_PING:
            self._pinged_at = None

    def cut(self) -> None:
        """Answer what is left with UNAVAILABLE, and close."""
        if self._closing:
            return
        self.calls.refuses_new = True
        self.calls.fail_all(GrpcStatus.UNAVAILABLE, "the server stops")
        self._end_drain()
        self._flush()
        self._close()

    def sweep(self, now: float) -> None:
        """End what took too long; called often."""
        limits = self._limits
        if self._gone:
            return
        if self._closing:
            if now > self._closed_by:
                self.transport.abort()
            return
        if self._stalled_at is not None and now - self._stalled_at > limits.stall_seconds:
            self.transport.abort()
            return
        if self._rules.settings_due and now - self._opened_at > limits.handshake_seconds:
            self.fail(ConnectionFault(Code.SETTINGS_TIMEOUT, "no SETTINGS in time"))
            return
        if self._rules.block_of and now - self._rules.block_at > limits.header_block_seconds:
            self.fail(ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block does not end"))
            return
        if self._draining and now > self._drained_by:
            self._end_drain()
        if self._rules.drained and not self.calls.streams:
            self._flush()
            self._close()
            return
        self._keep_alive(now)
        if self.calls.streams:
            self.calls.sweep(now)

    def _keep_alive(self, now: float) -> None:
        limits = self._limits
        if self._pinged_at is not None:
            if self._rules.heard_at > self._pinged_at:
                self._pinged_at = None
            elif now - self._pinged_at > limits.ping_seconds:
                self.transport.abort()
        elif now - self._rules.heard_at > limits.keepalive_seconds:
            self._pinged_at = now
            self._write(frames.frame(frames.PING, 0, 0, _KEEPALIVE_PING))


def _peer_name(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple) and len(name) >= 2:
        host, port = name[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
    return "unix:"
