"""The journal's folder: one process at a time, files of its own user alone."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sidecar.domain.errors import ConfigError

ASIDE_BYTES_MAX: Final = 67_108_864
"""What may lie beside the segments of damaged bytes; more is reported and not kept."""
_SEGMENT: Final = re.compile(r"(\d{16})\.journal")


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """
    Make the folder if need be, and hold it for this process.

    The kernel drops the lock with the process: there is no stale one.

    Raises:
        ConfigError: It cannot be made, or another process has it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the journal's folder {path} cannot be used: {error.strerror}; set "
            "SIDECAR_JOURNAL_DIR to one that this user may write to, or SIDECAR_JOURNAL=off"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"the journal's folder {path} is in use by another process; each gateway "
                "process needs one of its own (SIDECAR_JOURNAL_DIR)"
            ) from error
        yield
    finally:
        os.close(descriptor)


def segment_path(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"{number:016d}.journal"


def list_segments(folder: Path) -> list[int]:
    """Numbers of the segments that are there, oldest first."""
    found = (_SEGMENT.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def create_file(path: Path) -> int:
    """Open a new file for writing, known to its folder after a power cut too."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        sync_folder(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it; a file may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new content: after a crash it has the old or the new, never a part."""
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    sync_folder(path.parent)


def cut_file(path: Path, size: int) -> None:
    """Cut a file to a size, durably."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(segment: Path, offset: int, content: bytes) -> Path | None:
    """
    Copy damaged bytes to a file beside the segment, for people.

    Returns:
        The file, or None if the folder holds enough of these already.
    """
    path = segment.with_name(f"{segment.stem}-{offset}.damaged")
    beside = sum(p.stat().st_size for p in segment.parent.glob("*.damaged") if p != path)
    if beside + len(content) > ASIDE_BYTES_MAX:
        return None
    replace_file(path, content)
    return path


def sync_folder(path: Path) -> None:
    """Make new names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
