"""Peers that flood, stall or never end cost the fast engine a bounded amount, then nothing."""

import asyncio
import time

import pytest
from fixtures.fast_checks import check_frames
from fixtures.http2_peer import GRPC, SETTINGS, SETTINGS_ACK, Peer
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.inbound.grpc.engine import UnaryMethod
from sidecar.inbound.grpc.fast import frames
from sidecar.inbound.grpc.fast.frames import Code, frame

PATH = "/test.Test/Call"
CANCEL = Code.CANCEL.to_bytes(4, "big")


async def echo(data, call):
    return data


async def wait(data, call):
    await asyncio.Event().wait()


ECHO, WAIT = UnaryMethod(PATH, echo), UnaryMethod(PATH, wait)
PING = frame(frames.PING, 0, 0, b"\0" * 8)


@pytest.mark.parametrize(
    "one",
    [
        PING,
        SETTINGS,
        SETTINGS_ACK,
        frame(frames.PRIORITY, 0, 9, b"\0" * 5),
        frame(0x55, 0, 0, b""),
        frame(frames.DATA, 0, 1, b""),
        frame(frames.DATA, 0, 1, b"x"),
        frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\x01"),
        frame(frames.RST_STREAM, 0, 1, CANCEL),
    ],
)
async def test_a_flood_of_frames_that_do_nothing(one):
    peer = Peer(ECHO, chores_max=100, chores_a_second=0)
    peer.headers(1)
    peer.send(one * 200)
    assert await peer.fault() == Code.ENHANCE_YOUR_CALM
    await peer.close()


async def test_calls_earn_the_frames_that_come_with_them():
    peer = Peer(ECHO, chores_max=20, chores_a_second=0)
    for stream_id in range(1, 401, 2):
        peer.call(stream_id)
        peer.send(PING * 3)
        assert (await peer.answer(stream_id))[0] == "0"
    await peer.close()


@pytest.mark.parametrize("induced", [False, True])
async def test_rapid_resets_and_resets_that_we_are_tricked_into(induced):
    peer = Peer(WAIT, rapid_resets_max=50, rapid_resets_a_second=0)
    for stream_id in range(1, 201, 2):
        peer.headers(stream_id)
        if induced:
            peer.send(frame(frames.WINDOW_UPDATE, 0, stream_id, b"\0" * 4))
        else:
            peer.send(frame(frames.RST_STREAM, 0, stream_id, CANCEL))
    assert await peer.fault() == Code.ENHANCE_YOUR_CALM
    await peer.close()


async def test_handlers_that_are_slow_to_end_bound_what_resets_can_start():
    async def stubborn(data, call):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                raise

    peer = Peer(UnaryMethod(PATH, stubborn), streams_max=5)
    for stream_id in range(1, 101, 2):
        peer.call(stream_id)
        await asyncio.sleep(0)
        peer.send(frame(frames.RST_STREAM, 0, stream_id, CANCEL))
    assert len(peer.engine._tasks) <= 10
    await asyncio.sleep(0.1)
    await peer.close()


async def test_continuations_without_end():
    for part in (b"", b"x" * 1_000):
        peer = Peer(ECHO)
        peer.send(frame(frames.HEADERS, 0, 1, b""))
        peer.send(frame(frames.CONTINUATION, 0, 1, part) * 100)
        assert await peer.fault() == Code.ENHANCE_YOUR_CALM


async def test_a_header_bomb():
    peer = Peer(ECHO)
    block = b"\x40\x01x\x7f\x81\x1e" + b"y" * 4_000 + b"\xbe" * 10_000
    peer.send(frame(frames.HEADERS, 5, 1, block))
    assert await peer.fault() == Code.ENHANCE_YOUR_CALM


async def test_output_that_is_not_read_stops_our_reading_and_then_the_connection():
    peer = Peer(ECHO, stall_seconds=30)
    peer.connection.pause_writing()
    assert peer.transport.paused
    peer.connection.sweep(time.monotonic() + 29)
    assert not peer.transport.aborted
    peer.connection.resume_writing()
    assert not peer.transport.paused
    peer.connection.pause_writing()
    peer.connection.sweep(time.monotonic() + 31)
    assert peer.transport.aborted
    other = Peer(ECHO, output_bytes_max=1_000)
    other.transport.unread = 1_001
    other.call(1)
    await other.seen()
    assert other.transport.aborted


