"""The engine of our own: unary methods, for callers on this machine."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sidecar.domain.errors import ConfigError
from sidecar.inbound.grpc.engine import MESSAGE_BYTES_MAX, UnaryMethod
from sidecar.inbound.grpc.fast.blocks import BlockReader, FieldCache
from sidecar.inbound.grpc.fast.calls import Calls
from sidecar.inbound.grpc.fast.limits import Limits
from sidecar.inbound.grpc.fast.protocol import Connection
from sidecar.inbound.grpc.fast.settings import PeerSettings
from sidecar.inbound.grpc.sockets import clear_stale_socket, unix_path
from sidecar.inbound.listen_address import TcpAddress, UnixAddress, is_private, parse_listen

_BACKLOG = 1_024
_CANCEL_SECONDS = 5.0
"""How long handlers that were cancelled may take to end."""


class FastEngine:
    """Serves raw bytes on a loopback "host:port" (port 0 picks one) or "unix:PATH"."""

    def __init__(
        self,
        methods: Sequence[UnaryMethod],
        *,
        listen: str,
        streams_max: int = 1_024,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        keepalive_seconds: float = 30.0,
        socket_mode: int = 0o660,
        limits: Limits | None = None,
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
            limits: In place of the three and all others.
        """
        self._methods = {method.path: method for method in methods}
        assert len(self._methods) == len(methods), "a path is served twice"
        assert all(isinstance(method, UnaryMethod) for method in methods), "unary methods only"
        self._listen = listen
        self._socket_mode = socket_mode
        self.limits = limits or Limits(
            streams_max=streams_max,
            message_bytes_max=message_bytes_max,
            keepalive_seconds=keepalive_seconds,
        )
        self._fields = FieldCache(self.limits)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._none_left = asyncio.Event()
        self._stopping = False

    async def start(self) -> str:
        """Listen; returns the address it got. Raises ConfigError if it cannot have it."""
        assert self._server is None, "an engine starts once"
        path = unix_path(self._listen)
        address = parse_listen(self._listen)
        if not is_private(address):
            raise ConfigError(
                f"cannot listen for fast gRPC on {self._listen}: only 127.0.0.1, ::1 or a unix "
                "socket can be listened on"
            )
        if path is not None:
            clear_stale_socket(path)
        loop = asyncio.get_running_loop()
        try:
            if isinstance(address, UnixAddress):
                bound = self._bind(address.path.absolute())
                self._server = await loop.create_unix_server(
                    lambda: Connection(self), sock=bound, backlog=_BACKLOG
                )
            else:
                self._server = await loop.create_server(
                    lambda: Connection(self), address.host, address.port, backlog=_BACKLOG
                )
        except OSError as error:
            raise ConfigError(
                f"cannot listen for gRPC on {self._listen}: the address is in use, not of this "
                "machine, or not permitted"
            ) from error
        self._sweep = loop.call_later(self.limits.sweep_seconds, self._sweep_all)
        if isinstance(address, UnixAddress):
            return self._listen
        port = self._server.sockets[0].getsockname()[1]
        return str(TcpAddress(address.host, port))

    def _bind(self, path: Path) -> socket.socket:
        """Bind a socket whose mode is right before anybody can connect: it listens later."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            bound.bind(str(path))
            path.chmod(self._socket_mode)
        except OSError:
            bound.close()
            raise
        return bound

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let those in progress end, cancel what is left after the grace."""
        if self._server is None or self._stopping:
            return
        self._stopping = True
        self._server.close()
        for connection in list(self._connections):
            connection.drain()
        await self._until_none_is_left(grace_seconds)
        for connection in list(self._connections):
            connection.cut()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_CANCEL_SECONDS)
        # Each is cut by the sweep when its last bytes take too long.
        await self._until_none_is_left(self.limits.close_seconds + 1)
        if self._sweep is not None:
            self._sweep.cancel()
        path = unix_path(self._listen)
        if path is not None:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _until_none_is_left(self, seconds: float) -> None:
        # Also set by the last connection of any quiet moment before.
        self._none_left.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), seconds)

    # --- for connections ---------------------------------------------------------------------

    def connected(self, connection: Connection) -> bool:
        """Take a new connection; False if there are too many."""
        if self._stopping or len(self._connections) >= self.limits.connections_max:
            return False
        self._connections.add(connection)
        return True

    def disconnected(self, connection: Connection) -> None:
        """Forget one."""
        self._connections.discard(connection)
        if not self._connections:
            self._none_left.set()

    def new_reader(self) -> BlockReader:
        """For a connection's header blocks."""
        return BlockReader(self._fields, self.limits)

    def new_calls(
        self, write: Callable[[bytes], None], peer_settings: PeerSettings, peer: str
    ) -> Calls:
        """For a connection's streams."""
        return Calls(
            self._methods,
            self.limits,
            write=write,
            peer_settings=peer_settings,
            peer=peer,
            tasks=self._tasks,
        )

    def _sweep_all(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            connection.sweep(now)
        self._sweep = asyncio.get_running_loop().call_later(
            self.limits.sweep_seconds, self._sweep_all
        )
