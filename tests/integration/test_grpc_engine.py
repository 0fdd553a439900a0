"""
Both engines over real sockets: bytes through, errors as statuses, and a clean end.

Behaviours of grpcio and Envoy that would hurt unnoticed, each with a test here: the server
shares its port with another process by default; Envoy's frequent keepalive pings would be
answered with GOAWAY; a log stream stays open for ever and would hold up each stop; a socket
file of a running process would be taken over.
"""

import asyncio
import socket

import grpc
import pytest
from fixtures.grpc_edges import (
    SENT,
    Counted,
    add_customer,
    als_handler,
    answer_of,
    check_handler,
    check_request,
    ended,
    export,
    metadata_of,
    otlp_handler,
)
from fixtures.http_edges import World
from grpc import aio

from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.inbound.envoy.access_log import STREAM_PATH
from sidecar.inbound.envoy.authz import CHECK_PATH
from sidecar.inbound.envoy.otlp_logs import EXPORT_PATH
from sidecar.inbound.grpc.engine import GrpcError, GrpcStatus, StreamMethod, UnaryMethod
from sidecar.inbound.grpc.fast.engine import FastEngine
from sidecar.inbound.grpc.grpcio_engine import GrpcioEngine
from sidecar.inbound.grpc.health import HEALTH_PATH, HealthHandler
from sidecar.wire import grpc_health_pb2 as health

AUTHORIZATION = "envoy.service.auth.v3.Authorization"


ENGINES = {"grpcio": GrpcioEngine, "fast": FastEngine}


@pytest.fixture(params=ENGINES, autouse=True)
def engine_class(request):
    """The engine of this run of the test."""
    Served.engine_class = ENGINES[request.param]
    return Served.engine_class


# The fast engine serves unary methods only.
with_streams = pytest.mark.parametrize("engine_class", ["grpcio"], indirect=True)


class Served:
    """An engine and a channel to it."""

    engine_class: type = GrpcioEngine

    def __init__(self, *methods, listen="127.0.0.1:0", **options):
        self.engine = self.engine_class(methods, listen=listen, **options)
        self.options = []

    async def __aenter__(self):
        self.address = await self.engine.start()
        self.channel = aio.insecure_channel(self.address, options=self.options)
        return self

    async def __aexit__(self, *_):
        await self.channel.close()
        await self.engine.stop(1)

    def unary(self, path, data=b"", **options):
        return self.channel.unary_unary(path)(data, **options)


def method(handler, path="/test.Test/Call"):
    return UnaryMethod(path, handler)


