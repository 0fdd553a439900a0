"""A Postgres of our own: the wheel's programs, run in the data directory, on a unix socket."""

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

import asyncpg

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded.directories import (
    Account,
    blocking_directory,
    ensure_directory,
    ensure_server_directory,
    fits_socket,
    remove_short_directory,
    short_directory,
)
from sidecar.outbound.embedded.directory_lock import DirectoryLock
from sidecar.outbound.embedded.postgres_binaries import (
    PostgresBinaries,
    binaries_for,
    find_postgres_binaries,
)
from sidecar.outbound.embedded.postgres_data import (
    adopt_data_directory,
    discard_draft,
    make_draft,
    remove_stale_pid_file,
    server_account,
)
from sidecar.outbound.embedded.processes import START_SECONDS_MAX, Launch, ServerProcess

SUPERUSER: Final = "sidecar"
DATABASE: Final = "sidecar"
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_INITDB_SECONDS_MAX: Final = 120.0
# The kernel's name for wherever the process stands, which it resolves without asking whether the
# process could walk there.
_WORK_DIR_ALIAS: Final = Path("/proc/self/cwd")


class EmbeddedPostgres:
    """
    A Postgres that starts and stops with this process and keeps its data in the data directory.

    Every commit is on the disk when it is acknowledged (`fsync` and `synchronous_commit` stay on).

    Whoever can open the socket is let in without a password: it stands in a 0700 folder that
    belongs to the server's user, who could read the data files as well. There is no TCP listener.

    As root, Postgres refuses to run, so the server drops to an existing unprivileged user: the
    owner of the data if there is some, else `account`, else `postgres`, else `nobody`, else the
    lowest uid above 0. No user is added and nothing that was there before is changed. Where that
    user cannot walk to the data directory (below /root, or a 0700 directory of root's), the server
    is put there by us and reaches it as its current directory; the socket, and if need be a copy
    of the programs, then stand in a short-lived directory below the system's temporary one.

    Use as `async with EmbeddedPostgres(...) as dsn:`; the DSN is the superuser's.

    Args:
        data_dir: Its files go to `data_dir/postgres`.
        account: Name of the user to drop to when root; ignored otherwise.
        binaries: The programs; None for the wheel's.
        start_seconds: Longest wait until it answers; recovery after a crash counts.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        account: str | None = None,
        binaries: PostgresBinaries | None = None,
        start_seconds: float = START_SECONDS_MAX,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._preferred_account = account
        self._given_binaries = binaries
        self._start_seconds = start_seconds
        self._stack = AsyncExitStack()
        self._process: ServerProcess | None = None
        self._place: _Place | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id. Only while running."""
        assert self._process is not None
        return self._process.pid

    @property
    def binaries(self) -> PostgresBinaries:
        """The programs in use. Only while running."""
        assert self._place is not None
        return self._place.binaries

    @property
    def dsn(self) -> str:
        """DSN of the superuser in Sidecar's database. Only while running."""
        return self.dsn_for(user=SUPERUSER, database=DATABASE)

    def dsn_for(self, *, user: str, database: str = DATABASE) -> str:
        """DSN of another role or database. Only while running."""
        assert self._place is not None
        folder = quote(str(self._place.socket_dir), safe="/")
        # With the port, because a PGPORT in our environment would choose another.
        return (
            f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}"
            f"?host={folder}&port=5432"
        )

    async def __aenter__(self) -> str:
        """
        Make the data directory if there is none, start Postgres, wait until it answers.

        Raises:
            ConfigError: The programs, the data or its place cannot be used, or the server ended.
            StoreUnavailable: It runs but did not answer in time.
        """
        binaries = self._given_binaries
        if binaries is None:
            binaries = await asyncio.to_thread(find_postgres_binaries)
        async with AsyncExitStack() as stack:
            server_dir = ensure_server_directory(self._data_dir, "postgres")
            lock = await stack.enter_async_context(DirectoryLock(server_dir))
            account = server_account(server_dir / "data", self._preferred_account)
            place = self._place = _choose_place(server_dir, account, binaries, stack)
            if not adopt_data_directory(place.data, place.binaries.major):
                await _initialise(place, lock.fileno)
            remove_stale_pid_file(place.data / "postmaster.pid", place.data)
            remove_stale_pid_file(place.socket_dir / f"{_SOCKET_NAME}.lock", place.data)
            self._process = await ServerProcess.start(_server_launch(place, lock.fileno))
            stack.push_async_callback(self._process.stop)
            await self._process.wait_ready(self._probe, self._start_seconds)
            self._stack = stack.pop_all()
        return self.dsn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop Postgres: a fast shutdown, an immediate one after 15 s, a kill after 5 s more."""
        await self._stack.aclose()

    async def wait_ended(self) -> str:
        """Wait until Postgres ends, and say how. While in use, an end is a failure."""
        assert self._process is not None
        return await self._process.wait_ended()

    async def _probe(self) -> str | None:
        """Connect, and make Sidecar's database if it is not there."""
        try:
            connection = await asyncpg.connect(
                self.dsn_for(user=SUPERUSER, database="postgres"), ssl=False
            )
            try:
                found = await connection.fetchval(
                    "SELECT true FROM pg_database WHERE datname = $1", DATABASE
                )
                if not found:
                    # A name of ours, not input; CREATE DATABASE takes no parameters.
                    await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return str(error) or type(error).__name__
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """
    Where one server runs, as whom, and with which programs.

    Attributes:
        is_closed: The server's user cannot walk to `data`.
    """

    server_dir: Path
    data: Path
    is_closed: bool
    socket_dir: Path
    account: Account | None
    binaries: PostgresBinaries

    def alias_or(self, work_dir: Path) -> Path:
        """Return how a program whose current directory is `work_dir` can name it."""
        return _WORK_DIR_ALIAS if self.is_closed else work_dir


