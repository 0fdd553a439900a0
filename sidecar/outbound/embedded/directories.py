"""
Where the embedded servers keep things, and which user may walk there.

We create directories and set owner and mode of those alone. What is already there is never changed.
"""

import os
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.domain.errors import ConfigError

# sun_path without its closing zero byte: 108 bytes on Linux, 104 on macOS and the BSDs.
SOCKET_PATH_BYTES_MAX: Final = 107 if sys.platform == "linux" else 103
ROOT_DATA_DIR: Final = Path("/var/lib/sidecar")
_SHORT_PREFIX: Final = "sidecar-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An existing user of this machine that a server runs as."""

    name: str
    uid: int
    gid: int


def default_data_dir() -> Path:
    """
    Return the data directory that is used when none is set.

    `$XDG_STATE_HOME/sidecar`, else `~/.local/state/sidecar`. For root it is /var/lib/sidecar,
    because root's home is closed to the unprivileged user that Postgres runs as.

    Raises:
        ConfigError: This user has no home directory.
    """
    if os.geteuid() == 0:
        return ROOT_DATA_DIR
    state_home = os.environ.get("XDG_STATE_HOME", "")
    if Path(state_home).is_absolute():  # The XDG specification has relative ones ignored.
        return Path(state_home) / "sidecar"
    try:
        return Path.home() / ".local" / "state" / "sidecar"
    except RuntimeError as error:
        raise ConfigError("This user has no home directory; set SIDECAR_DATA_DIR.") from error


def unprivileged_account(preferred: str | None = None) -> Account:
    """
    Return the existing user that a server runs as when Sidecar is root.

    `preferred` if given, else `postgres`, else `nobody`, else the lowest uid above 0. Users are
    never added. Whoever can become this user can read the server's files.

    Raises:
        ConfigError: `preferred` does not exist or is root, or there is no user but root.
    """
    if preferred is not None:
        try:
            entry = pwd.getpwnam(preferred)
        except KeyError as error:
            raise ConfigError(f"There is no user {preferred!r} to run Postgres as.") from error
        if entry.pw_uid == 0:
            raise ConfigError(
                f"The user {preferred!r} is root; Postgres needs an unprivileged one."
            )
        return _account(entry)
    entries = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid > 0}
    for name in ("postgres", "nobody"):
        if name in entries:
            return _account(entries[name])
    if not entries:
        raise ConfigError(
            "Postgres refuses to run as root and this machine has no other user. "
            "Run sidecar as an ordinary user, or set SIDECAR_POSTGRES_DSN."
        )
    return _account(min(entries.values(), key=lambda entry: entry.pw_uid))


def account_of(path: Path) -> Account:
    """Return the owner of a path, whether or not the owner still has a name."""
    status = path.stat()
    try:
        return _account(pwd.getpwuid(status.st_uid))
    except KeyError:
        return Account(name=str(status.st_uid), uid=status.st_uid, gid=status.st_gid)


def ensure_directory(path: Path, *, mode: int, owner: Account | None = None) -> None:
    """
    Make a directory with this mode and owner, unless it is there.

    Raises:
        ConfigError: It cannot be made, or something else has its name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
            return
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
        path.chmod(mode)  # The umask took its part from mkdir's mode.
    except OSError as error:
        raise ConfigError(
            f"Cannot create the directory {path}: {error.strerror}. Mend it or set "
            "SIDECAR_DATA_DIR to a directory that this user may write to."
        ) from error


def ensure_server_directory(data_dir: Path, name: str) -> Path:
    """
    Make the data directory and one server's folder in it; return the folder, links resolved.

    For root they may be walked through (0711), as the server's user has to; else 0700.
    """
    mode = 0o711 if os.geteuid() == 0 else 0o700
    ensure_directory(data_dir, mode=mode)
    server_dir = data_dir / name
    ensure_directory(server_dir, mode=mode)
    if server_dir.stat().st_uid != os.geteuid():
        raise ConfigError(
            f"{server_dir} belongs to user {account_of(server_dir).name}, who started Sidecar "
            "with it before. Run as that user, or set SIDECAR_DATA_DIR to another directory."
        )
    return server_dir.resolve()


def blocking_directory(path: Path, account: Account) -> Path | None:
    """
    Return the outermost directory that keeps an account from reaching `path`, or None.

    Reads mode bits only. An access list that grants more is not seen, which costs a detour but
    never access.
    """
    for directory in reversed(path.resolve().parents):
        if not _permits(directory, account, 0o1):
            return directory
    return None


def is_readable(path: Path, account: Account) -> bool:
    """Whether an account can reach and read a file, and run it if anybody can."""
    wanted = 0o5 if path.stat().st_mode & 0o111 else 0o4
    return blocking_directory(path, account) is None and _permits(path, account, wanted)


def fits_socket(directory: Path, file_name: str) -> bool:
    """Whether a socket of this name in this directory stays within the system's path limit."""
    return len(os.fsencode(directory / file_name)) <= SOCKET_PATH_BYTES_MAX


@contextmanager
def short_directory(server_dir: Path, account: Account | None) -> Iterator[Path]:
    """
    Give a new directory with a short path that `account` can walk to; remove it at the end.

    It stays ours alone to write to, so put a 0700 folder of the account's into it. Its path is
    noted in `server_dir`, so that one which a killed process left is removed at the next start.
    The caller holds the lock on `server_dir`.
    """
    note = server_dir / "short-directory"
    remove_short_directory(server_dir)
    path = _make_short_directory(account)
    try:
        note.write_text(f"{path}\n", encoding="utf-8")
        if account is not None:
            path.chmod(0o711)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        note.unlink(missing_ok=True)


def remove_short_directory(server_dir: Path) -> None:
    """Remove the short directory that a killed process left, if one is noted."""
    note = server_dir / "short-directory"
    try:
        path = Path(note.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return
    # The note is ours alone to write; the name is looked at so that a damaged note does no harm.
    if path.is_absolute() and path.name.startswith(_SHORT_PREFIX) and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    note.unlink(missing_ok=True)


def _make_short_directory(account: Account | None) -> Path:
    bases = dict.fromkeys(Path(base) for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"))  # noqa: S108  Bases for mkdtemp.
    for base in bases:
        # The longest name that will be put into it is Postgres's.
        candidate = base / f"{_SHORT_PREFIX}xxxxxxxx" / "run"
        if not base.is_dir() or not fits_socket(candidate, ".s.PGSQL.5432"):
            continue
        if account is not None and blocking_directory(base / "name", account) is not None:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=_SHORT_PREFIX, dir=base))
        except OSError:
            continue
    tried = ", ".join(str(base) for base in bases)
    raise ConfigError(
        f"No place for a socket: the data directory's path is too long or closed to the server's "
        f"user, and so is each of {tried}. Set SIDECAR_DATA_DIR to a short path."
    )


def _permits(path: Path, account: Account, wanted: int) -> bool:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == account.uid:
        mode >>= 6
    elif status.st_gid == account.gid:
        mode >>= 3
    return mode & wanted == wanted


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
