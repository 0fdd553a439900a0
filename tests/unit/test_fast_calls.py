"""gRPC over HTTP/2 in the fast engine: what is no call, what a call may be, and its end."""

import asyncio
import base64
import time

import pytest
from fixtures.http2_peer import GRPC, Peer

from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus, UnaryMethod
from sidecar.inbound.grpc.fast import frames
from sidecar.inbound.grpc.fast.frames import Code, frame
from sidecar.inbound.grpc.fast.responses import percent_encoded

PATH = "/test.Test/Call"


async def echo(data, call):
    return data


ECHO = UnaryMethod(PATH, echo)


def fields(**changes):
    names = {"method": ":method", "path": ":path", "content_type": "content-type"}
    return [
        (name, next((value for key, value in changes.items() if names[key] == name), old))
        for name, old in GRPC
    ]


@pytest.mark.parametrize(
    ("changes", "status", "body"),
    [
        ({"content_type": "application/json"}, "415", True),
        ({"content_type": "application/grpc-web"}, "415", True),
        ({"content_type": "application/json", "method": "HEAD"}, "415", False),
        ({"method": "GET"}, "405", True),
    ],
)
async def test_what_is_no_grpc_call_is_answered_in_http(changes, status, body):
    peer = Peer(ECHO)
    peer.headers(1, fields(**changes), ends=True)
    seen = [one for one in await peer.seen() if one.stream_id == 1]
    assert dict(seen[0].fields)[":status"] == status
    length = sum(len(one.payload) for one in seen[1:])
    assert bool(length) is body
    assert seen[-1].flags & frames.END_STREAM
    if body:
        assert dict(seen[0].fields)["content-length"] == str(length)
    await peer.close()


async def test_an_upload_that_is_no_call_is_not_read_to_its_end():
    peer = Peer(ECHO, discarded_bytes_max=1_000)
    peer.headers(1, fields(content_type="text/plain"))
    peer.data(1, b"x" * 999, ends=False)
    assert [one for one in await peer.seen() if one.stream_id == 1] == []
    peer.data(1, b"x" * 10, ends=False)
    assert await peer.resets() == [(1, Code.NO_ERROR)]
    peer.data(1, b"late", ends=False)
    assert await peer.seen() == []
    await peer.close()


def message(data, flag=0):
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    ("body", "extra", "status"),
    [
        (b"", [], GrpcStatus.UNIMPLEMENTED),
        (message(b"a") * 2, [], GrpcStatus.UNIMPLEMENTED),
        (message(b"a")[:-1], [], GrpcStatus.INTERNAL),
        (message(b"a", 1), [("grpc-encoding", "gzip")], GrpcStatus.UNIMPLEMENTED),
        (message(b"a", 1), [], GrpcStatus.INTERNAL),
        (message(b"a", 2), [("grpc-encoding", "gzip")], GrpcStatus.INTERNAL),
        (message(b"a"), [("grpc-timeout", "soon")], GrpcStatus.INTERNAL),
        (message(b"a"), [("grpc-encoding", "gzip")], GrpcStatus.OK),
        (message(b""), [("content-length", "5")], GrpcStatus.OK),
        (message(b"x" * 101), [], GrpcStatus.RESOURCE_EXHAUSTED),
    ],
)
async def test_what_a_call_may_hold(body, extra, status):
    peer = Peer(ECHO, message_bytes_max=100)
    peer.headers(1, [*GRPC, *extra])
    peer.data(1, body)
    assert (await peer.answer(1))[0] == str(int(status))
    await peer.close()


async def test_an_unknown_method_is_told_before_its_stream_ends():
    peer = Peer(ECHO)
    peer.headers(1, fields(path="/no.Such/Stream"))
    seen = [one for one in await peer.seen() if one.stream_id == 1]
    assert dict(seen[0].fields)["grpc-status"] == "12"
    assert (seen[-1].kind, seen[-1].code) == (frames.RST_STREAM, Code.NO_ERROR)
    await peer.close()