async def failure(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_bytes_go_through_unchanged_with_what_the_call_knows():
    seen = []

    async def handler(data, call):
        seen.append(call)
        return data + b"\x00\xff"

    async with Served(method(handler)) as served:
        metadata = (
            ("x-sidecar-gateway", "g"),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("x-bin", b"\xff"),
        )
        answer = await served.unary("/test.Test/Call", b"\xfe", metadata=metadata, timeout=30)
        assert answer == b"\xfe\x00\xff"
        await served.unary("/test.Test/Call")
    first, second = seen
    assert first.text("x-sidecar-gateway") == "g"
    assert first.metadata["x-twice"] == "1"
    assert (first.metadata["x-bin"], first.text("x-bin")) == (b"\xff", None)
    assert first.peer.startswith("ipv4:127.0.0.1:")
    # grpcio rounds up what it writes on the wire.
    assert 0 < first.seconds_left() < 30.1
    assert second.seconds_left() is None


@pytest.mark.parametrize("code", [code for code in GrpcStatus if code])
async def test_each_status_reaches_the_caller(code):
    async def handler(data, call):
        raise GrpcError(code, "why")

    async with Served(method(handler)) as served:
        found, details = await failure(served.unary("/test.Test/Call"))
    assert (found.value[0], details) == (code, "why")


async def test_a_silent_store_is_unavailable_and_says_nothing_of_itself():
    async def handler(data, call):
        raise StoreUnavailable("10.0.0.7 refused")

    async with Served(method(handler)) as served:
        code, details = await failure(served.unary("/test.Test/Call"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "10.0.0.7" not in details


async def test_a_bug_is_internal_without_words_and_counted(capsys):
    counted = Counted("sidecar_worker_failures_total", worker="grpc_call")

    async def handler(data, call):
        raise RuntimeError("secret prompt")

    async with Served(method(handler)) as served:
        code, details = await failure(served.unary("/test.Test/Call"))
    assert (code, details) == (grpc.StatusCode.INTERNAL, "internal error")
    assert counted.times == 1
    printed = "".join(capsys.readouterr())
    assert "grpc_call_failed" in printed
    assert "RuntimeError" in printed
    assert "secret prompt" not in printed.replace('raise RuntimeError("secret prompt")', "")


async def test_an_unknown_method_is_unimplemented():
    async with Served() as served:
        code, _ = await failure(served.unary("/test.Test/Other"))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_above_the_limit_is_refused_and_one_below_is_not():
    async def handler(data, call):
        return b"%d" % len(data)

    async with Served(method(handler), message_bytes_max=10_000) as served:
        assert await served.unary("/test.Test/Call", b"x" * 9_000) == b"9000"
        code, _ = await failure(served.unary("/test.Test/Call", b"x" * 11_000))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_caller_that_gives_up_cancels_the_handler(how):
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(data, call):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with Served(method(handler)) as served:
        call = served.unary("/test.Test/Call", timeout=0.2 if how == "deadline" else None)
        await asyncio.wait_for(begun.wait(), 10)
        if how == "cancel":
            call.cancel()
        await asyncio.wait_for(cancelled.wait(), 10)


@with_streams
async def test_a_stream_is_read_to_its_end():
    async def handler(messages, call):
        return b"|".join([data async for data in messages])

    async with Served(StreamMethod("/test.Test/Stream", handler)) as served:
        call = served.channel.stream_unary("/test.Test/Stream")()
        for data in (b"a", b"b"):
            await call.write(data)
        await call.done_writing()
        assert await call == b"a|b"


@with_streams
async def test_a_stop_ends_open_streams_at_once_and_lets_calls_finish():
    received, begun, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stream(messages, call):
        seen = []
        async for data in messages:
            seen.append(data)
            received.set()
        return b"|".join(seen)

    async def slow(data, call):
        begun.set()
        await go_on.wait()
        return b"done"

    served = Served(StreamMethod("/test.Test/Stream", stream), method(slow))
    async with served:
        open_stream = served.channel.stream_unary("/test.Test/Stream")()
        await open_stream.write(b"a")
        pending = asyncio.ensure_future(served.unary("/test.Test/Call"))
        await asyncio.wait_for(received.wait(), 10)
        await asyncio.wait_for(begun.wait(), 10)
        stopping = asyncio.create_task(served.engine.stop(30))
        # Answered while the stop still waits for the other call: not by the end of the grace.
        assert await asyncio.wait_for(open_stream, 10) == b"a"
        assert not stopping.done()
        go_on.set()
        assert await pending == b"done"
        await asyncio.wait_for(stopping, 10)


async def test_a_stop_waits_for_calls_also_when_other_callers_have_come_and_gone():
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(data, call):
        if data:
            begun.set()
            await go_on.wait()
        return b"done"

    served = Served(method(slow))
    async with served:
        async with aio.insecure_channel(served.address) as other:
            assert await other.unary_unary("/test.Test/Call")(b"") == b"done"
        await asyncio.sleep(0.1)
        pending = asyncio.ensure_future(served.unary("/test.Test/Call", b"wait"))
        await asyncio.wait_for(begun.wait(), 10)
        stopping = asyncio.create_task(served.engine.stop(30))
        await asyncio.sleep(0.2)
        assert not pending.done()
        go_on.set()
        assert await pending == b"done"
        await asyncio.wait_for(stopping, 10)


async def test_a_call_that_outlasts_the_grace_is_cancelled():
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(data, call):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with Served(method(handler)) as served:
        call = asyncio.ensure_future(served.unary("/test.Test/Call"))
        await asyncio.wait_for(begun.wait(), 10)
        await served.engine.stop(0.1)
        await asyncio.wait_for(cancelled.wait(), 10)
        with pytest.raises(aio.AioRpcError):
            await call


async def test_a_port_in_use_is_a_config_error_and_is_not_shared():
    async with Served() as served:
        with pytest.raises(ConfigError, match=served.address):
            await Served.engine_class([], listen=served.address).start()
    with pytest.raises(ConfigError):
        await Served.engine_class([], listen="203.0.113.1:9").start()


async def test_a_unix_socket_is_served_private_and_removed(tmp_path):
    async def handler(data, call):
        return call.peer.encode()

    path = tmp_path / "grpc.sock"
    async with Served(method(handler), listen=f"unix:{path}", socket_mode=0o600) as served:
        assert served.address == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await served.unary("/test.Test/Call")).startswith(b"unix:")
    assert not path.exists()


async def test_a_stale_socket_is_replaced_a_live_one_or_a_file_never(tmp_path):
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with Served(listen=f"unix:{path}"):
        with pytest.raises(ConfigError, match="another process"):
            await Served.engine_class([], listen=f"unix:{path}").start()
        assert path.exists()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="a file"):
        await Served.engine_class([], listen=f"unix:{path}").start()
    assert path.read_text() == "precious"


async def test_a_socket_path_that_the_system_cannot_take_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="107"):
        await Served.engine_class([], listen=f"unix:{tmp_path}/{'x' * 110}").start()


