"""Serving an application on a listen address."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from sidecar.domain.errors import ConfigError
from sidecar.inbound.http.edge import EDGE
from sidecar.inbound.http.routing import Role
from sidecar.inbound.listen_address import (
    UNIX_PREFIX,
    ListenAddress,
    TcpAddress,
    UnixAddress,
    parse_listen,
)

UNIX_MODE = 0o660
"""The owner and the group: a gateway joins the group, nobody else can connect."""


def hosts_answered(address: ListenAddress, names: frozenset[str]) -> frozenset[str] | None:
    """
    Host names that a listener answers, or None for any.

    Loopback listeners know theirs; on other addresses the operator's `names` decide, and
    without any, whatever name leads here.
    """
    if isinstance(address, UnixAddress):
        return None
    own = frozenset({address.host.lower()}) if address.host else frozenset[str]()
    if address.is_loopback:
        own |= {"localhost", "127.0.0.1", "::1"}
    elif not names:
        return None
    return own | {name.lower() for name in names}


@contextlib.asynccontextmanager
async def serve(
    app: web.Application,
    listen: str,
    *,
    shutdown_seconds: float = 5.0,
    shared_port: bool = False,
) -> AsyncIterator[str]:
    """
    Serve an application until the context ends.

    Args:
        app: From `gateway_app` or `admin_app`.
        listen: "host:port" or "unix:PATH"; a dead process's socket file is removed.
        shutdown_seconds: How long requests in progress may take after the end.
        shared_port: Whether other processes listen on the same port; the kernel deals out
            connections.

    Yields:
        The actual address: the port is the one that was bound.

    Raises:
        ConfigError: If the address cannot be bound.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        # A gateway that goes away must be noticed, since it holds credit. An admin's write
        # goes to its end instead.
        handler_cancellation=app[EDGE].role is Role.GATEWAY,
        shutdown_timeout=shutdown_seconds,
    )
    async with _serving(runner, listen, shared_port=shared_port) as actual:
        yield actual


@contextlib.asynccontextmanager
async def serve_plain(app: web.Application, listen: str) -> AsyncIterator[str]:
    """Serve an application that has no use cases, such as a supervisor's; otherwise as `serve`."""
    async with _serving(web.AppRunner(app, access_log=None), listen, shared_port=False) as actual:
        yield actual


@contextlib.asynccontextmanager
async def _serving(runner: web.AppRunner, listen: str, *, shared_port: bool) -> AsyncIterator[str]:
    address = parse_listen(listen)
    await runner.setup()
    try:
        try:
            actual = await _start(runner, address, shared_port=shared_port)
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
        try:
            yield actual
        finally:
            if isinstance(address, UnixAddress):  # Ours: it was bound above.
                await asyncio.to_thread(address.path.unlink, missing_ok=True)
    finally:
        await runner.cleanup()


async def _start(runner: web.AppRunner, address: ListenAddress, *, shared_port: bool) -> str:
    if isinstance(address, UnixAddress):
        sock = await asyncio.to_thread(_bind_unix, address.path)
        await _UnixSocketSite(runner, sock, str(address)).start()
        return str(address)
    await web.TCPSite(
        runner, address.host or None, address.port, reuse_port=shared_port or None
    ).start()
    return str(TcpAddress(address.host, runner.addresses[0][1]))


class _UnixSocketSite(web.BaseSite):
    """Serves on a unix socket that is bound already, so that its mode is set before it listens."""

    __slots__ = ("_name", "_socket")

    def __init__(self, runner: web.AppRunner, bound: socket.socket, name: str) -> None:
        super().__init__(runner)
        self._socket = bound
        self._name = name

    @property
    def name(self) -> str:
        """The address."""
        return self._name

    async def start(self) -> None:
        """Begin to listen."""
        await super().start()
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            server, sock=self._socket, backlog=self._backlog
        )


def _bind_unix(path: Path) -> socket.socket:
    """Bind a socket that nobody can connect to before its mode is right: it listens later."""
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.bind(str(path))
        path.chmod(UNIX_MODE)
    except OSError:
        bound.close()
        raise
    return bound


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a process that is gone; never one that answers, nor other files."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen on {UNIX_PREFIX}{path}: the file is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {UNIX_PREFIX}{path}: the socket there may be in use"
            ) from error
    raise ConfigError(f"cannot listen on {UNIX_PREFIX}{path}: another process listens there")
