"""Start a server as a child of this process, wait until it answers, and end it for certain."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.domain.errors import ConfigError, StoreUnavailable
from sidecar.outbound.embedded.directories import Account

START_SECONDS_MAX: Final = 30.0
_PROBE_SECONDS_MAX: Final = 5.0
_PROBE_EVERY_SECONDS: Final = 0.02
_LOG_BYTES_MAX: Final = 4 * 1024 * 1024
_LOG_TAIL_BYTES: Final = 4_096
_LOG_TAIL_LINES: Final = 15
_LAUNCHER: Final = Path(__file__).with_name("launch.py")

# A server gets none of our environment: it may hold secrets, and PG* variables change Postgres.
_SERVER_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """
    How to run one server.

    Attributes:
        name: What messages call it.
        command: Program and arguments; the program is an absolute path.
        work_dir: Its current directory.
        log_file: Receives its output.
        account: The user to run as; None for our own.
        lock: Open lock file that it inherits.
        orphan_signal: What the kernel sends it when we die (Linux).
        stop_steps: Signals that ask it to end, each with the seconds to wait; then SIGKILL.
    """

    name: str
    command: Sequence[str | Path]
    work_dir: Path
    log_file: Path
    account: Account | None
    lock: int
    orphan_signal: signal.Signals
    stop_steps: Sequence[tuple[signal.Signals, float]]


class ServerProcess:
    """
    A running server, a child of this process.

    On Linux the kernel ends it when the thread that started it is gone, so a `kill -9` leaves
    nothing behind: start it on the thread whose event loop stops it. Elsewhere a killed Sidecar
    leaves its servers running, and the next start says so.
    """

    def __init__(self, launch: Launch, process: asyncio.subprocess.Process, log_start: int) -> None:
        self._launch = launch
        self._process = process
        self._log_start = log_start

    @classmethod
    async def start(cls, launch: Launch) -> "ServerProcess":
        """Start the server. It may not answer yet: see `wait_ready`."""
        user = (-1, -1) if launch.account is None else (launch.account.uid, launch.account.gid)
        log = _open_log(launch.log_file)
        log_start = os.fstat(log).st_size
        try:
            process = await asyncio.create_subprocess_exec(
                # The launcher needs neither site-packages nor our variables: -I -S start fast.
                *(sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid())),
                *(str(int(launch.orphan_signal)), str(user[0]), str(user[1]), launch.work_dir),
                *launch.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_SERVER_ENVIRONMENT,
                pass_fds=(launch.lock,),
                # Else Ctrl-C in a terminal ends the servers before we have drained.
                start_new_session=True,
            )
        finally:
            os.close(log)
        return cls(launch, process, log_start)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    async def wait_ready(
        self, probe: Callable[[], Awaitable[str | None]], seconds: float = START_SECONDS_MAX
    ) -> None:
        """
        Wait until the server answers.

        Args:
            probe: Returns None when the server answers as it should, else what was seen instead.
            seconds: Longest wait.

        Raises:
            ConfigError: The server ended instead.
            StoreUnavailable: It still runs but did not answer in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        seen: str | None = "nothing was asked"
        while loop.time() < deadline:
            if self._process.returncode is not None:
                raise ConfigError(f"The embedded {self._launch.name} {self.describe_end()}")
            try:
                async with asyncio.timeout(min(_PROBE_SECONDS_MAX, deadline - loop.time())):
                    seen = await probe()
            except TimeoutError:
                seen = "no answer"
            if seen is None:
                return
            await asyncio.sleep(_PROBE_EVERY_SECONDS)
        raise StoreUnavailable(
            f"The embedded {self._launch.name} was not ready after {seconds:g} s ({seen}). "
            f"{self._describe_log()}"
        )

    async def run_to_end(self, seconds: float) -> None:
        """
        Wait for a program that ends by itself, such as initdb.

        Raises:
            ConfigError: It failed.
            StoreUnavailable: It took longer than `seconds`; it is killed.
        """
        try:
            async with asyncio.timeout(seconds):
                status = await self._process.wait()
        except TimeoutError as error:
            raise StoreUnavailable(
                f"{self._launch.name} did not end within {seconds:g} s. {self._describe_log()}"
            ) from error
        finally:
            await self.stop()
        if status != 0:
            raise ConfigError(f"{self._launch.name} {self.describe_end()}")

    async def wait_ended(self) -> str:
        """Wait until the server ends, and say how: a server that ends by itself is a failure."""
        await self._process.wait()
        return f"The embedded {self._launch.name} {self.describe_end()}"

    async def stop(self) -> None:
        """
        End the server: ask, wait a bounded time, then kill. Does nothing if it has ended.

        When cancelled, it kills at once.
        """
        try:
            for asked, seconds in self._launch.stop_steps:
                if self._process.returncode is not None:
                    return
                with suppress(ProcessLookupError):
                    self._process.send_signal(asked)
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._process.wait()
        finally:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    def describe_end(self) -> str:
        """Say how the server ended, with the last lines of its log."""
        status = self._process.returncode
        assert status is not None
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        return f"{how}. {self._describe_log()}"

    def _describe_log(self) -> str:
        tail = _read_tail(self._launch.log_file, self._log_start)
        return f"Last lines of {self._launch.log_file}:\n{tail}"


def _read_tail(log_file: Path, start: int) -> str:
    """Return the last lines behind a position: at most 15 of them and 4 KiB."""
    try:
        with log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _LOG_TAIL_BYTES))
            text = file.read(_LOG_TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        return f"(it cannot be read: {error.strerror})"
    return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:]) or "(it is empty)"


def _open_log(path: Path) -> int:
    """Open the log to append; a large one becomes `.1` first, which bounds the pair."""
    try:
        if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
            path.replace(path.with_name(f"{path.name}.1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}.") from error
