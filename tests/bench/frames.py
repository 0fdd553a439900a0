"""
gRPC calls as frames that are made before a run: a client that is never what is measured.

Source: RFC 9113, sections 4.1 and 6. Header blocks need no table, so that any server reads them.
"""

import asyncio
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hpack import Encoder

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES_MAX = 16_384
"""Of what every server takes."""
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_ENVOY = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "sidecar"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("x-envoy-internal", "true"),
    ("x-forwarded-for", "10.0.0.1"),
    ("user-agent", "envoy"),
]


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


class CallFrames:
    """Makes HEADERS and DATA of calls of one method, with one metadata."""

    def __init__(self, path: str, metadata: Sequence[tuple[str, str]], timeout: str) -> None:
        self._encoder = Encoder()
        self._encoder.header_table_size = 0
        timed = [(":path", path), ("grpc-timeout", timeout)]
        self._block = self._encoder.encode([*_ENVOY[:3], *timed, *_ENVOY[3:], *metadata])

    def of(self, number: int, message: bytes, *, traced: bool = False) -> bytes:
        """The connection's call of this number, from 0; a traced one has a header of its own."""
        block = self._block
        if traced:
            trace = f"00-{number * 7919:032x}-{number * 104729:016x}-01"
            block += self._encoder.encode([("traceparent", trace)])
        stream_id = 2 * number + 1
        body = b"\x00" + len(message).to_bytes(4, "big") + message
        parts = [body[at : at + FRAME_BYTES_MAX] for at in range(0, len(body), FRAME_BYTES_MAX)]
        ends = [*[0] * (len(parts) - 1), _END_STREAM]
        return frame(_HEADERS, _END_HEADERS, stream_id, block) + b"".join(
            frame(_DATA, end, stream_id, part) for end, part in zip(ends, parts, strict=True)
        )


@dataclass(slots=True)
class Answered:
    """What came of the calls of one connection: seconds each took, and the messages' bytes."""

    seconds: list[float] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    refused: int = 0
    """Ended without a message: a status of gRPC's, or a reset."""


@dataclass(frozen=True, slots=True)
class _Pace:
    started: float
    every_seconds: float

    def due_at(self, now: float) -> int:
        """How many calls may have been sent by now."""
        if not self.every_seconds:
            return sys.maxsize
        return int((now - self.started) / self.every_seconds) + 1

    def instant(self, number: int, now: float | None = None) -> float | None:
        """When a call is due; without a pace it is due now."""
        return self.started + number * self.every_seconds if self.every_seconds else now


class Connection:
    """One HTTP/2 connection that is driven by hand; its calls are numbered from 0 for good."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.calls = 0

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        reader, writer = await asyncio.open_connection(host, port)
        wide = frame(_WINDOW, 0, 0, (2**31 - 65_536).to_bytes(4, "big"))
        writer.write(GREETING + frame(_SETTINGS, 0, 0, b"") + wide + frame(_SETTINGS, _ACK, 0, b""))
        return cls(reader, writer)

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):  # The server may have hung up first.
            await self._writer.wait_closed()

    async def send(
        self, sending: Sequence[bytes], at_a_time: int, *, every_seconds: float = 0.0
    ) -> Answered:
        """
        Send calls that were made for the numbers from `calls` on, some under way at a time.

        Args:
            sending: Frames of each call.
            at_a_time: Under way at most.
            every_seconds: A call's distance to the one before; a late one counts from when it was
                due, so that a server which stands still is not spared. 0: as soon as there is room.
        """
        pace = _Pace(time.perf_counter(), every_seconds)
        begun: dict[int, float] = {}
        bodies: dict[int, bytes] = {}
        found, first = Answered(), self.calls
        self.calls += len(sending)
        sent, ended, buffer = 0, 0, b""
        while ended < len(sending):
            now = time.perf_counter()
            room = min(at_a_time - (sent - ended), len(sending) - sent, pace.due_at(now) - sent)
            if room > 0:
                for n in range(sent, sent + room):
                    begun[2 * (first + n) + 1] = pace.instant(n, now)
                self._writer.write(b"".join(sending[sent : sent + room]))
                sent += room
            data = await self._read_until(pace.instant(sent) if sent < len(sending) else None)
            buffer += data
            at, now = 0, time.perf_counter()
            while len(buffer) - at >= 9:
                word, flags, stream_id = struct.unpack_from(">IBI", buffer, at)
                kind, end = word & 0xFF, at + 9 + (word >> 8)
                if len(buffer) < end:
                    break
                assert kind != _GOAWAY, "the server goes away"
                if kind == _DATA:
                    bodies[stream_id] = bodies.get(stream_id, b"") + buffer[at + 9 : end]
                elif kind == _PING and not flags & _ACK:
                    self._writer.write(frame(_PING, _ACK, 0, buffer[at + 9 : end]))
                is_end = kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM)
                if is_end and stream_id in begun:  # grpcio resets some that have ended, too.
                    ended += 1
                    took, body = now - begun.pop(stream_id), bodies.pop(stream_id, b"")
                    if kind == _HEADERS and len(body) >= 5:  # An empty message is one, too.
                        found.seconds.append(took)
                        found.messages.append(body[5:])
                    else:
                        found.refused += 1
                at = end
            buffer = buffer[at:]
        return found

    async def _read_until(self, instant: float | None) -> bytes:
        """What came, if anything did before the next call is due."""
        try:
            async with asyncio.timeout(
                None if instant is None else max(0.0, instant - time.perf_counter())
            ):
                data = await self._reader.read(1 << 18)
        except TimeoutError:
            return b""
        assert data, "the server hung up"
        return data
