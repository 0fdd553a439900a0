"""A Redis of our own: found on this machine, run in the data directory, on a unix socket."""

import asyncio
import hashlib
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded.directories import (
    ensure_directory,
    ensure_server_directory,
    fits_socket,
    remove_short_directory,
    short_directory,
)
from sidecar.outbound.embedded.directory_lock import DirectoryLock
from sidecar.outbound.embedded.processes import START_SECONDS_MAX, Launch, ServerProcess
from sidecar.outbound.embedded.redis_binary import RedisServer, find_redis_server
from sidecar.outbound.embedded.secret_files import read_or_create_secret

GATEWAY_USER: Final = "gateway"
_SOCKET_NAME: Final = "redis.sock"
_MULTI_PART_AOF_SINCE: Final = (7, 0)

# Only rules that Redis 6.2 knows: it can add a subcommand but not take one away, so `script` goes
# with its category and its harmless subcommands come back. @dangerous holds FLUSHALL, FLUSHDB,
# KEYS, CONFIG, DEBUG, SHUTDOWN, ACL, CLUSTER and their like. INFO serves the readiness probe,
# CLUSTER SLOTS, NODES and MYID tell who has what (the same rules serve in a cluster).
GATEWAY_ACL_RULES: Final = (
    "resetkeys ~sc:* resetchannels &sc:* +@all -@dangerous -@scripting"
    " +eval +evalsha +script|load +script|exists"
    " +info +client|id +client|getname +client|setname +cluster|slots +cluster|nodes +cluster|myid"
)


