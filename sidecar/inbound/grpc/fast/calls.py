"""
Calls: from a request's header fields and DATA to its handler, and back to an answer.

Source: RFC 9113, sections 5.1 (states), 8.1 (requests); gRPC over HTTP/2.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sidecar.inbound.grpc.engine import Call, GrpcStatus, UnaryMethod
from sidecar.inbound.grpc.failures import failure_of
from sidecar.inbound.grpc.fast import frames, responses
from sidecar.inbound.grpc.fast.fields import Field, Metadata
from sidecar.inbound.grpc.fast.frames import Code, ConnectionFault, StreamFault
from sidecar.inbound.grpc.fast.limits import MESSAGE_HEAD_BYTES, Limits
from sidecar.inbound.grpc.fast.requests import Head, Malformed, check_trailers
from sidecar.inbound.grpc.fast.sending import Sender
from sidecar.inbound.grpc.fast.settings import PeerSettings, stream_window
from sidecar.inbound.grpc.fast.streams import ClosedStreams, Stream

_TASK_ALLOWANCE: Final = 2
"""Handlers that are being cancelled count too, up to this many for each stream there may be."""


class Calls:
    """The streams of one connection."""

    def __init__(
        self,
        methods: Mapping[str, UnaryMethod],
        limits: Limits,
        *,
        write: Callable[[bytes], None],
        peer_settings: PeerSettings,
        peer: str,
        tasks: set[asyncio.Task[Any]],
    ) -> None:
        """
        Begin with no stream.

        Args:
            methods: By path.
            limits: Of this connection.
            write: Takes bytes for the peer.
            peer_settings: What it announced; changed from outside.
            peer: Its address, for handlers.
            tasks: Of the engine; each handler's task is there until it has ended.
        """
        self._methods = methods
        self._limits = limits
        self._write = write
        self._peer_settings = peer_settings
        self._peer = peer
        self._tasks = tasks
        self._running = 0
        self._window = stream_window(limits)
        self._buffered = 0
        self.closed = ClosedStreams(2 * limits.streams_max)
        self._loop = asyncio.get_running_loop()
        self.sender = Sender(write, peer_settings)
        self.streams: dict[int, Stream] = {}
        self.last_id = 0
        self.refuses_new = False
        self.answered = 0

    # --- from the peer -------------------------------------------------------------------

    def headers(self, stream_id: int, fields: Sequence[Field], *, ends: bool) -> None:
        """A complete field section: a new request, or trailers."""
        if stream_id > self.last_id:
            self._open(stream_id, fields, ends=ends)
            return
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._trailers(stream, fields, ends=ends)
            return
        ignores = self.closed.find(stream_id)
        if ignores is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "stream ids must rise")
        if not ignores:
            raise ConnectionFault(Code.STREAM_CLOSED, "HEADERS on a closed stream")

    def data(self, stream_id: int, payload: bytes, size: int, *, ends: bool) -> None:
        """
        DATA of a request.

        Args:
            stream_id: The stream.
            payload: Without padding.
            size: With padding, as flow control counts.
            ends: Whether it is the last.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id > self.last_id:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on an idle stream")
            if not self.closed.find(stream_id):
                raise StreamFault(stream_id, Code.STREAM_CLOSED)
            return
        if not stream.open_there:
            raise StreamFault(stream_id, Code.STREAM_CLOSED)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR)
        stream.received += len(payload)
        padding = size - len(payload)
        if padding and not ends:
            # The window has room for one message; padding must not eat of it.
            stream.receive_window += padding
            self._write(frames.window_update(stream_id, padding))
        if not stream.answered:
            self._take_data(stream, payload)
        # What was refused meanwhile is gone.
        if ends and stream_id in self.streams:
            self._ended(stream)

    def reset(self, stream_id: int) -> Stream | None:
        """RST_STREAM from the peer; the stream that it ended, if any."""
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id > self.last_id:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
            return None
        self.drop(stream, ignores=False)
        return stream

    def widen(self, stream_id: int, increment: int) -> None:
        """WINDOW_UPDATE for a stream."""
        if stream_id > self.last_id or not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        if increment == 0:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        stream = self.streams.get(stream_id)
        if stream is not None and self.sender.widen(stream, increment, time.monotonic()):
            self._sent(stream)

    def widen_connection(self, increment: int) -> None:
        """WINDOW_UPDATE for the connection."""
        for stream in self.sender.widen_connection(increment, time.monotonic()):
            self._sent(stream)

    def resize(self, change: int) -> None:
        """A new INITIAL_WINDOW_SIZE, by its difference to the one before."""
        for stream in self.sender.resize(change, self.streams.values(), time.monotonic()):
            self._sent(stream)

    # --- from us ---------------------------------------------------------------------------

    def drop(self, stream: Stream, *, ignores: bool) -> None:
        """Forget a stream and cancel its handler; whoever calls tells the peer."""
        self.sender.forget(stream)
        self._take_body(stream)
        stream.answered = True
        del self.streams[stream.id]
        self.closed.add(stream.id, ignores=ignores)
        if stream.task is not None:
            stream.task.cancel()

    def drop_all(self) -> None:
        """The connection is over."""
        for stream in list(self.streams.values()):
            self.drop(stream, ignores=True)

    def fail_all(self, status: GrpcStatus, message: str) -> None:
        """Answer what is not answered with a status, and cancel its handler."""
        for stream in list(self.streams.values()):
            if not stream.answered:
                self._fail(stream, status, message)

    def sweep(self, now: float) -> None:
        """End what took too long."""
        limits = self._limits
        for stream in list(self.streams.values()):
            if stream.id in self.sender.waiting:
                if now - stream.stalled_at > limits.stall_seconds:
                    self.drop(stream, ignores=True)
                    self._write(frames.rst_stream(stream.id, Code.CANCEL))
            elif stream.answered:
                continue
            elif stream.deadline is not None and now >= stream.deadline:
                self._fail(stream, GrpcStatus.DEADLINE_EXCEEDED, "the deadline has passed")
            elif stream.open_there and now - stream.opened_at > limits.request_seconds:
                if stream.refusal is not None:
                    self._refuse(stream)
                else:
                    self._fail(stream, GrpcStatus.CANCELLED, "the request did not end in time")

    # --- receiving ---------------------------------------------------------------------------

    def _open(self, stream_id: int, fields: Sequence[Field], *, ends: bool) -> None:
        self.last_id = stream_id
        limits = self._limits
        full = len(self.streams) >= limits.streams_max
        if full or self._running >= limits.streams_max * _TASK_ALLOWANCE or self.refuses_new:
            raise StreamFault(stream_id, Code.REFUSED_STREAM)
        try:
            head = Head(fields)
        except Malformed:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR) from None
        now = time.monotonic()
        stream = Stream(
            stream_id,
            head,
            now,
            send_window=self._peer_settings.initial_window_size,
            receive_window=self._window,
        )
        self.streams[stream_id] = stream
        if not head.is_grpc or head.method != "POST":
            stream.refusal = _refusal(head)
        else:
            self._route(stream, now)
        if ends and stream_id in self.streams:
            self._ended(stream)

    def _route(self, stream: Stream, now: float) -> None:
        """Find the method. What can be refused is refused now: a stream may never end."""
        head = stream.head
        stream.method = self._methods.get(head.path)
        timeout = head.timeout
        if stream.method is None:
            self._fail(stream, GrpcStatus.UNIMPLEMENTED, f"no method {head.path} here")
        elif timeout is not None:
            if timeout < 0:
                self._fail(stream, GrpcStatus.INTERNAL, "grpc-timeout is no timeout")
            else:
                stream.deadline = now + timeout

    def _trailers(self, stream: Stream, fields: Sequence[Field], *, ends: bool) -> None:
        if not stream.open_there:
            raise StreamFault(stream.id, Code.STREAM_CLOSED)
        try:
            check_trailers(fields)
        except Malformed:
            ends = False
        if not ends:
            raise StreamFault(stream.id, Code.PROTOCOL_ERROR)
        self._ended(stream)

    def _take_data(self, stream: Stream, payload: bytes) -> None:
        if stream.refusal is None:
            stream.body += payload
            self._buffered += len(payload)
            self._check_room(stream)
        elif stream.received > self._limits.discarded_bytes_max:
            self._refuse(stream)

    def _check_room(self, stream: Stream) -> None:
        """Refuse a message as soon as its length is known to be too large."""
        body, most = stream.body, self._limits.message_bytes_max
        if len(body) >= MESSAGE_HEAD_BYTES and int.from_bytes(body[1:5], "big") > most:
            self._fail(stream, GrpcStatus.RESOURCE_EXHAUSTED, f"a message has at most {most} bytes")
        elif self._buffered > self._limits.buffered_bytes_max:
            self._fail(stream, GrpcStatus.RESOURCE_EXHAUSTED, "too much is being received")

    def _ended(self, stream: Stream) -> None:
        """The peer has sent the whole request."""
        stream.open_there = False
        expected = stream.head.content_length
        if expected not in (-1, stream.received):
            raise StreamFault(stream.id, Code.PROTOCOL_ERROR)
        if stream.answered:
            if stream.id not in self.sender.waiting:
                self._sent(stream)
        elif stream.refusal is not None:
            self._refuse(stream)
        else:
            self._begin(stream, self._take_body(stream))

    def _take_body(self, stream: Stream) -> bytearray:
        body = stream.body
        if body:
            self._buffered -= len(body)
            stream.body = bytearray()
        return body

    def _begin(self, stream: Stream, body: bytearray) -> None:
        """Check the one message, and start the handler."""
        method = stream.method
        assert method is not None, "a stream without a method was answered"
        if len(body) < MESSAGE_HEAD_BYTES:
            self._fail(stream, GrpcStatus.UNIMPLEMENTED, "the call takes one message")
            return
        size = int.from_bytes(body[1:MESSAGE_HEAD_BYTES], "big")
        if body[0]:
            encoding = stream.head.encoding
            is_named = encoding != "identity"
            self._fail(
                stream,
                GrpcStatus.UNIMPLEMENTED if body[0] == 1 and is_named else GrpcStatus.INTERNAL,
                "compressed messages are not taken" if is_named else "a message's flag is wrong",
            )
            return
        if len(body) != MESSAGE_HEAD_BYTES + size:
            is_more = len(body) > MESSAGE_HEAD_BYTES + size
            self._fail(
                stream,
                GrpcStatus.UNIMPLEMENTED if is_more else GrpcStatus.INTERNAL,
                "the call takes one message" if is_more else "the message is cut short",
            )
            return
        message = bytes(memoryview(body)[MESSAGE_HEAD_BYTES:])
        call = Call(
            deadline=stream.deadline, metadata=Metadata(stream.head.fields), peer=self._peer
        )
        task = self._loop.create_task(self._run(stream, method, message, call))
        stream.task = task
        self._running += 1
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    # --- answering ---------------------------------------------------------------------------

    async def _run(self, stream: Stream, method: UnaryMethod, message: bytes, call: Call) -> None:
        try:
            answer = await method.handler(message, call)
        except asyncio.CancelledError:
            stream.task = None
            if not stream.answered:  # Not cancelled by us.
                self._fail(stream, GrpcStatus.CANCELLED, "the call was cancelled")
            raise
        except Exception as error:  # noqa: BLE001  The top of a call: counted, logged, answered.
            status, words = failure_of(method.path, error)
            stream.task = None
            if not stream.answered:
                self._fail(stream, status, words)
            return
        stream.task = None
        if stream.answered:
            return
        size = len(answer)
        if size > self._limits.message_bytes_max:
            self._fail(stream, GrpcStatus.RESOURCE_EXHAUSTED, "the answer is too large")
            return
        body = b"\x00" + size.to_bytes(4, "big") + answer
        self._answer(stream, responses.GRPC_HEAD, body, responses.GRPC_OK)

    def _task_done(self, task: "asyncio.Task[Any]") -> None:
        self._running -= 1
        self._tasks.discard(task)

    def _fail(self, stream: Stream, status: GrpcStatus, message: str) -> None:
        self._answer(stream, responses.trailers_only(status, message), b"", None)
        if stream.task is not None:
            stream.task.cancel()

    def _refuse(self, stream: Stream) -> None:
        assert stream.refusal is not None
        self._answer(stream, *stream.refusal, None)

    def _answer(self, stream: Stream, head: bytes, body: bytes, trailers: bytes | None) -> None:
        self.answered += 1
        if stream.body:
            self._take_body(stream)
        if self.sender.answer(stream, head, body, trailers, time.monotonic()):
            self._sent(stream)

    def _sent(self, stream: Stream) -> None:
        """All of the answer is out. A peer that still sends is told to stop (section 8.1)."""
        if stream.open_there:
            self._write(frames.rst_stream(stream.id, Code.NO_ERROR))
        del self.streams[stream.id]
        self.closed.add(stream.id, ignores=stream.open_there)


def _refusal(head: Head) -> tuple[bytes, bytes]:
    """For what is no gRPC call."""
    head_only = head.method == "HEAD"
    if head.is_grpc:
        return responses.plain(405, "gRPC calls are POST requests\n", head_only=head_only)
    return responses.plain(415, "this server speaks gRPC only\n", head_only=head_only)
