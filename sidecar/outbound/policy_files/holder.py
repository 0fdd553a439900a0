"""The policy in force: swapped as a whole, and kept where its files turn bad."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal

from sidecar import telemetry
from sidecar.domain.errors import ConfigError, InvariantViolated
from sidecar.domain.policy import Policy
from sidecar.outbound.policy_files.compiling import Compiler, CompilerError, compile_process
from sidecar.outbound.policy_files.loader import (
    LoadedPolicy,
    Source,
    content_version,
    list_files,
    parse_policy,
    read_sources,
)
from sidecar.outbound.policy_files.retiring import Remains

WATCH_INTERVAL_SECONDS = 0.25
"""Between two looks at the files' stamps; with SETTLE_SECONDS a change is read in half a second,
so that a new price is in force on every gateway within one."""
SETTLE_SECONDS = 0.2
"""How long changed files have to stay as they are before they are believed: an editor that
empties a file before it writes would otherwise drop its rules for a moment."""
RETRY_SECONDS = 30.0
"""Until files are tried again that could not be compiled for no reason of theirs; a try that takes
all memory, or all its time, must not follow upon the other."""
_RACY_NS = 2_000_000_000
_Stamps = tuple[tuple[str, int, int, int], ...]


class PolicyHolder:
    """
    Holds the current policy snapshot of a folder and replaces it when the files change.

    A folder that cannot be used keeps the last good policy, raises the gauge
    `sidecar_policy_reload_failing` and logs every problem. `close` it in the end.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        on_change: Callable[[], None] = lambda: None,
        compiler: Callable[[], AbstractAsyncContextManager[Compiler]] = compile_process,
    ) -> None:
        """
        Name the folder; nothing is read yet.

        Args:
            directory: The folder of the *.yaml files.
            settle_seconds: How long changed files have to stay unchanged.
            on_change: Told when another policy is in force here.
            compiler: Makes what compiles one policy, for each policy but the first.
        """
        self._directory = directory
        self._settle_seconds = settle_seconds
        self.on_change = on_change
        self._compiler = compiler
        self._loaded: LoadedPolicy | None = None
        self._tried_version = ""
        self._stamps: _Stamps = ()
        self._read_at_ns = 0
        self._failure = ""
        self._retry_at: float | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._asked = asyncio.Event()

    def current(self) -> Policy:
        """The snapshot; take it once per check."""
        return self.loaded().policy

    def loaded(self) -> LoadedPolicy:
        """The snapshot with its files and tests."""
        if self._loaded is None:
            raise InvariantViolated("the policy is asked for before it was loaded")
        return self._loaded

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the files on disk are not in force, line by line; empty if they are."""
        return tuple(self._failure.splitlines())

    @property
    def retiring(self) -> int:
        """Policies that were replaced and are yet to be freed."""
        return len(self._retiring)

    def look_soon(self) -> None:
        """Look for changes now rather than at the next interval; a signal may call it."""
        self._asked.set()

    async def load_initial(self) -> LoadedPolicy:
        """
        Load for the first time, in this process: nobody waits for its loop yet.

        Raises:
            ConfigError: If the files cannot be used; there is no policy to fall back to.
        """
        async with self._lock:
            sources, _ = await asyncio.to_thread(self._read)
            self._adopt(await asyncio.to_thread(parse_policy, sources))
        return self.loaded()

    async def reload(self) -> bool:
        """Read the files again now; True if they are in force, False if the old policy stays."""
        async with self._lock:
            try:
                async with self._compiler() as compiler:
                    sources, version = await asyncio.to_thread(self._read)
                    return await self._try_adopt(compiler, sources, version)
            except ConfigError as error:
                self._fail(error)
                return False

    async def watch(
        self, stop: asyncio.Event, interval_seconds: float = WATCH_INTERVAL_SECONDS
    ) -> None:
        """Look for changes until told to stop; files that did not change are not parsed again."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                asked = asyncio.ensure_future(self._asked.wait())
                await asyncio.wait(
                    {stopped, asked}, timeout=interval_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                asked.cancel()
                self._asked.clear()
                if not stop.is_set():
                    await self._look_until(stopped)
        finally:
            stopped.cancel()

    async def close(self) -> None:
        """Leave alone what is yet to be freed of policies that were replaced."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _look_until(self, stopped: "asyncio.Task[Literal[True]]") -> None:
        """Look, but give a policy up that is being compiled when the process is to stop."""
        looking: asyncio.Future[None] = asyncio.ensure_future(self._look())
        either: set[asyncio.Future[Any]] = {looking, stopped}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            looking.cancel()
            await asyncio.wait({looking})
        if not looking.cancelled():
            looking.result()

    async def _look(self) -> None:
        async with self._lock:
            try:
                if not await asyncio.to_thread(self._may_have_changed):
                    return
                _, version = await asyncio.to_thread(self._read)
                if version == self._tried_version:
                    self._recover()
                    return
                # It gets ready while the files settle.
                async with self._compiler() as compiler:
                    await asyncio.sleep(self._settle_seconds)
                    sources, settled = await asyncio.to_thread(self._read)
                    if settled == version:
                        await self._try_adopt(compiler, sources, version)
                    else:
                        self._stamps = ()  # Still being written; look again next time.
            except CompilerError as error:
                self._fail(error)
            except ConfigError as error:
                self._stamps = ()  # The folder may come back just as it was.
                self._fail(error)

    async def _try_adopt(
        self, compiler: Compiler, sources: tuple[Source, ...], version: str
    ) -> bool:
        try:
            loaded = await compiler.compile(sources)
        except CompilerError as error:
            self._fail(error)
            return False
        except ConfigError as error:
            self._tried_version = version
            self._fail(error)
            return False
        remains = None if self._loaded is None else Remains(self._loaded)
        await asyncio.sleep(0)  # Both are steps of a millisecond or two.
        self._adopt(loaded)
        if remains is not None:
            self._retire(remains)
        return True

    def _adopt(self, loaded: LoadedPolicy) -> None:
        self._loaded = loaded
        self._tried_version = loaded.policy.version
        self._clear()
        self.on_change()
        telemetry.get_logger().info(
            "policy_loaded", policy_version=loaded.policy.version, files=len(loaded.files)
        )

    def _retire(self, remains: Remains) -> None:
        if not remains.small:
            task = asyncio.create_task(remains.free())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _recover(self) -> None:
        """The files are again those of the policy in force, so nothing fails any more."""
        if self._failure and self._tried_version == self.current().version:
            self._clear()
            telemetry.get_logger().info("policy_recovered", policy_version=self.current().version)

    def _clear(self) -> None:
        self._failure = ""
        self._retry_at = None
        telemetry.POLICY_RELOAD_FAILING.set(0)

    def _fail(self, error: ConfigError) -> None:
        transient = isinstance(error, CompilerError)
        self._retry_at = time.monotonic() + RETRY_SECONDS if transient else None
        telemetry.POLICY_RELOAD_FAILING.set(1)
        if str(error) == self._failure:
            return  # A folder that stays away is told once, not each second.
        self._failure = str(error)
        telemetry.get_logger().error(
            "policy_reload_failed",
            policy_version=self._loaded.policy.version if self._loaded else "",
            problems=str(error).splitlines(),
        )

    def _read(self) -> tuple[tuple[Source, ...], str]:
        """
        Read the files, and their version.

        Their stamps from before are remembered, so that no change is missed.
        """
        self._stamps = self._stamp()
        self._read_at_ns = time.time_ns()
        sources = read_sources(self._directory)
        return sources, content_version(sources)

    def _may_have_changed(self) -> bool:
        """
        Whether stamps differ, or were so young when read that a change could hide in them.

        File times are compared with the same machine's clock; both are wall time. What could not
        be compiled for no reason of its own counts as changed once it may be tried again.
        """
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            return True
        stamps = self._stamp()
        if stamps != self._stamps:
            return True
        newest = max((modified for _, modified, _, _ in stamps), default=0)
        return self._read_at_ns - newest < _RACY_NS

    def _stamp(self) -> _Stamps:
        stamps: list[tuple[str, int, int, int]] = []
        for path in list_files(self._directory):
            try:
                status = path.stat()
            except OSError as error:
                raise ConfigError(f"policy file {path} cannot be read: {error.strerror}") from error
            stamps.append((path.name, status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(stamps)