class EmbeddedRedis:
    """
    A Redis that starts and stops with this process and keeps its data in the data directory.

    Every write is in the append-only file before it is acknowledged, and on the disk a second
    later (`appendfsync everysec`): a killed Redis loses nothing, a power cut up to a second.

    The socket stands in a 0700 folder, so the `default` user needs no password: whoever could open
    the socket could read the password as well. The `gateway` user has one, and its rights alone.

    Use as `async with EmbeddedRedis(...) as url:`; the URL is the `default` user's.

    Args:
        data_dir: Its files go to `data_dir/redis`.
        server: Setting SIDECAR_REDIS_SERVER; None to look for one.
        acl_lines: Further lines of the ACL file, `user NAME ...` each.
        start_seconds: Longest wait until it answers; loading a large data set counts.
    """

    def __init__(
        self,
        data_dir: Path,
        server: str | None = None,
        *,
        acl_lines: Sequence[str] = (),
        start_seconds: float = START_SECONDS_MAX,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._explicit = server
        self._acl_lines = tuple(acl_lines)
        self._start_seconds = start_seconds
        self._stack = AsyncExitStack()
        self._server: RedisServer | None = None
        self._process: ServerProcess | None = None
        self._socket: Path | None = None
        self._gateway_password = ""

    @property
    def server(self) -> RedisServer:
        """The binary in use. Only while running."""
        assert self._server is not None
        return self._server

    @property
    def pid(self) -> int:
        """The server's process id. Only while running."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """URL of the `default` user, who may do everything. Only while running."""
        assert self._socket is not None
        return f"unix://{quote(str(self._socket))}"

    @property
    def gateway_url(self) -> str:
        """URL of the ACL user `gateway`; it holds the password. Only while running."""
        assert self._socket is not None
        return f"unix://{GATEWAY_USER}@{quote(str(self._socket))}?password={self._gateway_password}"

    async def __aenter__(self) -> str:
        """
        Start Redis and wait until it answers.

        Raises:
            ConfigError: There is no usable server, its files cannot be used, or it ended.
            StoreUnavailable: It runs but did not answer in time.
        """
        self._server = await asyncio.to_thread(find_redis_server, self._explicit)
        async with AsyncExitStack() as stack:
            server_dir = ensure_server_directory(self._data_dir, "redis")
            lock = await stack.enter_async_context(DirectoryLock(server_dir))
            self._socket = self._choose_socket(server_dir, stack)
            config = self._write_files(server_dir, self._socket)
            self._process = await ServerProcess.start(
                Launch(
                    name="Redis",
                    command=(self._server.path, config),
                    work_dir=server_dir / "data",
                    log_file=server_dir / "server.log",
                    account=None,
                    lock=lock.fileno,
                    # SIGTERM and not SIGKILL: Redis may hold back acknowledged writes while an
                    # fsync is under way, and writes them out when asked to end.
                    orphan_signal=signal.SIGTERM,
                    stop_steps=((signal.SIGTERM, 10.0),),
                )
            )
            stack.push_async_callback(self._process.stop)
            await self._process.wait_ready(self._probe, self._start_seconds)
            self._stack = stack.pop_all()
        return self.url

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop Redis, which writes out what it holds, within 10 s, else kill it."""
        await self._stack.aclose()

    async def wait_ended(self) -> str:
        """Wait until Redis ends, and say how. While in use, an end is a failure."""
        assert self._process is not None
        return await self._process.wait_ended()

    def _choose_socket(self, server_dir: Path, stack: AsyncExitStack) -> Path:
        remove_short_directory(server_dir)
        folder = server_dir / "run"
        if not fits_socket(folder, _SOCKET_NAME):
            folder = stack.enter_context(short_directory(server_dir, account=None)) / "run"
        ensure_directory(folder, mode=0o700)
        return folder / _SOCKET_NAME

    def _write_files(self, server_dir: Path, socket: Path) -> Path:
        """Write configuration and ACL anew, so that they always match this version of ours."""
        data = server_dir / "data"
        ensure_directory(data, mode=0o700)
        if (data / "appendonlydir").exists() and self.server.numbers < _MULTI_PART_AOF_SINCE:
            # It would not find the newer layout and start empty, without a word.
            raise ConfigError(
                f"The data in {data} was written by Redis 7 or later; {self.server.path} is "
                f"{self.server.version} and would not see it. Set SIDECAR_REDIS_SERVER to a "
                "redis-server or valkey-server >= 7."
            )
        self._gateway_password = read_or_create_secret(server_dir / "gateway-password")
        acl = server_dir / "users.acl"
        config = server_dir / "redis.conf"
        try:
            _write_private(acl, _acl_file(self._gateway_password, self._acl_lines))
            _write_private(config, _config_file(socket=socket, data=data, acl=acl))
        except OSError as error:
            raise ConfigError(f"Cannot write to {server_dir}: {error.strerror}.") from error
        return config

    async def _probe(self) -> str | None:
        """Ask for a PONG, without a client library that would retry on its own."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            return f"the socket gave: {error.strerror}"
        try:
            writer.write(b"PING\r\n")
            reply = await reader.readline()
        except OSError as error:
            return f"PING gave: {error.strerror}"
        finally:
            writer.close()
        if reply == b"+PONG\r\n":
            return None
        return f"PING gave: {reply.decode('utf-8', errors='replace').strip()}"


def _acl_file(gateway_password: str, further: Sequence[str]) -> str:
    # By hash: the file is then no second place for the secret.
    digest = hashlib.sha256(gateway_password.encode()).hexdigest()
    lines = (
        "user default on nopass ~* &* +@all",
        f"user {GATEWAY_USER} on #{digest} {GATEWAY_ACL_RULES}",
        *further,
    )
    return "".join(f"{line}\n" for line in lines)


def _config_file(*, socket: Path, data: Path, acl: Path) -> str:
    return (
        "# Written by sidecar at each start; changes are lost.\n"
        "port 0\n"
        f"unixsocket {_quoted(socket)}\n"
        "unixsocketperm 700\n"
        f"dir {_quoted(data)}\n"
        f"aclfile {_quoted(acl)}\n"
        # Holds and balances: never evicted, always on disk.
        "maxmemory-policy noeviction\n"
        "appendonly yes\n"
        "appendfsync everysec\n"
        'save ""\n'
        "daemonize no\n"
        "supervised no\n"
        'logfile ""\n'
        "loglevel notice\n"
    )


def _quoted(path: Path) -> str:
    """Write a path as a string of Redis's configuration file."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    if not text.isprintable():
        raise ConfigError(
            f"The path {text!r} has control characters; set another SIDECAR_DATA_DIR."
        )
    return f'"{text}"'


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