def _choose_place(
    server_dir: Path, account: Account | None, binaries: PostgresBinaries, stack: AsyncExitStack
) -> _Place:
    remove_short_directory(server_dir)
    data = server_dir / "data"
    closed_at = None if account is None else blocking_directory(data, account)
    if closed_at is not None and not _WORK_DIR_ALIAS.exists():
        assert account is not None
        raise ConfigError(
            f"The user {account.name}, which Postgres runs as, cannot enter {closed_at}. "
            "Set SIDECAR_DATA_DIR to a directory below ones that others may enter."
        )
    open_dir = server_dir
    if closed_at is not None or not fits_socket(server_dir / "run", _SOCKET_NAME):
        open_dir = stack.enter_context(short_directory(server_dir, account))
    socket_dir = open_dir / "run"
    ensure_directory(socket_dir, mode=0o700, owner=account)
    if account is not None:
        # A copy in the data directory lasts; in the short one it is made at each start.
        binaries = binaries_for(binaries, account, open_dir if closed_at else server_dir)
    return _Place(
        server_dir=server_dir,
        data=data,
        is_closed=closed_at is not None,
        socket_dir=socket_dir,
        account=account,
        binaries=binaries,
    )


async def _initialise(place: _Place, lock: int) -> None:
    """Make the data directory under another name and rename it, so it is there whole or not."""
    draft = make_draft(place.data, place.account)
    try:
        initdb = await ServerProcess.start(
            Launch(
                name="initdb",
                command=(
                    *(place.binaries.initdb, "-D", place.alias_or(draft)),
                    *("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C"),
                    *("--data-checksums", "--no-instructions"),
                ),
                work_dir=draft,
                log_file=place.server_dir / "initdb.log",
                account=place.account,
                lock=lock,
                orphan_signal=signal.SIGKILL,
                stop_steps=(),
            )
        )
        await initdb.run_to_end(_INITDB_SECONDS_MAX)
        draft.rename(place.data)
    except BaseException:
        discard_draft(place.data)
        raise


def _server_launch(place: _Place, lock: int) -> Launch:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": '"' + str(place.socket_dir).replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "port": "5432",
        "max_connections": "100",
        "shared_buffers": "64MB",
        # Statements and row values may hold what a log must not; a message is enough.
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_checkpoints": "off",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    return Launch(
        name="Postgres",
        command=(
            *(place.binaries.postgres, "-D", place.alias_or(place.data)),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ),
        work_dir=place.data,
        log_file=place.server_dir / "server.log",
        account=place.account,
        lock=lock,
        # An immediate shutdown: nothing of it can hang, and the log of writes mends the rest.
        orphan_signal=signal.SIGQUIT,
        stop_steps=((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0)),
    )