async def test_a_window_that_stays_shut_ends_its_call_only():
    peer = Peer(ECHO)
    peer.send(frame(frames.SETTINGS, 0, 0, b"\x00\x04\0\0\0\0"))
    peer.call(1)
    await peer.seen()
    peer.connection.sweep(time.monotonic() + 31)
    assert await peer.resets() == [(1, Code.CANCEL)]
    assert peer.connection.calls.sender.waiting_bytes == 0
    await peer.close()


async def test_beginnings_without_an_end():
    now = time.monotonic()
    silent = Peer(greet=False)
    silent.connection.sweep(now + 11)
    assert await silent.fault() == Code.SETTINGS_TIMEOUT
    block = Peer(ECHO)
    block.send(frame(frames.HEADERS, 0, 1, b"x"))
    block.connection.sweep(now + 11)
    assert await block.fault() == Code.ENHANCE_YOUR_CALM
    body = Peer(ECHO)
    body.headers(1)
    body.headers(3, [("content-type", "x") if f[0] == "content-type" else f for f in GRPC])
    body.connection.sweep(now + 61)
    seen = await body.seen()
    assert dict(next(s for s in seen if s.stream_id == 1).fields)["grpc-status"] == "1"
    assert dict(next(s for s in seen if s.stream_id == 3).fields)[":status"] == "415"
    assert not body.connection.calls.streams


async def test_a_peer_that_is_gone_is_noticed_and_one_that_answers_is_kept():
    peer = Peer(ECHO)
    peer.connection.sweep(time.monotonic() + 31)
    (ping,) = [one for one in await peer.seen() if one.kind == frames.PING]
    peer.send(frame(frames.PING, frames.ACK, 0, ping.payload))
    peer.connection.sweep(time.monotonic() + 20)
    peer.connection.sweep(time.monotonic() + 31)
    assert not peer.transport.aborted
    peer.connection.sweep(time.monotonic() + 42)
    assert peer.transport.aborted


async def test_requests_that_are_never_complete_hold_a_bounded_amount():
    peer = Peer(ECHO, buffered_bytes_max=50_000)
    for stream_id in range(1, 41, 2):
        peer.headers(stream_id)
        peer.data(stream_id, b"\0\0\x0f\0\0" + b"x" * 10_000, ends=False)
        assert peer.connection.calls._buffered <= 50_000
    statuses = [dict(one.fields).get("grpc-status") for one in await peer.seen()]
    assert statuses.count("8") == 16
    await peer.close()
    assert peer.connection.calls._buffered == 0


async def test_a_trickled_message_is_copied_once():
    """A megabyte in parts of 13 bytes: with a copy for each part this takes minutes."""
    peer = Peer(ECHO, chores_max=10**6)
    peer.headers(1)
    body = b"\0" + (10**6).to_bytes(4, "big") + b"x" * 10**6
    parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    stream = b"".join(frame(frames.DATA, part is parts[-1], 1, part) for part in parts)
    started = time.monotonic()
    for at in range(0, len(stream), 13):
        peer.send(stream[at : at + 13])
    assert time.monotonic() - started < 10
    assert not peer.connection.calls._buffered
    await peer.close()


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 0x0C, 0x0D, 0x20, 0x25, 0xFF]),
    st.sampled_from([0, 1, 3, 5, 2, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\0" * 4, b"\0" * 8, b"\0\x04\0\0\0\x01", b"\0\0\0\0\x02hi"]),
        st.just(b"\x20\x83\x86\x44\x0f/test.Test/Call\x5f\x10application/grpc"),
    ),
)


@given(st.lists(FRAMES, max_size=25), st.lists(st.integers(1, 60), max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_frames_in_any_pieces_leave_nothing_behind_and_get_whole_frames(sent, cuts):
    data = b"".join(sent)
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    asyncio.run(check_frames([*pieces, data]))