async def test_messages_of_a_status_are_percent_encoded_and_cut():
    async def fail(data, call):
        raise GrpcError(GrpcStatus.NOT_FOUND, "50% zażółć\n" + "x" * 5_000)

    peer = Peer(UnaryMethod(PATH, fail))
    peer.call(1)
    seen = [one for one in await peer.seen() if one.stream_id == 1]
    text = dict(seen[0].fields)["grpc-message"]
    assert text.startswith("50%25 za%C5%BC%C3%B3%C5%82%C4%87%0Ax")
    assert len(text) < 1_100
    assert percent_encoded("\ud800") == "?"
    await peer.close()


class Waiting:
    """A handler that never answers, and remembers that it was cancelled."""

    def __init__(self):
        self.begun = self.cancelled = 0
        self.method = UnaryMethod(PATH, self.handle)

    async def handle(self, data, call):
        self.begun += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def test_a_deadline_a_reset_and_the_end_of_the_connection_cancel():
    waiting = Waiting()
    peer = Peer(waiting.method)
    peer.call(1, fields=[*GRPC, ("grpc-timeout", "10m")])
    peer.call(3)
    peer.call(5)
    await peer.seen()
    peer.connection.sweep(time.monotonic() + 0.02)
    assert await peer.answer(1) == ("4", b"")
    peer.send(frame(frames.RST_STREAM, 0, 3, Code.CANCEL.to_bytes(4, "big")))
    assert await peer.seen() == []
    assert (waiting.begun, waiting.cancelled) == (3, 2)
    await peer.close()
    assert waiting.cancelled == 3


async def test_a_handler_cancelled_from_elsewhere_is_answered():
    async def handler(data, call):
        raise asyncio.CancelledError

    peer = Peer(UnaryMethod(PATH, handler))
    peer.call(1)
    assert (await peer.answer(1))[0] == "1"
    await peer.close()


async def test_an_end_in_two_steps_serves_what_is_on_its_way():
    peer = Peer(ECHO)
    await peer.seen()
    peer.connection.drain()
    first, ping = await peer.seen()
    assert (first.kind, first.code) == (frames.GOAWAY, Code.NO_ERROR)
    assert int.from_bytes(first.payload[:4], "big") == 2**31 - 1
    peer.call(1, b"on its way")
    assert await peer.answer(1) == ("0", b"on its way")
    peer.headers(3)
    peer.send(frame(frames.PING, frames.ACK, 0, ping.payload))
    (last,) = await peer.seen()
    assert (last.kind, int.from_bytes(last.payload[:4], "big")) == (frames.GOAWAY, 3)
    peer.headers(5)
    peer.data(3, message(b"x"))
    assert await peer.answer(3) == ("0", b"x")
    assert peer.transport.closed
    await peer.close()


async def test_binary_metadata_with_padding():
    seen = []

    async def handler(data, call):
        seen.append((call.metadata["a-bin"], call.metadata["b-bin"]))
        return b""

    peer = Peer(UnaryMethod(PATH, handler))
    padded = base64.b64encode(b"\xff").decode()
    peer.call(1, fields=[*GRPC, ("a-bin", padded), ("b-bin", padded.rstrip("=") + ",AA")])
    assert await peer.answer(1) == ("0", b"")
    assert seen == [(b"\xff", b"\xff")]
    await peer.close()


async def test_an_end_after_the_last_call_was_given_up():
    peer = Peer(Waiting().method)
    peer.call(1)
    await peer.seen()
    peer.connection.drain()
    peer.connection.sweep(time.monotonic() + 2)
    assert not peer.transport.closed
    peer.send(frame(frames.RST_STREAM, 0, 1, b"\0" * 4))
    peer.connection.sweep(time.monotonic() + 2)
    assert peer.transport.closed
    await peer.close()
