"""The policy in force: swapped as a whole, and kept where its files turn bad."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from sidecar import telemetry
from sidecar.domain.errors import ConfigError, InvariantViolated
from sidecar.domain.policy import Policy
from sidecar.outbound.policy_files.loader import (
    FileCache,
    LoadedPolicy,
    Source,
    content_version,
    list_files,
    parse_policy,
    read_sources,
)

WATCH_INTERVAL_SECONDS = 0.25
"""Between two looks at the files' stamps; with SETTLE_SECONDS a change is read in half a second,
so that a new price is in force on every gateway within one."""
SETTLE_SECONDS = 0.2
"""How long changed files have to stay as they are before they are believed: an editor that
empties a file before it writes would otherwise drop its rules for a moment."""
_RACY_NS = 2_000_000_000
_Stamps = tuple[tuple[str, int, int, int], ...]


class PolicyHolder:
    """
    Holds the current policy snapshot of a folder and replaces it when the files change.

    A folder that cannot be used keeps the last good policy, raises the gauge
    `sidecar_policy_reload_failing` and logs every problem.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Name the folder; nothing is read yet.

        Args:
            directory: The folder of the *.yaml files.
            settle_seconds: How long changed files have to stay unchanged.
            on_change: Told when another policy is in force here.
        """
        self._directory = directory
        self._settle_seconds = settle_seconds
        self.on_change = on_change
        self._loaded: LoadedPolicy | None = None
        self._cache = FileCache()
        self._tried_version = ""
        self._stamps: _Stamps = ()
        self._read_at_ns = 0
        self._failure = ""
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

    def look_soon(self) -> None:
        """Look for changes now rather than at the next interval; a signal may call it."""
        self._asked.set()

    async def load_initial(self) -> LoadedPolicy:
        """
        Load for the first time.

        Raises:
            ConfigError: If the files cannot be used; there is no policy to fall back to.
        """
        async with self._lock:
            sources = await asyncio.to_thread(self._read)
            await self._adopt(sources)
        return self.loaded()

    async def reload(self) -> bool:
        """Read the files again now; True if they are in force, False if the old policy stays."""
        async with self._lock:
            try:
                sources = await asyncio.to_thread(self._read)
            except ConfigError as error:
                self._fail(error)
                return False
            return await self._try_adopt(sources)

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
                    async with self._lock:
                        await self._look()
        finally:
            stopped.cancel()

    async def _look(self) -> None:
        try:
            if not await asyncio.to_thread(self._may_have_changed):
                return
            sources = await asyncio.to_thread(self._read)
            if content_version(sources) == self._tried_version:
                self._recover()
                return
            await asyncio.sleep(self._settle_seconds)
            settled = await asyncio.to_thread(self._read)
        except ConfigError as error:
            self._stamps = ()  # The folder may come back just as it was.
            self._fail(error)
            return
        if content_version(settled) == content_version(sources):
            await self._try_adopt(settled)
        else:
            self._stamps = ()  # Still being written; look again next time.

    async def _try_adopt(self, sources: tuple[Source, ...]) -> bool:
        try:
            await self._adopt(sources)
        except ConfigError as error:
            self._tried_version = content_version(sources)
            self._fail(error)
            return False
        return True

    async def _adopt(self, sources: tuple[Source, ...]) -> None:
        loaded = await asyncio.to_thread(parse_policy, sources, self._cache)
        self._loaded = loaded
        self._tried_version = loaded.policy.version
        self._clear()
        self.on_change()
        telemetry.get_logger().info(
            "policy_loaded", policy_version=loaded.policy.version, files=len(loaded.files)
        )

    def _recover(self) -> None:
        """The files are again those of the policy in force, so nothing fails any more."""
        if self._failure and self._tried_version == self.current().version:
            self._clear()
            telemetry.get_logger().info("policy_recovered", policy_version=self.current().version)

    def _clear(self) -> None:
        self._failure = ""
        telemetry.POLICY_RELOAD_FAILING.set(0)

    def _fail(self, error: ConfigError) -> None:
        telemetry.POLICY_RELOAD_FAILING.set(1)
        if str(error) == self._failure:
            return  # A folder that stays away is told once, not each second.
        self._failure = str(error)
        telemetry.get_logger().error(
            "policy_reload_failed",
            policy_version=self._loaded.policy.version if self._loaded else "",
            problems=str(error).splitlines(),
        )

    def _read(self) -> tuple[Source, ...]:
        """Read the files and remember their stamps from before, so that no change is missed."""
        self._stamps = self._stamp()
        self._read_at_ns = time.time_ns()
        return read_sources(self._directory)

    def _may_have_changed(self) -> bool:
        """
        Whether stamps differ, or were so young when read that a change could hide in them.

        File times are compared with the same machine's clock; both are wall time.
        """
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
