"""
Policies compiled in a process of their own, beside one that serves.

In a thread the work would hold Python's lock, and with it the loop, for up to a tenth of a second
at a time. A process that is forked would have this one's threads cut off in the middle; so the
interpreter is started anew, which takes a few tenths of a second, for each policy. It ends with it
and gives all memory back.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

from sidecar.domain.errors import ConfigError
from sidecar.outbound.policy_files.collecting import quiet_collector
from sidecar.outbound.policy_files.loader import LoadedPolicy, Source
from sidecar.outbound.policy_files.parcels import LENGTH, Unpacking
from sidecar.outbound.policy_files.turns import Turns

COMPILE_SECONDS_MAX: Final = 180.0
"""
For one policy, from its files to its parts in this process. The most that is taken, 32 MB, needs
25 s on a free core; where many processes share few cores, some times that. Longer is a fault.
"""
_END_SECONDS_MAX: Final = 5.0
"""For a process to end after it closed its socket; then it is ended."""
_SENT_BYTES: Final = 65_536
"""Of the files at a time."""
_COMMAND: Final = (
    *(sys.executable, "-P", "-m"),
    "sidecar.outbound.policy_files.compile_process",
)


class CompilerError(ConfigError):
    """No policy, for no reason that is in its files; another try may go well."""


class Compiler(Protocol):
    """Compiles one policy."""

    async def compile(self, sources: Sequence[Source]) -> LoadedPolicy:
        """
        Compile these files; once.

        Raises:
            ConfigError: Naming every problem that was found in them.
            CompilerError: It died, or took too long.
        """


@asynccontextmanager
async def compile_process(
    *, command: Sequence[str] = _COMMAND, seconds_max: float = COMPILE_SECONDS_MAX
) -> AsyncIterator[Compiler]:
    """
    Start a process that compiles one policy; it has ended when the context is left.

    It may be started before the files are known, since its start takes longer than most work.

    Args:
        command: Starts it.
        seconds_max: For the work.

    Raises:
        CompilerError: It cannot be started.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = _start(command, ours, theirs)
    try:
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            yield _CompileProcess(process, reader, writer, seconds_max)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
    finally:
        ours.close()
        process.kill()
        # Begun at once and never taken back, so that who is cancelled now leaves no process either.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, process.wait))


def _start(
    command: Sequence[str], ours: socket.socket, theirs: socket.socket
) -> subprocess.Popen[bytes]:
    """
    Start the process, within a millisecond or two however much memory this one has.

    The loop's own way would fork where the loop is uvloop's: 20 ms for a process of 0.5 GB.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        return subprocess.Popen(  # noqa: S603  Our own interpreter with our own module.
            command,
            stdin=theirs.fileno(),
            env=environment,
            # A signal of the terminal is for the process that serves; it ends this one itself.
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise CompilerError(
            f"the policy was not compiled: no process can be started for it ({error.strerror})"
        ) from error


class _CompileProcess:
    """Implements Compiler by a process that runs already."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seconds_max: float,
    ) -> None:
        self._process = process
        self._reader, self._writer = reader, writer
        self._seconds_max = seconds_max

    async def compile(self, sources: Sequence[Source]) -> LoadedPolicy:
        try:
            async with asyncio.timeout(self._seconds_max):
                await self._send(sources)
                return await self._receive()
        except TimeoutError as error:
            raise CompilerError(
                f"the policy was not compiled: it took more than {self._seconds_max:g} seconds; "
                "make its files smaller, or give the machine more processor"
            ) from error
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise CompilerError(
                f"the policy was not compiled: the process that compiles it {await self._end()}"
            ) from error

    async def _send(self, sources: Sequence[Source]) -> None:
        listed = [[str(source.path), len(source.data)] for source in sources]
        self._writer.write(json.dumps(listed).encode() + b"\n")
        for source in sources:
            data = memoryview(source.data)
            for begin in range(0, len(data), _SENT_BYTES):
                self._writer.write(data[begin : begin + _SENT_BYTES])
                await self._writer.drain()

    async def _receive(self) -> LoadedPolicy:
        parcel = await self._parcel()
        turns, unpacking = Turns(), Unpacking()
        with quiet_collector():
            while parcel:
                unpacking.add(parcel)
                await turns.next()
                parcel = await self._parcel()
            return await turns.through(unpacking.loaded())

    async def _parcel(self) -> bytes:
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        return await self._reader.readexactly(length)

    async def _end(self) -> str:
        """How the process ended, in words."""
        try:
            code = await asyncio.to_thread(self._process.wait, _END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return "stopped answering"
        if code < 0:
            return f"was ended by signal {-code}; is there enough memory?"
        return f"ended by itself with code {code}; what it said is on the standard error output"
