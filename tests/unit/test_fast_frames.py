"""The rules of each frame; most are the cases of h2spec's generic and http2 suites."""

import asyncio

import pytest
from fixtures.http2_peer import GRPC, SETTINGS, Peer

from sidecar.inbound.grpc.engine import UnaryMethod
from sidecar.inbound.grpc.fast import frames
from sidecar.inbound.grpc.fast.frames import Code, frame


async def echo(data, call):
    return data


ECHO = UnaryMethod("/test.Test/Call", echo)
OPEN = "open"


def settings(name, value):
    return frame(frames.SETTINGS, 0, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


def update(stream_id, increment):
    return frame(frames.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


BLOCK = b"\x83\x86\x04\x01/"
CONNECTION_FAULTS = [
    (frame(frames.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    (frame(frames.DATA, 0, 3, b"x"), Code.PROTOCOL_ERROR),
    (frame(frames.DATA, frames.PADDED, 1, b"\x05ab"), Code.PROTOCOL_ERROR),
    (frame(frames.DATA, frames.PADDED, 1), Code.FRAME_SIZE_ERROR),
    (frame(frames.HEADERS, 4, 0, BLOCK), Code.PROTOCOL_ERROR),
    (frame(frames.HEADERS, 4, 2, BLOCK), Code.PROTOCOL_ERROR),
    (frame(frames.HEADERS, 4 | frames.PADDED, 3, b"\x20" + BLOCK), Code.PROTOCOL_ERROR),
    (frame(frames.HEADERS, 4 | frames.WITH_PRIORITY, 3, b"abc"), Code.FRAME_SIZE_ERROR),
    (frame(frames.HEADERS, 0, 3, BLOCK) + frame(frames.PRIORITY, 0, 1, b"\0" * 5), 1),
    (frame(frames.HEADERS, 0, 3, BLOCK) + frame(frames.HEADERS, 4, 5, BLOCK), 1),
    (frame(frames.HEADERS, 0, 3, BLOCK) + frame(frames.CONTINUATION, 4, 5, BLOCK), 1),
    (frame(frames.HEADERS, 0, 3, BLOCK) + frame(0x16, 0, 0, b""), Code.PROTOCOL_ERROR),
    (frame(frames.CONTINUATION, 4, 1, BLOCK), Code.PROTOCOL_ERROR),
    (frame(frames.PRIORITY, 0, 0, b"\0" * 5), Code.PROTOCOL_ERROR),
    (frame(frames.RST_STREAM, 0, 0, b"\0" * 4), Code.PROTOCOL_ERROR),
    (frame(frames.RST_STREAM, 0, 3, b"\0" * 4), Code.PROTOCOL_ERROR),
    (frame(frames.RST_STREAM, 0, 1, b"\0" * 3), Code.FRAME_SIZE_ERROR),
    (frame(frames.SETTINGS, frames.ACK, 0, b"\0"), Code.FRAME_SIZE_ERROR),
    (frame(frames.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    (frame(frames.SETTINGS, 0, 0, b"\0" * 3), Code.FRAME_SIZE_ERROR),
    (frame(frames.SETTINGS, 0, 0, b"\0" * 6 * 65), Code.ENHANCE_YOUR_CALM),
    (settings(2, 2), Code.PROTOCOL_ERROR),
    (settings(4, 2**31), Code.FLOW_CONTROL_ERROR),
    (settings(5, 16_383), Code.PROTOCOL_ERROR),
    (settings(5, 2**24), Code.PROTOCOL_ERROR),
    (frame(frames.PUSH_PROMISE, 4, 1, b"\0" * 8), Code.PROTOCOL_ERROR),
    (frame(frames.PING, 0, 1, b"\0" * 8), Code.PROTOCOL_ERROR),
    (frame(frames.PING, 0, 0, b"\0" * 6), Code.FRAME_SIZE_ERROR),
    (frame(frames.GOAWAY, 0, 1, b"\0" * 8), Code.PROTOCOL_ERROR),
    (frame(frames.GOAWAY, 0, 0, b"\0" * 7), Code.FRAME_SIZE_ERROR),
    (frame(frames.WINDOW_UPDATE, 0, 0, b"\0" * 3), Code.FRAME_SIZE_ERROR),
    (update(0, 0), Code.PROTOCOL_ERROR),
    (update(3, 1), Code.PROTOCOL_ERROR),
    (update(0, 2**31 - 1) * 2, Code.FLOW_CONTROL_ERROR),
    (update(1, 2**31 - 1 - 65_535) + settings(4, 65_536), Code.FLOW_CONTROL_ERROR),
    (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", Code.FRAME_SIZE_ERROR),
    (frame(frames.HEADERS, 5, 3, b"\x80"), Code.COMPRESSION_ERROR),
    (frame(frames.HEADERS, 5, 3, b"\xff\xff\x01"), Code.COMPRESSION_ERROR),
]


@pytest.mark.parametrize(("data", "code"), CONNECTION_FAULTS)
async def test_what_ends_the_connection_beside_an_open_stream(data, code):
    peer = Peer(ECHO)
    peer.headers(1)
    await peer.seen()
    peer.send(data)
    assert await peer.fault() == code
    await peer.close()


STREAM_FAULTS = [
    (frame(frames.HEADERS, 4, 1, b"\x00\x01a\x01b"), Code.PROTOCOL_ERROR),  # No END_STREAM.
    (frame(frames.HEADERS, 5, 1, b"\x82"), Code.PROTOCOL_ERROR),  # Pseudo-header in trailers.
    (frame(frames.PRIORITY, 0, 1, b"\0" * 4), Code.FRAME_SIZE_ERROR),
    (frame(frames.PRIORITY, 0, 1, b"\0\0\0\x01\0"), Code.PROTOCOL_ERROR),
    (update(1, 0), Code.PROTOCOL_ERROR),
    (update(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
]


@pytest.mark.parametrize(("data", "code"), STREAM_FAULTS)
async def test_what_ends_one_stream_and_no_other(data, code):
    peer = Peer(ECHO)
    peer.headers(1)
    peer.send(data)
    assert await peer.resets() == [(1, code)]
    peer.call(3, b"still here")
    assert await peer.answer(3) == ("0", b"still here")
    await peer.close()


MALFORMED = [
    [*GRPC, ("Upper", "x")],
    [*GRPC, ("connection", "close")],
    [*GRPC, (":unknown", "x")],
    [*GRPC, (":path", "/")],
    [("a", "b"), *GRPC],
    [*GRPC, ("te", "gzip")],
    [*GRPC, ("x", "a\nb")],
    [*GRPC, ("x", " a")],
    [*GRPC, (":status", "200")],
    [*GRPC, ("content-length", "3"), ("content-length", "4")],
    [field for field in GRPC if field[0] != ":path"],
    [field for field in GRPC if field[0] != ":method"],
    [field for field in GRPC if field[0] != ":scheme"],
    [("content-length", "99")],
]


@pytest.mark.parametrize("fields", MALFORMED)
async def test_a_malformed_request_is_reset(fields):
    if fields[0][0] == "content-length":
        fields = [*GRPC, *fields]
    peer = Peer(ECHO)
    peer.call(1, fields=fields)
    assert (1, Code.PROTOCOL_ERROR) in await peer.resets()
    assert not peer.transport.closed
    await peer.close()


async def test_what_a_closed_stream_answers():
    peer = Peer(ECHO)
    peer.call(5)
    assert await peer.answer(5) == ("0", b"hi")
    peer.data(5, b"late")
    assert await peer.resets() == [(5, Code.STREAM_CLOSED)]
    peer.send(frame(frames.RST_STREAM, 0, 5, b"\0" * 4) + update(5, 1))
    peer.send(frame(frames.PRIORITY, 0, 5, b"\0" * 5))
    assert await peer.seen() == []
    peer.headers(3)
    assert await peer.fault() == Code.PROTOCOL_ERROR
    again = Peer(ECHO)
    again.call(1)
    await again.seen()
    again.headers(1, ends=True)
    assert await again.fault() == Code.STREAM_CLOSED


async def test_no_preface_no_settings():
    for data in (b"GET / HTTP/1.1\r\n\r\n", frames.PREFACE + frame(frames.PING, 0, 0, b"\0" * 8)):
        peer = Peer(greet=False)
        peer.send(data)
        assert await peer.fault() == Code.PROTOCOL_ERROR


async def test_padding_priority_continuations_unknown_frames_and_trailers_are_taken():
    peer = Peer(ECHO)
    block = peer.encoder.encode(GRPC)
    flags = frames.PADDED | frames.WITH_PRIORITY
    peer.send(frame(frames.HEADERS, flags, 1, b"\x03\0\0\0\0\x10" + block[:7] + b"\0" * 3))
    peer.send(frame(frames.CONTINUATION, 0, 1, block[7:9]))
    peer.send(frame(frames.CONTINUATION, 4, 1, block[9:]))
    peer.send(frame(0x77, 0xFF, 9, b"?"))
    peer.send(frame(frames.DATA, frames.PADDED, 1, b"\x02\0\0\0\0\x02h\0\0"))
    peer.data(1, b"", ends=False)
    peer.data(1, b"i", ends=False)
    peer.headers(1, [("x-end", "1")], ends=True)
    seen = await peer.seen()
    assert [one.payload for one in seen if one.kind == frames.DATA] == [b"\0\0\0\0\x02hi"]
    # The padding, with its length, was given back to the stream.
    assert (frames.WINDOW_UPDATE, 1, 3) in [
        (one.kind, one.stream_id, int.from_bytes(one.payload, "big")) for one in seen
    ]
    await peer.close()


async def test_bytes_one_by_one_are_the_same():
    peer = Peer(ECHO, greet=False)
    block = peer.encoder.encode(GRPC)
    data = frames.PREFACE + SETTINGS + frame(frames.HEADERS, 4, 1, block)
    data += frame(frames.DATA, 1, 1, b"\0\0\0\0\x02hi")
    for octet in data:
        peer.send(bytes([octet]))
    assert await peer.answer(1) == ("0", b"hi")
    await peer.close()


async def test_an_answer_waits_for_windows_and_goes_on():
    async def big(data, call):
        return b"x" * 100_000

    peer = Peer(UnaryMethod("/test.Test/Call", big))
    peer.send(settings(4, 10))
    peer.call(1)

    async def sent():
        return sum(len(one.payload) for one in await peer.seen() if one.kind == frames.DATA)

    assert await sent() == 10
    peer.send(settings(4, 0) + update(1, 5))  # The window was 0, is now -10 + 5.
    assert await sent() == 0
    peer.send(update(1, 10))
    assert await sent() == 5
    peer.send(update(1, 2**20))
    assert await sent() == 65_535 - 15
    peer.send(update(0, 2**20))
    seen = await peer.seen()
    assert sum(len(one.payload) for one in seen if one.kind == frames.DATA) == 100_005 - 65_535
    assert all(len(one.payload) <= 16_384 for one in seen)
    assert (seen[-1].flags, dict(seen[-1].fields)) == (5, {"grpc-status": "0"})
    await peer.close()


async def test_a_smaller_table_is_confirmed_in_the_next_block():
    peer = Peer(ECHO)
    peer.send(settings(1, 0))
    peer.decoder.max_allowed_table_size = 0  # Insists on the update from here on.
    peer.call(1)
    assert await peer.answer(1) == ("0", b"hi")
    peer.call(3)
    assert await peer.answer(3) == ("0", b"hi")
    await peer.close()


async def test_streams_beyond_the_announced_number_are_refused():
    never = asyncio.Event()

    async def wait(data, call):
        await never.wait()

    peer = Peer(UnaryMethod("/test.Test/Call", wait), streams_max=2)
    for stream_id in (1, 3, 5):
        peer.call(stream_id)
    assert (5, Code.REFUSED_STREAM) in await peer.resets()
    await peer.close()
