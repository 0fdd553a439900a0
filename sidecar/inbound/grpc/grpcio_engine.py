"""The engine on grpcio's asyncio server; every method, any address."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from grpc import aio

from sidecar.domain.errors import ConfigError
from sidecar.inbound.grpc.engine import (
    MESSAGE_BYTES_MAX,
    Call,
    Method,
    StreamHandler,
    StreamMethod,
    UnaryHandler,
)
from sidecar.inbound.grpc.failures import failure_of
from sidecar.inbound.grpc.sockets import clear_stale_socket, unix_path

_CODES = {int(code.value[0]): code for code in grpc.StatusCode}


class GrpcioEngine:
    """Serves raw bytes on one address, "host:port" (port 0 picks one) or "unix:PATH"."""

    def __init__(
        self,
        methods: Sequence[Method],
        *,
        listen: str,
        streams_max: int = 1_024,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        keepalive_seconds: float = 30.0,
        socket_mode: int = 0o660,
    ) -> None:
        """
        Take the methods; nothing is opened before `start`.

        Args:
            methods: Served by their paths; any other path answers UNIMPLEMENTED.
            listen: The address.
            streams_max: Calls at a time on one connection; more of them wait in the client.
            message_bytes_max: Of one message, either way.
            keepalive_seconds: Silence after which a connection is probed.
            socket_mode: Permissions of a unix socket.
        """
        self._methods = {method.path: method for method in methods}
        assert len(self._methods) == len(methods), "a path is served twice"
        self._listen = listen
        self._socket_mode = socket_mode
        self._options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", message_bytes_max),
            ("grpc.max_send_message_length", message_bytes_max),
            ("grpc.max_concurrent_streams", streams_max),
            ("grpc.keepalive_time_ms", int(keepalive_seconds * 1_000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Envoy's own keepalive pings come every few seconds; by default the third of them
            # would be answered with GOAWAY.
            ("grpc.http2.max_ping_strikes", 0),
            # By default a second process on the same port silently takes half of the calls.
            ("grpc.so_reuseport", 0),
        ]
        self._server: aio.Server | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> str:
        """Listen; returns the address it got. Raises ConfigError if it cannot have it."""
        assert self._server is None, "an engine starts once"
        path = unix_path(self._listen)
        if path is not None:
            clear_stale_socket(path)
        server = aio.server(options=self._options)
        handlers = {path: self._wrap(method) for path, method in self._methods.items()}
        server.add_generic_rpc_handlers((_Router(handlers),))
        try:
            port = server.add_insecure_port(self._listen if path is None else f"unix:{path}")
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen for gRPC on {self._listen}: the address is in use, not of this "
                "machine, or not permitted"
            ) from error
        await server.start()
        self._server = server
        if path is not None:
            path.chmod(self._socket_mode)
            return self._listen
        host = self._listen.rpartition(":")[0]
        return f"{host}:{port}"

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, end streams after what has come, cancel the rest after the grace."""
        if self._server is None:
            return
        self._stopping.set()
        await self._server.stop(grace_seconds)
        path = unix_path(self._listen)
        if path is not None:
            path.unlink(missing_ok=True)

    def _wrap(self, method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
        """The method in grpcio's form."""
        if isinstance(method, StreamMethod):
            return grpc.stream_unary_rpc_method_handler(self._stream(method.path, method.handler))
        return grpc.unary_unary_rpc_method_handler(self._unary(method.path, method.handler))

    def _unary(self, path: str, handler: UnaryHandler) -> Any:
        async def serve(data: bytes, context: "aio.ServicerContext[bytes, bytes]") -> bytes:
            try:
                return await handler(data, _call(context))
            except Exception as error:  # noqa: BLE001  The top of a call: counted, logged, answered.
                await _abort(path, context, error)

        return serve

    def _stream(self, path: str, handler: StreamHandler) -> Any:
        async def serve(
            messages: AsyncIterator[bytes], context: "aio.ServicerContext[bytes, bytes]"
        ) -> bytes:
            try:
                return await handler(_until(self._stopping, messages), _call(context))
            except Exception as error:  # noqa: BLE001  The top of a call: counted, logged, answered.
                await _abort(path, context, error)

        return serve


class _Router(grpc.GenericRpcHandler):
    """Looks methods up; without serializers grpcio passes bytes through."""

    def __init__(self, handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]") -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


def _call(context: "aio.ServicerContext[bytes, bytes]") -> Call:
    metadata: dict[str, str | bytes] = {}
    for key, value in context.invocation_metadata() or ():
        metadata.setdefault(key, value)
    left = context.time_remaining()
    return Call(
        deadline=None if left is None else time.monotonic() + left,
        metadata=metadata,
        peer=context.peer(),
    )


async def _abort(
    path: str, context: "aio.ServicerContext[bytes, bytes]", error: Exception
) -> NoReturn:
    """End the call with the error's status."""
    status, message = failure_of(path, error)
    await context.abort(_CODES[status], message)


async def _until(stopping: asyncio.Event, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """
    The messages, until the stream or the server ends.

    A log stream stays open for as long as its Envoy lives: without this each stop would last
    the whole grace.
    """
    stop = asyncio.ensure_future(stopping.wait())
    reading: asyncio.Future[bytes] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(anext(messages))
            await asyncio.wait({reading, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return
            try:
                yield reading.result()
            except StopAsyncIteration:
                return
    finally:
        for future in (stop, reading):
            if future is not None and not future.done():
                future.cancel()
