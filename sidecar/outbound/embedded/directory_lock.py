"""One Sidecar per data directory, proven by a lock that the servers hold as well."""

import asyncio
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sidecar.domain.errors import ConfigError

# How long the servers of a killed Sidecar get to end; a checkpoint of theirs may take seconds.
LEFTOVER_SECONDS_MAX: Final = 15.0
_RETRY_SECONDS: Final = 0.05


class DirectoryLock:
    """
    An exclusive lock on one server's folder, held from before its start until after its end.

    The server inherits the open file, so the lock is free only when Sidecar *and* each process of
    the server are gone. The kernel drops it with the last of them: there is no stale lock.
    """

    def __init__(self, server_dir: Path) -> None:
        self._server_dir = server_dir
        self._file: int | None = None

    @property
    def fileno(self) -> int:
        """The open file, for the server to inherit."""
        assert self._file is not None
        return self._file

    async def __aenter__(self) -> Self:
        """
        Take the lock; wait for the servers of a killed Sidecar to end, but not for a live one.

        Raises:
            ConfigError: Another process uses the folder, or servers of a dead one do not end.
        """
        path = self._server_dir / "lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            await self._acquire(self._file)
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                raise ConfigError(f"Cannot lock {path}: {error.strerror}.") from error
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of our part; the kernel frees the lock when the last process has."""
        self._close()

    async def _acquire(self, file: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEFTOVER_SECONDS_MAX
        while not _try_lock(file):
            holder = _read_pid(file)
            if holder is not None and _is_alive(holder):
                raise ConfigError(
                    f"{self._server_dir} is in use by the sidecar with process id {holder}. "
                    "Stop it, or set SIDECAR_DATA_DIR to another directory."
                )
            if loop.time() > deadline:
                raise ConfigError(
                    f"{self._server_dir} is still in use by a server that outlived its sidecar "
                    f"(process id {holder}, gone). End that server; {self._hint()}"
                )
            await asyncio.sleep(_RETRY_SECONDS)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)

    def _hint(self) -> str:
        return f"`fuser {self._server_dir / 'lock'}` names its processes."

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(file: int) -> int | None:
    text = os.pread(file, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # It lives and belongs to someone else.
    try:
        # A killed process that nobody has collected yet still has its id. Linux shows it as Z.
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return not status.rpartition(")")[2].lstrip().startswith("Z")
