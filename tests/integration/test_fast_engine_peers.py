"""The fast engine with other clients: grpclib, grpcio over uvloop, and both under load."""

import asyncio
import time

import pytest
import uvloop
from grpc import aio
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from sidecar.domain.errors import ConfigError
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus, UnaryMethod
from sidecar.inbound.grpc.fast.engine import FastEngine

PATH = "/test.Test/Call"


class Raw:
    """grpclib's codec for bytes."""

    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


async def echo(data, call):
    if data == b"fail":
        raise GrpcError(GrpcStatus.NOT_FOUND, "zażółć")
    return data


async def grpclib_calls():
    engine = FastEngine([UnaryMethod(PATH, echo)], listen="127.0.0.1:0")
    port = int((await engine.start()).rpartition(":")[2])
    channel = Channel("127.0.0.1", port, codec=Raw())
    method = UnaryUnaryMethod(channel, PATH, bytes, bytes)
    try:
        answers = await asyncio.gather(*(method(b"%d" % n, timeout=30) for n in range(200)))
        assert answers == [b"%d" % n for n in range(200)]
        large = b"x" * 3_000_000
        assert await method(large) == large
        with pytest.raises(GRPCError) as caught:
            await method(b"fail")
        assert (caught.value.status, caught.value.message) == (Status.NOT_FOUND, "zażółć")
    finally:
        channel.close()
        await engine.stop(1)


async def grpcio_calls(path):
    engine = FastEngine([UnaryMethod(PATH, echo)], listen=f"unix:{path}")
    address = await engine.start()
    options = [
        ("grpc.max_receive_message_length", 2**23),
        ("grpc.http2.lookahead_bytes", 2**20),
    ]
    async with aio.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(PATH)
        large = b"y" * (4 * 1024 * 1024)
        assert await call(large) == large
        answers = await asyncio.gather(*(call(b"%d" % n, timeout=30) for n in range(3_000)))
        assert answers == [b"%d" % n for n in range(3_000)]
    started = time.monotonic()
    await engine.stop(10)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_grpclib_and_grpcio_on_both_loops(run, tmp_path):
    run(grpclib_calls())
    run(grpcio_calls(tmp_path / "s"))


PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00loaded!!"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04" + b"\x00" * 5


async def test_pings_are_answered_while_calls_are_under_way():
    engine = FastEngine([UnaryMethod(PATH, echo)], listen="127.0.0.1:0")
    address = await engine.start()
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(GREETING)
    answered = 0
    async with aio.insecure_channel(address) as channel:
        call = channel.unary_unary(PATH)

        async def ask_again():
            for _ in range(60):
                await call(b"x" * 500)

        load = asyncio.gather(*(ask_again() for _ in range(32)))
        while not load.done():
            writer.write(PING)
            await asyncio.wait_for(reader.readuntil(b"loaded!!"), 10)
            answered += not load.done()
            await asyncio.sleep(0)
        await load
    writer.close()
    await writer.wait_closed()
    await engine.stop(1)
    # Each waited for no more than a wave of calls, so many fit in between.
    assert answered >= 10


async def test_more_connections_than_allowed_are_closed_at_once():
    engine = FastEngine([], listen="127.0.0.1:0")
    engine.limits = type(engine.limits)(connections_max=2)
    host, _, port = (await engine.start()).rpartition(":")
    open_ones = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await open_ones[2][0].readexactly(9)
    assert len(await open_ones[0][0].readexactly(9)) == 9
    for _, writer in open_ones:
        writer.close()
    await engine.stop(1)


async def test_an_address_that_others_can_reach_is_refused():
    with pytest.raises(ConfigError, match="only 127"):
        await FastEngine([], listen="0.0.0.0:0").start()