async def test_frequent_keepalive_pings_do_not_cost_the_connection():
    """In raw HTTP/2 frames: 9 octets of head, then the payload; type 6 is PING, 7 is GOAWAY."""
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"keepaliv"
    async with Served() as served:
        host, _, port = served.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04" + b"\x00" * 5)
        types = []
        while types.count(6) < 10:
            writer.write(ping)
            head = await asyncio.wait_for(reader.readexactly(9), 10)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            types.append(head[3])
        writer.close()
        await writer.wait_closed()
    assert 7 not in types


async def test_health_follows_readiness():
    problems = ["redis does not answer"]
    handler = HealthHandler(ready=lambda: problems, services=[AUTHORIZATION])
    async with Served(*handler.methods()) as served:

        async def status(service=b""):
            request = health.HealthCheckRequest(service=service).SerializeToString()
            raw = await served.unary(HEALTH_PATH, request)
            return health.HealthCheckResponse.FromString(raw).status

        assert await status() == health.HealthCheckResponse.NOT_SERVING
        problems.clear()
        assert await status() == health.HealthCheckResponse.SERVING
        assert await status(AUTHORIZATION.encode()) == health.HealthCheckResponse.SERVING
        unknown = health.HealthCheckRequest(service=b"\xff").SerializeToString()
        assert (await failure(served.unary(HEALTH_PATH, unknown)))[0] is grpc.StatusCode.NOT_FOUND
        code, _ = await failure(served.unary(HEALTH_PATH, b"\xff"))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_from_a_check_to_its_usage_over_one_listener():
    world = World()
    await add_customer(world)
    checks, logs, stream = check_handler(world), otlp_handler(world), als_handler(world)
    methods = (*checks.methods(), *logs.methods(), *stream.methods())
    assert [m.path for m in methods] == [CHECK_PATH, EXPORT_PATH, STREAM_PATH]
    metadata = tuple(SENT.items())
    if Served.engine_class is FastEngine:
        methods = methods[:2]
    async with Served(*methods) as served:
        raw = await served.unary(
            CHECK_PATH, check_request().SerializeToString(), metadata=metadata, timeout=30
        )
        token = metadata_of(answer_of(raw))["sidecar_token"]
        assert await served.unary(EXPORT_PATH, export(ended(token)), metadata=metadata) == b""
        assert (world.held(), world.used()) == (0, 11_000)
        code, _ = await failure(served.unary(EXPORT_PATH, export(ended(token))))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        world.state.away = True
        again = check_request(stream=b"78").SerializeToString()
        code, _ = await failure(served.unary(CHECK_PATH, again, metadata=metadata))
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_check_that_its_caller_gives_up_leaves_no_hold():
    world = World()
    await add_customer(world)
    world.state.gate.clear()
    handler = check_handler(world)
    async with Served(*handler.methods()) as served:
        call = served.unary(CHECK_PATH, check_request().SerializeToString(), timeout=0.2)
        code, _ = await failure(call)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        world.state.gate.set()
        await served.engine.stop(1)
        await handler.drain(10)
    account = world.state.accounts["cus_1"]
    assert (account.held, len(account.ended)) == (0, 1)
